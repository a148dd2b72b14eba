"""One matrix a frame: geometry, antialiasing, fill; and one of colours."""

from __future__ import annotations

import random

import albumentations as A
import numpy as np
import pytest

from datamodules import warps
from datamodules.colours import GREY, Tone, mean_luma
from datamodules.splines import CoarseSpline


def ramps(height: int, width: int) -> np.ndarray:
    """Red tells the column, green the row; both are steep enough to be read to a small part of a pixel."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([4 * columns, 4 * rows, np.full_like(rows, 255)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("canvas", [(20, 30), (48, 60), (90, 110)], ids=str)
def test_resizing_is_a_stretch(canvas: tuple[int, int]) -> None:
    picture = ramps(48, 60)
    matrix = warps.stretch(canvas[1] / 60, canvas[0] / 48)
    ours, theirs = warps.warp_picture(picture, matrix, canvas), A.Resize(*canvas, area_for_downscale="image")
    inner = (slice(2, -2), slice(2, -2))  # where enlarged, edges mix with the fill
    difference = ours[inner].astype(int) - theirs(image=picture)["image"][inner]
    assert np.abs(difference).max() <= 2


@pytest.mark.parametrize("flip", [False, True])
def test_a_point_goes_where_the_matrix_says(flip: bool) -> None:
    picture, canvas = ramps(40, 50), (32, 36)
    affine = A.Affine(rotate=(10, 10), shear={"x": (5, 5), "y": (0, 0)}, p=1)
    matrix = affine.get_params_dependent_on_data({"shape": (40, 50)}, {})["matrix"]
    matrix = warps.shift(-3, -5) @ (warps.mirror(50) if flip else np.eye(3)) @ matrix
    warped = warps.warp_picture(picture, matrix, canvas).astype(float)
    rows, columns = np.mgrid[: canvas[0], : canvas[1]]
    x, y, _ = np.linalg.solve(matrix, np.stack([columns.ravel(), rows.ravel(), np.ones(rows.size)]))
    inside = (x > 0) & (x < 49) & (y > 0) & (y < 39)
    assert inside.sum() > 500
    assert np.abs(warped[..., 0].ravel() - 4 * x)[inside].max() < 0.75
    assert np.abs(warped[..., 1].ravel() - 4 * y)[inside].max() < 0.75
    # the mask is the nearest pixel of the same warp
    nearest = warps.warp_mask(picture[..., 0], matrix, canvas).astype(float).ravel()
    assert np.abs(nearest - 4 * x)[inside].max() <= 2.1


def test_fine_stripes_become_grey_where_they_are_shrunk() -> None:
    stripes = np.zeros((120, 120, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    turn = A.Affine(rotate=(7, 7), p=1).get_params_dependent_on_data({"shape": (40, 40)}, {})["matrix"]
    shrunk = warps.warp_picture(stripes, turn @ warps.stretch(1 / 3, 1 / 3), (40, 40))[8:-8, 8:-8]
    assert shrunk.mean() == pytest.approx(127.5, abs=3)
    assert shrunk.std() < 50  # of 127.5; a third of a stripe is left by an average of three pixels


def test_uncovered_pixels_are_mean_colour_and_background() -> None:
    white = np.full((80, 80, 3), 255, dtype=np.uint8)
    turn = A.Affine(rotate=(15, 15), p=1).get_params_dependent_on_data({"shape": (80, 80)}, {})["matrix"]
    warped, mask = warps.warp_picture(white, turn, (80, 80)), warps.warp_mask(white[..., 0], turn, (80, 80))
    corners = [0, 0, -1, -1], [0, -1, 0, -1]
    assert (warped[corners] == warps.MEAN_COLOUR).all()
    assert not mask[corners].any()
    assert (warped[mask == 0].mean(axis=0) < 150).all()


def test_the_part_that_is_seen_changes_nothing() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    matrix = warps.shift(-20, -10) @ warps.mirror(80)
    part, rest = warps.seen(picture, matrix, (30, 40))
    assert part.shape == (30, 40, 3)
    whole = warps.warp_picture(picture, matrix, (30, 40))
    assert np.array_equal(whole, picture[:, ::-1][10:40, 20:60])
    assert np.array_equal(warps.warp_picture(part, rest, (30, 40)), whole)


@pytest.mark.parametrize("seed", range(6))
def test_tones_are_albumentations_jitters_in_turn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    picture = rng.integers(50, 200, (24, 24, 3), dtype=np.uint8)  # nothing is clipped on the way
    jitters = [A.ColorJitter(0.1, 0.05, 0.05, 0), A.ColorJitter(0.05, 0.05, 0.05, 0)]
    tone, mean, expected = Tone(), mean_luma(picture), picture
    for number, jitter in enumerate(jitters):
        jitter.set_random_state(rng, random.Random(seed))
        drawn = jitter.get_params()
        tone, expected = tone.jittered(drawn, mean), jitter.apply(expected, **drawn)
        if number == 0 and seed % 2:
            tone, expected = tone.then(GREY), A.ToGray(p=1)(image=expected)["image"]
    difference = tone(picture).astype(float) - expected
    assert difference.mean() == pytest.approx(1.5, abs=1.5)  # they cut off what is behind the point, six or seven times
    assert np.abs(difference - difference.mean()).max() < 4


def test_coarse_spline_is_the_spline() -> None:
    for seed in range(5):
        maps = []
        for kind in (A.ThinPlateSpline, CoarseSpline):
            spline = kind((0.02, 0.1))
            spline.set_random_state(np.random.default_rng(seed), random.Random(seed))
            maps.append(spline.get_params_dependent_on_data({"shape": (100, 140)}, {}))
        for name in ("map_x", "map_y"):
            error = np.abs(maps[0][name] - maps[1][name])
            assert error.mean() < 0.02
            assert error.max() < 0.3
            assert maps[1][name].dtype == np.float32
