"""Augmentation: masks follow their pictures, and a seed fixes everything."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import transforms
from datamodules.transforms import VISIBLE, StaticTransform, VideoTransform, to_clip

CROP = 64
OBJECT = (230, 30, 30)


def scene(height: int = 90, width: int = 130, side: int = 36, top: int = 25, left: int = 50) -> tuple[np.ndarray, ...]:
    """A red ellipse on blue, and its mask."""
    rows, columns = np.mgrid[:height, :width]
    mask = ((rows - top - side / 2) ** 2 + ((columns - left - side / 2) / 1.2) ** 2 < (side / 2) ** 2).astype(np.uint8)
    return np.where(mask[..., None] > 0, np.uint8(OBJECT), np.uint8((30, 40, 200))), mask


def augmented(transform: transforms.ClipTransform, seed: int, count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    frame, mask = scene()
    return transform([frame] * count, [mask] * count, np.random.default_rng(seed))


@pytest.fixture(params=[StaticTransform, VideoTransform], ids=["static", "video"])
def kind(request: pytest.FixtureRequest) -> type:
    return request.param


@pytest.fixture(params=[False, True], ids=["parts", "whole"])
def build(request: pytest.FixtureRequest, kind: type) -> Callable[[], transforms.ClipTransform]:
    return partial(kind, CROP, whole=request.param)


@pytest.fixture
def transform(build: Callable[[], transforms.ClipTransform]) -> transforms.ClipTransform:
    return build()


def test_shapes_and_types(transform: transforms.ClipTransform) -> None:
    frames, masks = augmented(transform, 0)
    assert frames.shape == (3, CROP, CROP, 3)
    assert masks.shape == (3, CROP, CROP)
    assert frames.dtype == masks.dtype == np.uint8
    assert set(np.unique(masks)) == {0, 1}


def test_masks_follow_their_pictures(transform: transforms.ClipTransform) -> None:
    scores, shift = [], []
    for seed in range(60):
        frames, masks = augmented(transform, seed)
        for frame, mask in zip(frames.astype(int), masks > 0, strict=True):
            if np.ptp(frame, axis=-1).max() < 60 or mask.sum() < 100:  # grey, or hardly anything to measure
                continue
            painted = frame[..., 0] - frame[..., 2] > 25
            scores.append((painted & mask).sum() / (painted | mask).sum())
            if mask[1:-1, 1:-1].sum() == mask.sum():  # whole inside: its centre can be compared
                shift.append(np.argwhere(painted).mean(0) - np.argwhere(mask).mean(0))
    assert len(scores) > 100
    assert np.mean(scores) > 0.93  # whole pictures are shrunk to half, and outlines weigh more
    assert np.quantile(scores, 0.05) > 0.88
    assert np.abs(np.mean(shift, axis=0)).max() < 0.3  # no systematic shift, half a pixel would show


def test_frames_of_a_clip_differ_and_share_the_clip_draw(transform: transforms.ClipTransform) -> None:
    grey = 0
    for seed in range(200):
        frames, _ = augmented(transform, seed, count=2)
        assert not np.array_equal(frames[0], frames[1])
        plain = [np.ptp(frame.astype(int), axis=-1).max() < 60 for frame in frames]
        assert plain[0] == plain[1]
        grey += plain[0]
    assert 2 <= grey <= 24  # 10 expected


def test_flip_and_grey_are_independent(kind: type) -> None:
    # Parts with generators of one seed draw the same numbers, and then grey clips are always flipped.
    frame = np.zeros((32, 32, 3), dtype=np.uint8)
    frame[:, :16, 0] = 250
    frame[..., 1] = 90
    transform, grey_flips = kind(16), []
    for seed in range(900):
        frames, masks = transform.draw([frame], [frame[..., 0]], np.random.default_rng(seed))
        middle = frames[0, 4:12, 4:12].astype(int)
        if (masks[0, 4:12, 4:12] != 0).any() and np.ptp(middle, axis=-1).max() < 25:
            columns = np.argwhere(masks[0] > 0)[:, 1].mean()
            grey_flips.append(bool(columns > 7.5))
    assert len(grey_flips) > 20
    assert 0.2 < np.mean(grey_flips) < 0.8


def test_a_seed_fixes_everything(
    transform: transforms.ClipTransform, build: Callable[[], transforms.ClipTransform]
) -> None:
    first = augmented(transform, 5)
    augmented(transform, 6)  # whatever happened in between
    again = augmented(build(), 5)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert np.array_equal(augmented(transform, 5)[0], first[0])
    others = [augmented(transform, seed)[0] for seed in range(6, 12)]
    assert not any(np.array_equal(first[0], other) for other in others)


def test_global_generators_are_neither_used_nor_moved(transform: transforms.ClipTransform) -> None:
    def seeded(seed: int) -> np.ndarray:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the global generator is what is tested
        torch.manual_seed(seed)
        before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
        frames, _ = augmented(transform, 5)
        after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
        assert before == after
        return frames

    assert np.array_equal(seeded(1), seeded(2))


@pytest.mark.parametrize("corner", [(0, 0), (86, 126), (0, 126)])
def test_a_small_object_in_a_corner_is_visible_in_frame_0(kind: type, corner: tuple[int, int]) -> None:
    frame, mask = scene()
    mask[:] = 0
    mask[corner[0] : corner[0] + 4, corner[1] : corner[1] + 4] = 1
    for seed in range(25):
        frames, masks = kind(CROP)([frame] * 2, [mask] * 2, np.random.default_rng(seed))
        assert masks[0].any()
        assert frames.shape == (2, CROP, CROP, 3)


@pytest.mark.parametrize("shape", [(90, 130), (130, 90), (40, 30)])
def test_whole_pictures_are_not_cut(kind: type, shape: tuple[int, int]) -> None:
    # An ellipse far from the border stays in the picture with its whole area, at one scale for both axes.
    height, width = shape
    side = min(shape) // 2
    frame, mask = scene(height, width, side, top=(height - side) // 2, left=(width - side) // 2)
    factor = CROP / max(shape)
    areas = []
    for seed in range(20):
        frames, masks = kind(CROP, whole=True)([frame] * 2, [mask] * 2, np.random.default_rng(seed))
        assert frames.shape == (2, CROP, CROP, 3)
        assert not any(edge.any() for edge in (masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]))
        areas += (masks.sum(axis=(1, 2)) / (mask.sum() * factor**2)).tolist()
    assert min(areas) > 0.6  # scale 0.9, and what the spline presses together
    assert max(areas) < 1.6
    assert abs(np.mean(areas) - 1) < 0.08


def test_redraw_ends_with_a_window_on_the_object(monkeypatch: pytest.MonkeyPatch) -> None:
    transform = VideoTransform(CROP)
    frame, mask = scene()
    empty = np.zeros((2, CROP, CROP), dtype=np.uint8)
    calls = []
    monkeypatch.setattr(transform, "draw", lambda *_: calls.append(1) or (np.zeros((2, CROP, CROP, 3)), empty))
    one_pixel = np.zeros_like(mask)
    one_pixel[89, 3] = 7
    frames, masks = transform([frame] * 2, [one_pixel] * 2, np.random.default_rng(0))
    assert len(calls) == transforms.ATTEMPTS
    assert frames.shape == (2, CROP, CROP, 3)
    assert (masks[0] == 7).sum() == 1


def test_frames_smaller_than_the_crop(transform: transforms.ClipTransform) -> None:
    frame, mask = scene(30, 40, 16, 6, 10)
    frames, masks = transform([frame] * 2, [mask] * 2, np.random.default_rng(0))
    assert frames.shape == (2, CROP, CROP, 3)
    assert masks[0].any()


def test_objects_are_chosen_among_the_visible_and_numbered() -> None:
    masks = np.zeros((2, 50, 50), dtype=np.uint8)
    masks[0, :10, :10], masks[0, 10:20, :10], masks[0, 20:30, :10] = 4, 9, 200
    masks[0, 49, 49] = 11  # too small to count: VISIBLE of the frame is 2.5 pixels
    masks[1] = 11
    masks[1, :10] = 9
    frames = np.zeros((2, 50, 50, 3), dtype=np.uint8)
    assert VISIBLE * 2500 > 1
    chosen = set()
    for seed in range(40):
        clip = to_clip(frames, masks, 2, np.random.default_rng(seed))
        assert clip.num_objects == 2
        assert set(clip.masks[0].unique().tolist()) == {0, 1, 2}
        assert clip.frames.shape == (2, 3, 50, 50)
        ids = tuple(int(masks[0][clip.masks[0].numpy() == k][0]) for k in (1, 2))
        chosen.add(ids)
        # An object keeps its number for the whole clip; those not chosen are background.
        expected = np.zeros_like(masks)
        for k, id_ in enumerate(ids, 1):
            expected[masks == id_] = k
        assert np.array_equal(clip.masks.numpy(), expected)
    assert chosen == {(4, 9), (4, 200), (9, 200)}


def test_a_lone_tiny_object_is_kept() -> None:
    masks = np.zeros((1, 50, 50), dtype=np.uint8)
    masks[0, 0, 0] = 3
    clip = to_clip(np.zeros((1, 50, 50, 3), dtype=np.uint8), masks, 3, np.random.default_rng(0))
    assert clip.num_objects == 1
    assert clip.masks.sum() == 1


def test_spline_moves_points_a_few_percent() -> None:
    spline = StaticTransform(CROP).spline.transforms[0]
    rows, columns = np.mgrid[:200, :200]
    moved = []
    for seed in range(30):
        spline.set_random_seed(seed)
        maps = spline.get_params_dependent_on_data({"shape": (200, 200, 3)}, {})
        moved.append(np.hypot(maps["map_x"] - columns, maps["map_y"] - rows).mean() / 200)
    assert 0.01 < np.mean(moved) < 0.04


def test_import_does_not_ask_the_network() -> None:
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"
    source = Path(transforms.__file__).read_text(encoding="utf-8")
    assert source.index("NO_ALBUMENTATIONS_UPDATE") < source.index("import albumentations")
