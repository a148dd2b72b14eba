"""The drawing of the demo set against plain loops: textures, masks, opacity, order of the layers, occlusion."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from datamodules.demo_rendering import DIRECTIONS, Layer, Scene, Texture, noise
from datamodules.demo_scenes import draw_scene


def ellipse(centre: complex, pose: complex, texture: Texture, half_axes: tuple[float, float]) -> Layer:
    """A layer of one frame with an elliptic outline."""
    angle = np.arange(DIRECTIONS) * 2 * np.pi / DIRECTIONS
    radius = 1 / np.hypot(np.cos(angle) / half_axes[0], np.sin(angle) / half_axes[1])
    return Layer(np.array([centre], np.complex64), np.array([pose], np.complex64), radius[None], texture, 1)


def plain(value: float) -> Texture:
    """A texture of one grey value."""
    return Texture(np.full((8, 8, 3), value, np.float32))


def one_frame(*layers: Layer, size: tuple[int, int] = (40, 50)) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Layers over a black background in neutral light."""
    zero, one = np.zeros(1, np.complex64), np.ones(1, np.complex64)
    return Scene(size, plain(0), zero, one, layers, np.ones((1, 3))).frame(0)


def test_texture_is_sampled_bilinearly_on_the_torus() -> None:
    rng = np.random.default_rng(0)
    tile = rng.uniform(0, 255, (5, 5, 3)).astype(np.float32)
    points = rng.uniform(-12, 12, 50) + 1j * rng.uniform(-12, 12, 50)
    for point, colour in zip(points, Texture(tile).sample(points), strict=True):
        expected = np.zeros(3)
        for i in range(-20, 20):
            for j in range(-20, 20):
                weight = max(0, 1 - abs(point.real - j)) * max(0, 1 - abs(point.imag - i))
                expected += weight * tile[i % 5, j % 5]
        np.testing.assert_allclose(colour, expected, rtol=1e-4)


def test_noise_is_centred_periodic_and_band_limited() -> None:
    values = noise(np.random.default_rng(0), 128, 16)
    assert abs(values.mean()) < 1e-9
    assert abs(values.std() - 1) < 1e-9
    power = np.abs(np.fft.fft2(values)) ** 2
    frequency = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128))
    assert power[(frequency > 0.2 / 16) & (frequency < 1.8 / 16)].sum() > 0.97 * power.sum()


def test_mask_is_the_rotated_ellipse_at_pixel_centres() -> None:
    angle, scale, centre = 0.7, 9.0, 22.3 + 18.1j
    layer = ellipse(centre, scale * np.exp(1j * angle), plain(200), (1.4, 0.8))
    _, labels = one_frame(layer)
    expected = np.zeros_like(labels)
    for i in range(40):
        for j in range(50):
            dx, dy = j + 0.5 - centre.real, i + 0.5 - centre.imag
            along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
            expected[i, j] = (along / (scale * 1.4)) ** 2 + (across / (scale * 0.8)) ** 2 < 1
    np.testing.assert_array_equal(labels, expected)
    assert layer.area(0) == pytest.approx(np.pi * scale**2 * 1.4 * 0.8, rel=1e-4)
    assert labels.sum() == pytest.approx(layer.area(0), rel=0.03)


@pytest.mark.parametrize("centre", [25 + 20j, 2 + 39j, 49 + 1j])
def test_image_agrees_with_mask_and_edges_are_smooth(centre: complex) -> None:
    image, labels = one_frame(ellipse(centre, 10, plain(200), (1.2, 0.9)))
    inside, outside = image[labels == 1], image[labels == 0]
    assert inside.min() > 0
    assert np.mean(inside > 100) > 0.95
    assert np.mean(outside == 0) > 0.95
    assert len(np.unique(image)) > 4


def test_opacity_is_the_share_of_four_points_inside() -> None:
    image, labels = one_frame(ellipse(25.2 + 20.3j, 10, plain(200), (1, 1)))
    for i, j in np.argwhere(labels == 0):
        inside = [np.hypot(j + dx - 25.2, i + dy - 20.3) < 10 for dx in (0.25, 0.75) for dy in (0.25, 0.75)]
        assert image[i, j, 0] == pytest.approx(np.mean(inside) * 0.75 * 200, abs=1.01)


def test_nearer_layers_hide_farther_ones_and_unannotated_ones_clear_the_label() -> None:
    near = ellipse(25 + 20j, 6, plain(90), (1, 1))
    occluder = Layer(near.centre, near.pose, near.radius, near.texture, 0)
    far = ellipse(25 + 20j, 12, plain(200), (1, 1))
    assert one_frame(far, occluder)[1][20, 25] == 0
    assert one_frame(occluder, far)[1][20, 25] == 1
    assert one_frame(far, occluder)[0][20, 25, 0] < 100 < one_frame(occluder, far)[0][20, 25, 0]


def test_a_layer_outside_the_image_changes_nothing() -> None:
    for centre in (-40 + 20j, 100 + 20j, 25 - 40j, 25 + 90j):
        image, labels = one_frame(ellipse(centre, 10, plain(200), (1, 1)))
        assert not image.any()
        assert not labels.any()


@pytest.mark.parametrize("seed", range(3))
def test_the_occluder_hides_part_of_the_first_object_at_half_time(seed: int) -> None:
    scene = draw_scene(np.random.default_rng(seed), (112, 160), 21, ["occlusion"])
    alone = Scene(scene.size, scene.background, scene.camera_centre, scene.camera_pose, scene.layers[:-1], scene.light)
    hidden = (alone.frame(10)[1] == 1).sum() - (scene.frame(10)[1] == 1).sum()
    assert hidden > 0.2 * (alone.frame(10)[1] == 1).sum()
