"""Augmentation of clips: one draw for all frames of a clip, one more for each frame.

Recipe: STCN and XMem (static images: scale 0.8-1.5, +-20 degrees, thin-plate splines; video: random resized crops of
0.36-1 of the area, +-15 degrees). What a warp uncovers is filled with the mean colour of ImageNet, masks with 0.
Everything drawn for a clip comes from one generator: Python's, NumPy's and torch's global generators are neither read
nor moved, so that a clip does not depend on the worker that makes it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence

import numpy as np
import torch

from lightning_vos.types import Clip

# On import, albumentations asks the network for a newer version of itself. Compute nodes have no network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2  # names of the interpolations; albumentations brings it along

MEAN_COLOUR = (124, 116, 104)
VISIBLE = 1e-3
"""An object counts as visible where it covers at least this fraction of a frame."""
ATTEMPTS = 5


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
        torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2))),
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
        window = A.Compose(
            [
                A.Crop(left, top, left + side, top + side),
                A.Resize(self.crop, self.crop, mask_interpolation=cv2.INTER_NEAREST_EXACT),
            ]
        )
        result = window(images=np.stack(frames), masks=np.stack(masks))
        return result["images"], result["masks"]


def _fitted(crop: int) -> list[A.DualTransform]:
    """The whole picture in the square."""
    return [
        A.LongestMaxSize(crop, area_for_downscale="image", mask_interpolation=cv2.INTER_NEAREST_EXACT),
        A.PadIfNeeded(crop, crop, fill=MEAN_COLOUR),
    ]


def _seeded(transform: A.Compose, rng: np.random.Generator) -> A.Compose:
    # One generator for all parts of a Compose. Compose.set_random_seed would start every part from the same seed, and
    # then a clip is grey only where it is also flipped.
    transform.set_random_state(rng, random.Random(int(rng.integers(2**63))))
    return transform


class StaticTransform(ClipTransform):
    """Makes a clip from one picture: every frame is another warp of it.

    Per clip: flip, scale 0.8-1.5, jitter, grey with probability 0.05. Per frame: rotation +-20 degrees, shear +-10,
    scale 0.9-1.1, a random square window (so the object moves), a thin-plate spline with probability 0.33, jitter.
    Whole pictures have neither the scale of the clip nor the window.

    Args:
        crop: side of the square clips, pixels.
        whole: see :class:`ClipTransform`.
    """

    def __init__(self, crop: int, whole: bool = False) -> None:
        super().__init__(crop, oversize=1.5, whole=whole)
        part = [
            A.Affine(scale=(0.8, 1.5), keep_ratio=True, fill=MEAN_COLOUR, p=1),
            A.SmallestMaxSize(crop, area_for_downscale="image", mask_interpolation=cv2.INTER_NEAREST_EXACT),
        ]
        self.clip = A.Compose(
            [
                A.HorizontalFlip(p=0.5),
                *(_fitted(crop) if whole else part),
                A.ColorJitter(0.1, 0.05, 0.05, 0.05, p=1),
                A.ToGray(p=0.05),
            ]
        )
        self.frame = A.Compose(
            [
                A.Affine(
                    scale=(0.9, 1.1),
                    keep_ratio=True,
                    rotate=(-20, 20),
                    shear={"x": (-10, 10), "y": (0, 0)},
                    fill=MEAN_COLOUR,
                    p=1,
                ),
                *([] if whole else [A.RandomCrop(crop, crop)]),
                # The published spline moves its control points by 2 % of the side; albumentations overshoots, so the
                # range is chosen by what it does: 2 to 3 % of the side on average.
                A.ThinPlateSpline((0.02, 0.1), fill=MEAN_COLOUR, p=0.33),
                A.ColorJitter(0.1, 0.05, 0.05, 0, p=1),
            ]
        )

    def draw(
        self, frames: Sequence[np.ndarray], masks: Sequence[np.ndarray], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """One augmentation. All T frames are the same picture, so what the clip shares is done once."""
        still = _seeded(self.clip, rng)(image=frames[0], mask=masks[0])
        warps = [_seeded(self.frame, rng)(image=still["image"], mask=still["mask"]) for _ in frames]
        return np.stack([warp["image"] for warp in warps]), np.stack([warp["mask"] for warp in warps])


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
        warp = A.Affine(rotate=(-15, 15), shear={"x": (-10, 10), "y": (0, 0)}, fill=MEAN_COLOUR, p=1)
        part = A.RandomResizedCrop(
            (crop, crop), scale=(0.36, 1), area_for_downscale="image", mask_interpolation=cv2.INTER_NEAREST_EXACT
        )
        self.warp = A.Compose([*(_fitted(crop) if whole else []), warp])
        self.clip = A.Compose(
            [
                A.HorizontalFlip(p=0.5),
                *([] if whole else [part]),
                A.ColorJitter(0.1, 0.03, 0.03, 0, p=1),
                A.ToGray(p=0.05),
            ]
        )
        self.jitter = A.Compose([A.ColorJitter(0.01, 0.01, 0.01, 0, p=1)])

    def draw(
        self, frames: Sequence[np.ndarray], masks: Sequence[np.ndarray], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """One augmentation. The per-frame warp comes before the crop, so that less of its fill is seen."""
        pairs = zip(frames, masks, strict=True)
        warps = [_seeded(self.warp, rng)(image=frame, mask=mask) for frame, mask in pairs]
        clip = _seeded(self.clip, rng)(
            images=np.stack([warp["image"] for warp in warps]), masks=np.stack([warp["mask"] for warp in warps])
        )
        images = [_seeded(self.jitter, rng)(image=image)["image"] for image in clip["images"]]
        return np.stack(images), clip["masks"]
