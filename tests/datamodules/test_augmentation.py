"""The composed chain draws what albumentations' own chain of full warps draws: distributions over many clips."""

from __future__ import annotations

import random
from collections.abc import Callable

import albumentations as A
import cv2
import numpy as np
import pytest
from scipy.stats import ks_2samp

from datamodules import transforms
from datamodules.transforms import StaticTransform, VideoTransform
from datamodules.warps import MEAN_COLOUR

CROP, SIZE, DRAWS = 32, (48, 96), 400  # sizes that no step has to round
STEEP = 2.5  # levels a pixel
Draw = Callable[[np.ndarray, int], np.ndarray]


def chain(kind: type, whole: bool, colours: bool) -> Draw:
    """One frame of a clip by albumentations alone, step by step, as the recipe is written down."""
    fit = [A.LongestMaxSize(CROP, area_for_downscale="image"), A.PadIfNeeded(CROP, CROP, fill=MEAN_COLOUR)]
    shear = {"x": (-10, 10), "y": (0, 0)}
    if kind is VideoTransform:
        part = A.RandomResizedCrop((CROP, CROP), scale=(0.36, 1), area_for_downscale="image")
        steps = [
            *(fit if whole else []),
            A.Affine(rotate=(-15, 15), shear=shear, fill=MEAN_COLOUR, p=1),
            A.HorizontalFlip(p=0.5),
            *([] if whole else [part]),
            *([A.ColorJitter(0.1, 0.03, 0.03, 0, p=1), A.ToGray(p=0.05)] if colours else []),
            *([A.ColorJitter(0.01, 0.01, 0.01, 0, p=1)] if colours else []),
        ]
    else:
        part = [
            A.Affine(scale=(0.8, 1.5), keep_ratio=True, fill=MEAN_COLOUR, p=1),
            A.SmallestMaxSize(CROP, area_for_downscale="image"),
        ]
        turn = A.Affine(scale=(0.9, 1.1), keep_ratio=True, rotate=(-20, 20), shear=shear, fill=MEAN_COLOUR, p=1)
        steps = [
            A.HorizontalFlip(p=0.5),
            *(fit if whole else part),
            *([A.ColorJitter(0.1, 0.05, 0.05, 0.05, p=1), A.ToGray(p=0.05)] if colours else []),
            turn,
            *([] if whole else [A.RandomCrop(CROP, CROP)]),
            A.ThinPlateSpline((0.02, 0.1), fill=MEAN_COLOUR, p=0.33),
            *([A.ColorJitter(0.1, 0.05, 0.05, 0, p=1)] if colours else []),
        ]
    compose = A.Compose(steps)

    def draw(picture: np.ndarray, seed: int) -> np.ndarray:
        compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        return compose(image=picture)["image"]

    return draw


def composed(kind: type, whole: bool, colours: bool, monkeypatch: pytest.MonkeyPatch) -> Draw:
    if not colours:
        monkeypatch.setattr(transforms, "GREY_SHARE", 0.0)
    transform = kind(CROP, whole)
    if not colours:
        plain = A.ColorJitter(0, 0, 0, 0, p=1)
        transform.jitter = plain
        transform.colours = A.Compose([]) if kind is StaticTransform else plain

    def draw(picture: np.ndarray, seed: int) -> np.ndarray:
        mask = np.zeros(picture.shape[:2], dtype=np.uint8)
        return transform.draw([picture], [mask], np.random.default_rng([seed, 1]))[0][0]

    return draw


def geometry(out: np.ndarray) -> dict[str, float]:
    """Of a warped picture of its own coordinates: how much of the source it shows, how, and how much is fill."""
    covered = cv2.erode((out[..., 2] > 250).astype(np.uint8), np.ones((3, 3))) > 0
    rows, columns = np.nonzero(covered)
    points = np.column_stack([columns, rows, np.ones(len(rows))])
    fitted = np.linalg.lstsq(points, out[covered][:, :2] / STEEP, rcond=None)[0].T
    matrix, middle = fitted[:, :2], fitted @ [CROP / 2, CROP / 2, 1]
    return {
        "area": abs(np.linalg.det(matrix)),
        "aspect": np.hypot(*matrix[:, 0]) / np.hypot(*matrix[:, 1]),
        "flip": float(np.linalg.det(matrix) < 0),
        "rotation": np.arctan2(matrix[1, 0], abs(matrix[0, 0])),
        "x": middle[0],
        "y": middle[1],
        "fill": 1 - (out[..., 2] > 180).mean(),
    }


def palette(out: np.ndarray) -> dict[str, float]:
    values = out.reshape(-1, 3).astype(float)
    figures = {f"mean {name}": mean for name, mean in zip("rgb", values.mean(axis=0), strict=True)}
    figures |= {f"std {name}": std for name, std in zip("rgb", values.std(axis=0), strict=True)}
    return figures | {"saturation": np.ptp(values, axis=1).mean()}


@pytest.mark.parametrize("whole", [False, True], ids=["parts", "whole"])
@pytest.mark.parametrize("kind", [StaticTransform, VideoTransform], ids=["static", "video"])
@pytest.mark.parametrize("what", [geometry, palette])
def test_distributions(what: Callable, kind: type, whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    picture = np.stack([STEEP * columns, STEEP * rows, np.full(SIZE, 255)], axis=-1).astype(np.uint8)
    if what is palette:
        small = np.random.default_rng(0).integers(30, 226, (5, 7, 3), dtype=np.uint8)
        picture = cv2.resize(small, SIZE[::-1], interpolation=cv2.INTER_LINEAR)
    theirs, ours = chain(kind, whole, what is palette), composed(kind, whole, what is palette, monkeypatch)
    pairs = [(what(theirs(picture, seed)), what(ours(picture, seed))) for seed in range(DRAWS)]
    for name in pairs[0][0]:
        expected, found = (np.array([pair[k][name] for pair in pairs]) for k in (0, 1))
        if what is palette:  # albumentations cuts off what is behind the point, at each of up to seven steps
            assert abs(found.mean() - expected.mean()) < 4, name
            expected, found = expected - np.median(expected), found - np.median(found)
        # a shift of a sixth of the spread shows; seeds are fixed
        assert ks_2samp(expected, found, method="asymp").pvalue > 1e-4, (name, expected.mean(), found.mean())
        rare = name == "saturation"  # its spread is that of the few grey clips
        assert found.std() == pytest.approx(expected.std(), rel=0.6 if rare else 0.25, abs=1e-2), name
