"""What a frame of a training clip costs: ours against the same augmentation step by step, in CPU seconds of one thread.

    OMP_NUM_THREADS=1 python -m benchmarks.loader [--root ../shared/data] [--clips N] [--rounds N]

Clips of 8 frames come from the data sets themselves, reading and decoding included: six sequences of DAVIS 2016, crop
384 of 480p and crop 128 of 240p. *Step by step* draws and does every step with albumentations: it warps whole frames,
flips, crops and resizes, and jitters twice. Both run in turn in one process on the same clips; of several rounds the
shortest counts, as other processes only add.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from pathlib import Path

import albumentations as A
import cv2
import numpy as np

from datamodules.image_sets import Still
from datamodules.layouts import DavisSet
from datamodules.samplers import ClipKey
from datamodules.sequences import TrainingSequences
from datamodules.static import StaticClips
from datamodules.transforms import StaticTransform, VideoTransform
from datamodules.warps import MEAN_COLOUR

FRAMES = 8
SHEAR = {"x": (-10, 10), "y": (0, 0)}


def seeded(transform: A.Compose, rng: np.random.Generator) -> A.Compose:
    transform.set_random_state(rng, random.Random(int(rng.integers(2**63))))
    return transform


class VideoSteps(VideoTransform):
    """The video stage, every step by albumentations."""

    def __init__(self, crop: int) -> None:
        super().__init__(crop)
        part = A.RandomResizedCrop((crop, crop), scale=(0.36, 1), area_for_downscale="image")
        jitter = A.ColorJitter(0.1, 0.03, 0.03, 0, p=1)
        self.frame = A.Compose([A.Affine(rotate=(-15, 15), shear=SHEAR, fill=MEAN_COLOUR, p=1)])
        self.clip = A.Compose([A.HorizontalFlip(p=0.5), part, jitter, A.ToGray(p=0.05)])
        self.small = A.Compose([A.ColorJitter(0.01, 0.01, 0.01, 0, p=1)])

    def draw(
        self, frames: Sequence[np.ndarray], masks: Sequence[np.ndarray], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """One augmentation."""
        pairs = zip(frames, masks, strict=True)
        warps = [seeded(self.frame, rng)(image=frame, mask=mask) for frame, mask in pairs]
        images, labels = (np.stack([warp[name] for warp in warps]) for name in ("image", "mask"))
        clip = seeded(self.clip, rng)(images=images, masks=labels)
        return np.stack([seeded(self.small, rng)(image=image)["image"] for image in clip["images"]]), clip["masks"]


class StaticSteps(StaticTransform):
    """The static stage, every step by albumentations."""

    def __init__(self, crop: int) -> None:
        super().__init__(crop)
        self.clip = A.Compose(
            [
                A.HorizontalFlip(p=0.5),
                A.Affine(scale=(0.8, 1.5), keep_ratio=True, fill=MEAN_COLOUR, p=1),
                A.SmallestMaxSize(crop, area_for_downscale="image"),
                A.ColorJitter(0.1, 0.05, 0.05, 0.05, p=1),
                A.ToGray(p=0.05),
            ]
        )
        turn = A.Affine(scale=(0.9, 1.1), keep_ratio=True, rotate=(-20, 20), shear=SHEAR, fill=MEAN_COLOUR, p=1)
        spline = A.ThinPlateSpline((0.02, 0.1), fill=MEAN_COLOUR, p=0.33)
        self.frame = A.Compose([turn, A.RandomCrop(crop, crop), spline, A.ColorJitter(0.1, 0.05, 0.05, 0, p=1)])

    def draw(
        self, frames: Sequence[np.ndarray], masks: Sequence[np.ndarray], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """One augmentation."""
        still = seeded(self.clip, rng)(image=frames[0], mask=masks[0])
        warps = [seeded(self.frame, rng)(**still) for _ in frames]
        return np.stack([warp["image"] for warp in warps]), np.stack([warp["mask"] for warp in warps])


Clips = TrainingSequences | StaticClips


def milliseconds(clips: Clips, count: int, seed: int) -> float:
    """CPU time of a frame."""
    began = time.process_time()
    for number in range(count):
        clips[ClipKey(index=number % len(clips), max_skip=5, seed=seed + number)]
    return (time.process_time() - began) / (count * FRAMES) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--clips", type=int, default=12, help="clips of a round")
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    cv2.setNumThreads(0)  # as in a loader process
    for crop, resolution in ((384, "480p"), (128, "240p")):
        videos = DavisSet("davis2016", year="2016", split="val_dev", resolution=resolution).videos(
            options.root, dense=True
        )
        stills = [Still(video.frames[0], video.masks[0]) for video in videos]
        for stage, steps, ours in (("video", VideoSteps, VideoTransform), ("static", StaticSteps, StaticTransform)):
            sets: list[Clips] = [
                TrainingSequences(videos, FRAMES, 3, transform(crop))
                if stage == "video"
                else StaticClips(stills, FRAMES, transform(crop))
                for transform in (steps, ours)
            ]
            times = [[milliseconds(clips, options.clips, 100 * k) for clips in sets] for k in range(options.rounds)]
            before, after = np.min(times, axis=0)
            print(f"{stage:6s} crop {crop} of {resolution}: step by step {before:5.2f} ms a frame, ", end="")
            print(f"ours {after:5.2f}, ratio {after / before:.2f}", flush=True)


if __name__ == "__main__":
    main()
