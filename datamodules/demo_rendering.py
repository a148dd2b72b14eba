"""How the demo data set is drawn: textures, moving regions, and the image that a camera sees of them.

Points of the image plane are complex numbers ``x + iy`` (pixels; pixel centres at ``.5``), so that translation,
rotation and change of scale are one similarity, ``p = centre + pose * z``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DIRECTIONS = 1024  # at which an outline is sampled; linear in between
VISIBLE_AREA = 1 / 149  # of the image: 120 pixels of 112 x 160

Array = NDArray[np.floating]
Points = NDArray[np.complexfloating]


@dataclass(frozen=True)
class Texture:
    """A periodic colour tile: a scalar field that runs through a palette.

    Attributes:
        tile: ``(S, S, 3)`` float32 in [0, 255].
    """

    tile: Array

    @classmethod
    def draw(cls, rng: np.random.Generator, palette: Array, side: int) -> Texture:
        """Colours ``palette[(P - 1) f]``, linearly interpolated, of a random field ``f`` in [0, 1].

        The field is one of noise, spots, stripes, waves and checks, of random wavelength and direction, and fine grain.

        Args:
            rng: source of randomness.
            palette: ``(P, 3)`` in [0, 255].
            side: ``S``, pixels.
        """
        field = np.clip(_field(rng, side) + 0.12 * noise(rng, side, 4), 0, 1)
        stops = np.linspace(0, 1, len(palette))
        return cls(np.stack([np.interp(field, stops, channel) for channel in palette.T], -1).astype(np.float32))

    def sample(self, points: Points) -> Array:
        """Colours at ``points`` (any shape), in texels, by bilinear interpolation on the torus: shape + ``(3,)``."""
        side = len(self.tile)
        x, y = np.floor(points.real), np.floor(points.imag)
        fx, fy = (points.real - x)[..., None], (points.imag - y)[..., None]
        j, i = x.astype(np.intp) % side, y.astype(np.intp) % side
        right, below = (j + 1) % side, (i + 1) % side
        top = self.tile[i, j] * (1 - fx) + self.tile[i, right] * fx
        bottom = self.tile[below, j] * (1 - fx) + self.tile[below, right] * fx
        return top * (1 - fy) + bottom * fy


@dataclass(frozen=True)
class Layer:
    """A star-shaped region ``|z| < radius(arg z)`` with its texture, moving by a similarity.

    Attributes:
        centre: ``(T,)`` complex, position in pixels.
        pose: ``(T,)`` complex, size (pixels per unit of ``z``) times rotation.
        radius: ``(T, DIRECTIONS)`` of the outline at equal angles, about 1.
        texture: carried rigidly with the region.
        label: 1..K, or 0 for occluders and distractors, which are not annotated.
    """

    centre: Points
    pose: Points
    radius: Array
    texture: Texture
    label: int = 0

    def paint(self, t: int, image: Array, labels: NDArray[np.uint8]) -> None:
        """Draw frame ``t`` over ``image`` ``(H, W, 3)`` and ``labels`` ``(H, W)``, in place.

        A pixel gets the label where its centre lies inside; its opacity is the share of 2 x 2 points that lie inside.
        """
        centre, reach = self.centre[t], abs(self.pose[t]) * self.radius[t].max() + 1
        x0, y0 = max(0, int(centre.real - reach)), max(0, int(centre.imag - reach))
        x1, y1 = int(centre.real + reach) + 1, int(centre.imag + reach) + 1
        patch, target = image[y0 : max(y0, y1), x0 : max(x0, x1)], labels[y0 : max(y0, y1), x0 : max(x0, x1)]
        if target.size == 0:
            return
        height, width = target.shape
        z, depth = self._locate(t, grid(height, width, 1) + complex(x0, y0))
        target[depth < 1] = self.label
        _, fine = self._locate(t, grid(height, width, 2) + complex(x0, y0))
        alpha = (fine < 1).reshape(height, 2, width, 2).mean((1, 3))[..., None]
        shade = 1.05 - 0.3 * np.minimum(depth, 1)[..., None] ** 2
        patch += alpha * (shade * self.texture.sample(z * abs(self.pose[0])) - patch)

    def _locate(self, t: int, points: Points) -> tuple[Points, Array]:
        """``z`` of the points, and ``|z| / radius(arg z)``: below 1 inside."""
        z = (points - self.centre[t]) / self.pose[t]
        direction = np.angle(z) * (DIRECTIONS / (2 * np.pi)) + DIRECTIONS
        before = direction.astype(np.intp)
        first, second = self.radius[t][before % DIRECTIONS], self.radius[t][(before + 1) % DIRECTIONS]
        return z, np.abs(z) / (first + (direction - before) * (second - first))

    def area(self, t: int) -> float:
        """Area in pixels, hidden or not: ``|pose|^2 / 2`` times the integral of ``radius^2``."""
        return float(np.pi * abs(self.pose[t]) ** 2 * (self.radius[t] ** 2).mean())


@dataclass(frozen=True)
class Scene:
    """A video before it is rendered.

    Attributes:
        size: ``(H, W)``.
        background: seen through the camera: pixel ``p`` shows texel ``camera_centre + camera_pose * p``.
        camera_centre: ``(T,)`` complex.
        camera_pose: ``(T,)`` complex.
        layers: from the farthest to the nearest.
        light: ``(T, 3)`` gain of each colour channel.
    """

    size: tuple[int, int]
    background: Texture
    camera_centre: Points
    camera_pose: Points
    layers: Sequence[Layer]
    light: Array

    def frame(self, t: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image ``(H, W, 3)`` uint8 and labels ``(H, W)`` uint8 of frame ``t``."""
        image = self.background.sample(self.camera_centre[t] + self.camera_pose[t] * grid(*self.size, 1))
        labels = np.zeros(self.size, np.uint8)
        for layer in self.layers:
            layer.paint(t, image, labels)
        return np.clip(image * self.light[t], 0, 255).astype(np.uint8), labels

    def starts_visible(self) -> bool:
        """Whether 3/4 of every annotated object, and enough pixels of it, can be seen in frame 0."""
        counts = np.bincount(self.frame(0)[1].ravel(), minlength=256)
        least = VISIBLE_AREA * self.size[0] * self.size[1]
        return all(counts[one.label] >= max(least, 0.75 * one.area(0)) for one in self.layers if one.label)


