"""Augmentation of clips: one draw for all frames of a clip, one more for each frame.

Recipe: STCN and XMem (static images: scale 0.8-1.5, +-20 degrees, thin-plate splines; video: random resized crops of
0.36-1 of the area, +-15 degrees). What a warp uncovers is filled with the mean colour of ImageNet, masks with 0.
albumentations draws the parameters. Those of a frame and of its clip are composed before they touch a pixel: one warp
(:mod:`~datamodules.warps`) and one matrix of colours (:mod:`~datamodules.colours`) a frame.
Everything drawn for a clip comes from one generator: Python's, NumPy's and torch's global generators are neither read
nor moved, so that a clip does not depend on the worker that makes it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence

import cv2
import numpy as np
import torch

from datamodules import warps
from datamodules.colours import GREY, Tone, mean_luma
from datamodules.splines import CoarseSpline
from lightning_vos.types import Clip

# On import, albumentations asks the network for a newer version of itself. Compute nodes have no network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A

VISIBLE = 1e-3
"""An object counts as visible where it covers at least this fraction of a frame."""
ATTEMPTS = 5
GREY_SHARE = 0.05


def to_clip(frames: np.ndarray, masks: np.ndarray, max_objects: int, rng: np.random.Generator) -> Clip:
    """Choose the objects of a clip and number them 1..K.

    Args:
        frames: ``(T, H, W, 3)`` uint8 RGB.
        masks: ``(T, H, W)`` uint8 ids, 0 background.
        max_objects: most objects to keep, drawn from those visible in frame 0. Where none is large enough to count as
            visible, the largest is kept.
        rng: source of the draw.

    Returns:
        The clip; objects that were not chosen are background.
    """
    areas = np.bincount(masks[0].ravel(), minlength=256)
    areas[0] = 0
    candidates = np.flatnonzero(areas >= min(VISIBLE * masks[0].size, max(1, areas.max())))
    chosen = np.sort(rng.permutation(candidates)[:max_objects])
    lookup = np.zeros(256, dtype=np.uint8)
    lookup[chosen] = np.arange(1, len(chosen) + 1)
    return Clip(
        torch.from_numpy(np.stack([cv2.split(frame) for frame in frames])),  # several times as fast as a transpose
        torch.from_numpy(lookup[masks]),
        len(chosen),
    )


class ClipTransform:
    """Base of the two recipes: redraws until an object is visible in frame 0.

    Args:
        crop: side of the square clips, pixels.
        oversize: pictures are read with a shorter side of at most ``oversize * crop`` pixels; more would go unused.
        whole: clips show whole pictures, shrunk or enlarged to the square and padded with the mean colour, instead of
            random parts of them: for methods that cut their own windows, which must not see objects cut off.

    Attributes:
        short_side: that limit, pixels.
    """

    def __init__(self, crop: int, oversize: float, whole: bool = False) -> None:
        self.crop = crop
        self.whole = whole
        self.short_side = crop if whole else round(oversize * crop)

    def __call__(
        self, frames: Sequence[np.ndarray], masks: Sequence[np.ndarray], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Augment one clip.

        Args:
            frames: T frames ``(H, W, 3)`` uint8 RGB of one size.
            masks: T masks ``(H, W)`` uint8 ids, 0 background. Frame 0 shows an object.
            rng: source of every draw.

        Returns:
            ``(T, crop, crop, 3)`` uint8 and ``(T, crop, crop)`` uint8. Frame 0 shows an object: after ``ATTEMPTS``
            draws without one, the window is put on an object and nothing is rotated.
        """
        for _ in range(ATTEMPTS):
            warped, labels = self.draw(frames, masks, rng)
            if np.bincount(labels[0].ravel())[1:].max(initial=0) >= VISIBLE * self.crop**2:
                return warped, labels
        return self._centred(frames, masks)

    def draw(
        self, frames: Sequence[np.ndarray], masks: Sequence[np.ndarray], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """One augmentation of the clip, whatever it shows; arguments and result as for a call."""
        raise NotImplementedError

    def _centred(self, frames: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        ids = np.bincount(masks[0].ravel())
        ids[0] = 0
        rows, columns = np.nonzero(masks[0] == ids.argmax())
        # The window is never shrunk, so that not even an object of one pixel is lost. The middle one of the object's
        # pixels lies on it, which a centre of gravity need not.
        height, width = masks[0].shape
        side = min(self.crop, height, width)
        top = int(np.clip(rows[len(rows) // 2] - side // 2, 0, height - side))
        left = int(np.clip(columns[len(rows) // 2] - side // 2, 0, width - side))
        window = warps.stretch(self.crop / side, self.crop / side) @ warps.shift(-left, -top)
        return _warped(frames, masks, [window] * len(frames), self.crop)


def _warped(
    frames: Sequence[np.ndarray], masks: Sequence[np.ndarray], matrices: Sequence[np.ndarray], crop: int
) -> tuple[np.ndarray, np.ndarray]:
    canvas = (crop, crop)
    pictures = [warps.warp_picture(frame, matrix, canvas) for frame, matrix in zip(frames, matrices, strict=True)]
    labels = [warps.warp_mask(mask, matrix, canvas) for mask, matrix in zip(masks, matrices, strict=True)]
    return np.stack(pictures), np.stack(labels)


def _flip(canvas: warps.Size, rng: np.random.Generator) -> np.ndarray:
    return warps.mirror(canvas[1]) if rng.random() < 0.5 else np.eye(3)


def _fitted(size: warps.Size, crop: int) -> tuple[np.ndarray, warps.Size]:
    """The whole picture in the square, and the square."""
    return warps.placed(size, (crop, crop), crop / max(size)), (crop, crop)


def _seed(transforms: Sequence[A.BasicTransform | A.Compose], rng: np.random.Generator) -> None:
    # One generator for all: with seeds of their own, two parts of one seed draw the same numbers, and then a clip is
    # grey only where it is also flipped.
    python = random.Random(int(rng.integers(2**63)))
    for transform in transforms:
        transform.set_random_state(rng, python)


def _matrix(affine: A.Affine, canvas: warps.Size) -> np.ndarray:
    """A draw of a rotation, shear and scale about the middle of a canvas."""
    return affine.get_params_dependent_on_data({"shape": canvas}, {})["matrix"]


class StaticTransform(ClipTransform):
    """Makes a clip from one picture: every frame is another warp of it.

    Per clip: flip, scale 0.8-1.5, jitter, grey with probability 0.05. Per frame: rotation +-20 degrees, shear +-10,
    scale 0.9-1.1, a random square window (so the object moves), a thin-plate spline with probability 0.33, jitter.
    Whole pictures have neither the scale of the clip nor the window. Hue and splines are no matrices: albumentations
    makes them, the hue once a clip.

    Args:
        crop: side of the square clips, pixels.
        whole: see :class:`ClipTransform`.
    """

    def __init__(self, crop: int, whole: bool = False) -> None:
        super().__init__(crop, oversize=1.5, whole=whole)
        self.colours = A.Compose([A.ColorJitter(0.1, 0.05, 0.05, 0.05, p=1), A.ToGray(p=GREY_SHARE)])
        self.turn = A.Affine(scale=(0.9, 1.1), keep_ratio=True, rotate=(-20, 20), shear={"x": (-10, 10), "y": (0, 0)})
        # The published spline moves its control points by 2 % of the side; albumentations overshoots, so the range is
        # chosen by what it does: 2 to 3 % of the side on average.
        self.spline = A.Compose([CoarseSpline((0.02, 0.1), fill=warps.MEAN_COLOUR, p=0.33)])
        self.jitter = A.ColorJitter(0.1, 0.05, 0.05, 0)

    def draw(
        self, frames: Sequence[np.ndarray], masks: Sequence[np.ndarray], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """One augmentation. All T frames are the same picture, so what the clip shares is done once."""
        _seed([self.colours, self.turn, self.spline, self.jitter], rng)
        fit, canvas = self._fit(frames[0].shape[:2], rng)
        fit = _flip(canvas, rng) @ fit
        # What the clip's scale moves out of the canvas stays away, whatever the frames do.
        (still, rest), (mask, _) = (warps.seen(picture, fit, canvas) for picture in (frames[0], masks[0]))
        still = self.colours(image=still)["image"]
        matrices = []
        for _ in frames:
            top, left = (int(rng.integers(side - self.crop + 1)) for side in canvas)
            matrices.append(warps.shift(-left, -top) @ _matrix(self.turn, canvas) @ rest)
        count = len(frames)
        clip = zip(*_warped([still] * count, [mask] * count, matrices, self.crop), strict=True)
        bent = [self.spline(image=picture, mask=label) for picture, label in clip]
        pictures = [
            Tone().jittered(self.jitter.get_params(), mean_luma(picture))(picture)
            for picture in (frame["image"] for frame in bent)
        ]
        return np.stack(pictures), np.stack([frame["mask"] for frame in bent])

    def _fit(self, size: warps.Size, rng: np.random.Generator) -> tuple[np.ndarray, warps.Size]:
        """How the picture lies on the canvas of the clip, and the size of that."""
        if self.whole:
            return _fitted(size, self.crop)
        factor = self.crop / min(size)
        height, width = (max(self.crop, round(factor * side)) for side in size)
        return warps.placed(size, (height, width), factor * rng.uniform(0.8, 1.5)), (height, width)


class VideoTransform(ClipTransform):
    """Augments a clip of a video.

    Per frame: rotation +-15 degrees, shear +-10, jitter of 0.01. Per clip: flip, crop of 0.36-1 of the area resized to
    the square, jitter 0.1 / 0.03 / 0.03 (brightness, contrast, saturation), grey with probability 0.05. Whole pictures
    have no crop, and fill the square before they are warped.

    Args:
        crop: side of the square clips, pixels.
        whole: see :class:`ClipTransform`.
    """

    def __init__(self, crop: int, whole: bool = False) -> None:
        super().__init__(crop, oversize=1.25, whole=whole)
        self.turn = A.Affine(rotate=(-15, 15), shear={"x": (-10, 10), "y": (0, 0)})
        self.part = A.RandomResizedCrop((crop, crop), scale=(0.36, 1))
        self.colours = A.ColorJitter(0.1, 0.03, 0.03, 0)
        self.jitter = A.ColorJitter(0.01, 0.01, 0.01, 0)

    def draw(
        self, frames: Sequence[np.ndarray], masks: Sequence[np.ndarray], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """One augmentation. The per-frame warp comes before the crop, so that less of its fill is seen."""
        _seed([self.turn, self.part, self.colours, self.jitter], rng)
        size = frames[0].shape[:2]
        fit, canvas = _fitted(size, self.crop) if self.whole else (np.eye(3), size)
        window = self._window(canvas) @ _flip(canvas, rng)
        colours, grey = self.colours.get_params(), rng.random() < GREY_SHARE
        matrices = [window @ _matrix(self.turn, canvas) @ fit for _ in frames]
        warped, labels = _warped(frames, masks, matrices, self.crop)
        for t, picture in enumerate(warped):
            mean = mean_luma(picture)
            tone = Tone().jittered(colours, mean)
            warped[t] = (tone.then(GREY) if grey else tone).jittered(self.jitter.get_params(), mean)(picture)
        return warped, labels

    def _window(self, canvas: warps.Size) -> np.ndarray:
        """A draw of the part of the canvas that fills the square."""
        if self.whole:
            return np.eye(3)
        left, top, right, bottom = self.part.get_params_dependent_on_data({"shape": canvas}, {})["crop_coords"]
        return warps.stretch(self.crop / (right - left), self.crop / (bottom - top)) @ warps.shift(-left, -top)
