"""What happens in the demo data set: random scenes, and the paths, outlines and colours of the things in them.

Every random curve over time is an array over the ``T`` frames of the scene. Distances are fractions of the image, so
that scenes of any size look alike; speeds are per frame.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from datamodules.demo_rendering import DIRECTIONS, Array, Layer, Points, Scene, Texture, noise

Generator = np.random.Generator

PHENOMENA = {"occlusion": 0.25, "reentry": 0.18, "distractor": 0.4, "scale": 0.4, "crossing": 0.25, "light": 0.3}
"""What can happen in a video, and the share of the training videos in which it does."""

SHORTEST = 24


def draw_scene(rng: Generator, size: tuple[int, int], frames: int, phenomena: Collection[str], most: int = 3) -> Scene:
    """A random scene of annotated objects, all of them visible in frame 0.

    Args:
        rng: source of randomness; the same state gives the same scene.
        size: ``(H, W)``.
        frames: how many are needed; a scene lasts ``SHORTEST`` frames at least, for something to happen.
        phenomena: which of ``PHENOMENA`` happen.
        most: number of objects at most, 2 or more for a crossing.

    Raises:
        ValueError: no such scene was found, because the image is too narrow.
    """
    for _ in range(100):
        scene = _try_scene(rng, size, max(frames, SHORTEST), phenomena, most)
        if scene.starts_visible():
            return scene
    raise ValueError(f"size {size} of the demo data: the objects do not fit; use a size nearer to (112, 160)")


def _try_scene(rng: Generator, size: tuple[int, int], frames: int, phenomena: Collection[str], most: int) -> Scene:
    """One attempt of ``draw_scene``: the objects may hide one another in frame 0."""
    time = np.arange(frames, dtype=np.float32)
    palettes = [_palette(rng, [], 35)]
    count = int(rng.integers(2 if "crossing" in phenomena else 1, most + 1))
    growth = 0.45 if "scale" in phenomena else 0.1
    layers = []
    for label in range(1, count + 1):
        palettes.append(_palette(rng, palettes, 50))
        scale = min(size) * rng.uniform(0.15, 0.25 if count < 3 else 0.21)
        pose = _pose(rng, frames, scale, growth)
        centre = _wander(rng, size, time)
        if label == 1 and "reentry" in phenomena:
            centre = _leave(rng, size, frames, 1.4 * float(np.abs(pose).max()))
        elif label <= 2 and "crossing" in phenomena:
            centre = _cross(rng, size, frames, -1 if label == 1 else 1)
        layers.append(Layer(centre, pose, _outline(rng, frames), Texture.draw(rng, palettes[-1], 128), label))
    shown = [layers[i] for i in rng.permutation(count)]
    if "distractor" in phenomena:
        shown.insert(0, _look_alike(rng, size, frames, layers[0], palettes))
    if "occlusion" in phenomena:
        shown.append(_occluder(rng, size, frames, layers[0], palettes))
    strength, phase = 0.25 if "light" in phenomena else 0.05, rng.uniform(0, 2 * np.pi)
    tint = phase + rng.uniform(-0.5, 0.5, 3)
    light = 0.9 + strength * np.sin(2 * np.pi * time[:, None] / rng.uniform(30, 60) + tint)
    pan = 256 * complex(*rng.random(2)) + rng.uniform(0.2, 1.5) * time * np.exp(2j * np.pi * rng.random())
    zoom = np.exp(0.15 * _wave(rng, frames) + 0.05j * _wave(rng, frames))
    return Scene(size, _ground(rng, palettes[0]), pan.astype(np.complex64), zoom.astype(np.complex64), shown, light)


def _ground(rng: Generator, palette: Array) -> Texture:
    """A background of two materials that share a palette, divided by a smooth, wide contour."""
    first, second = (Texture.draw(rng, palette[rng.permutation(3)[:2]], 256).tile for _ in range(2))
    share = 0.5 + 0.5 * np.tanh(4 * noise(rng, 256, 110))[..., None]
    return Texture((first * share + second * (1 - share)).astype(np.float32))


def _palette(rng: Generator, used: Sequence[Array], spread: float) -> Array:
    """Three colours, ``(3, 3)`` in [0, 255]; of three draws the one whose mean is farthest from those in use."""
    draws = rng.uniform(30, 225, (3, 1, 3)) + rng.normal(0, spread, (3, 3, 3))
    grey = draws.mean(-1, keepdims=True)
    draws = np.clip(grey + rng.uniform(0.3, 1, (3, 1, 1)) * (draws - grey), 0, 255)
    distance = [min((float(np.linalg.norm((new - old).mean(0))) for old in used), default=0.0) for new in draws]
    return draws[int(np.argmax(distance))]


def _wave(rng: Generator, frames: int) -> Array:
    """A slow sine with a period of 25-50 frames and a random phase: ``(T,)`` in [-1, 1]."""
    return np.sin(2 * np.pi * (np.arange(frames) / rng.uniform(25, 50) + rng.random()))


def _pose(rng: Generator, frames: int, scale: float, growth: float) -> Points:
    """Size ``scale * exp(growth * wave)`` and a slowly turning, swaying rotation."""
    turn = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.03) * np.arange(frames) + 0.2 * _wave(rng, frames)
    return (scale * np.exp(growth * _wave(rng, frames) + 1j * turn)).astype(np.complex64)


def _outline(rng: Generator, frames: int) -> Array:
    """An ellipse times a Fourier series, ``r = e(a) (1 + sum_n c_n(t) cos(n a + p_n(t)))``: ``(T, DIRECTIONS)``."""
    angle = np.arange(DIRECTIONS) * 2 * np.pi / DIRECTIONS
    stretch = rng.uniform(1, 1.35)
    radius = np.ones((frames, DIRECTIONS))
    for n in range(2, 7):
        size = rng.uniform(0, 0.45) / n * (1 + 0.6 * _wave(rng, frames))
        phase = rng.uniform(0, 2 * np.pi) + 0.5 * _wave(rng, frames)
        radius += size[:, None] * np.cos(n * angle + phase[:, None])
    return np.maximum(radius, 0.3) / np.hypot(np.cos(angle) / stretch, np.sin(angle) * stretch)


def _bar(frames: int, half_width: float, half_length: float) -> Array:
    """The outline of a rectangle along the x axis, in units of ``z``: ``(T, DIRECTIONS)``."""
    angle = (np.arange(DIRECTIONS) + 1e-3) * 2 * np.pi / DIRECTIONS
    radius = np.minimum(half_length / np.abs(np.cos(angle)), half_width / np.abs(np.sin(angle)))
    return np.broadcast_to(radius, (frames, DIRECTIONS))


def _wander(rng: Generator, size: tuple[int, int], time: Array) -> Points:
    """A Lissajous path around a random home; the peak speed is 1-3 % of the image side per frame."""
    axes = []
    for side in (size[1], size[0]):
        home, reach = rng.uniform(0.38, 0.62) * side, rng.uniform(0.12, 0.3) * side
        speed = rng.uniform(0.01, 0.03) * side
        axes.append(home + reach * np.sin(speed / reach * time + rng.uniform(0, 2 * np.pi)))
    return (axes[0] + 1j * axes[1]).astype(np.complex64)


def _cross(rng: Generator, size: tuple[int, int], frames: int, side: int) -> Points:
    """From one side (-1 left, 1 right) to the other, through the middle at about half-time."""
    height, width = size
    way = np.cos(np.pi * np.arange(frames) / (frames - 1) * rng.uniform(0.9, 1.1))
    x = width * (0.5 + side * rng.uniform(0.24, 0.32) * way)
    y = height * (rng.uniform(0.42, 0.58) + 0.08 * _wave(rng, frames))
    return (x + 1j * y).astype(np.complex64)


def _leave(rng: Generator, size: tuple[int, int], frames: int, reach: float) -> Points:
    """Out through the left or right edge by ``reach`` pixels at half-time, and back: ``distance sin^2``."""
    height, width = size
    side, start = rng.choice([-1, 1]), 0.5 * width - 1.05 * reach
    way = np.sin(np.pi * np.arange(frames) / (frames - 1) * rng.uniform(0.9, 1.05)) ** 2
    x = width / 2 + side * (max(0.0, start) + (width / 2 - max(0.0, start) + reach) * way)
    y = height * (rng.uniform(0.35, 0.65) + 0.1 * _wave(rng, frames))
    return (x + 1j * y).astype(np.complex64)


def _look_alike(rng: Generator, size: tuple[int, int], frames: int, model: Layer, palettes: Sequence[Array]) -> Layer:
    """A distractor: either the colours of ``model`` in another pattern and shape, or its shape in other colours."""
    same_colours = rng.random() < 0.6
    palette = palettes[1] if same_colours else _palette(rng, palettes, 50)
    radius = _outline(rng, frames) if same_colours else model.radius
    pose = _pose(rng, frames, float(abs(model.pose[0])), 0.1)
    return Layer(_wander(rng, size, np.arange(frames, dtype=np.float32)), pose, radius, Texture.draw(rng, palette, 128))


def _occluder(rng: Generator, size: tuple[int, int], frames: int, hidden: Layer, palettes: Sequence[Array]) -> Layer:
    """A bar across the image or a blob, slowly drifting, in the way of ``hidden`` at half-time."""
    drift = rng.uniform(0, 0.4) * np.exp(2j * np.pi * rng.random()) * (np.arange(frames) - frames // 2)
    centre = (hidden.centre[frames // 2] + drift).astype(np.complex64)
    scale = float(abs(hidden.pose[0]))
    bar = rng.random() < 0.6
    angle = rng.normal(np.pi / 2, 0.25) if bar else rng.uniform(0, 2 * np.pi)
    pose = np.full(frames, scale * rng.uniform(0.7, 0.9) * np.exp(1j * angle), np.complex64)
    radius = _bar(frames, 0.5, 2 * max(size) / scale) if bar else _outline(rng, frames)
    return Layer(centre, pose, radius, Texture.draw(rng, _palette(rng, palettes, 40), 128))