def grid(height: int, width: int, factor: int) -> Points:
    """Centres of the ``factor`` x ``factor`` parts of every pixel, ``x + iy``: ``(factor H, factor W)`` complex64."""
    y, x = (np.arange(height * factor) + 0.5) / factor, (np.arange(width * factor) + 0.5) / factor
    return (x + 1j * y[:, None]).astype(np.complex64)


def noise(rng: np.random.Generator, side: int, wavelength: float) -> Array:
    """Periodic noise around one wavelength (pixels): white noise times a Gaussian ring in frequency; mean 0, std 1."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)) * wavelength
    ring = np.exp(-((frequency - 1) ** 2) / (2 * 0.3**2))
    ring[0, 0] = 0
    values = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((side, side))) * ring, (side, side))
    return values / values.std()


def _field(rng: np.random.Generator, side: int) -> Array:
    """The scalar field of a texture, ``(S, S)`` about in [0, 1]; periodic because all wave numbers are integers."""
    pattern, wavelength = rng.choice(["noise", "spots", "stripes", "waves", "checks"]), rng.uniform(10, 22)
    y, x = 2 * np.pi * np.arange(side)[:, None] / side, 2 * np.pi * np.arange(side) / side
    wave, angle = side / wavelength, rng.uniform(0, np.pi)
    across = round(wave * np.cos(angle)) * x + round(wave * np.sin(angle)) * y
    if pattern == "stripes":
        field = 2.5 * np.sin(across)
    elif pattern == "waves":
        field = 1.5 * np.sin(across + 1.2 * noise(rng, side, 2 * wavelength))
    elif pattern == "checks":
        field = 4 * np.sin(across) * np.sin(round(wave * np.sin(angle)) * x - round(wave * np.cos(angle)) * y)
    elif pattern == "spots":
        field = 3 * (noise(rng, side, wavelength) - 0.5)
    else:
        field = noise(rng, side, wavelength)
    return 0.5 + 0.5 * np.tanh(field)
