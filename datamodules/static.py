"""Stage one: clips made from still images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from datamodules.base import VOSDataModule
from datamodules.images import ImageSet, Still
from datamodules.layouts import SequenceSet
from datamodules.samplers import ClipKey
from datamodules.transforms import StaticTransform, to_clip
from lightning_vos.types import Clip


class StaticClips(Dataset[Clip]):
    """Clips of one object, each made of warped copies of one picture.

    Args:
        stills: the samples; one that is listed twice is seen twice as often.
        clip_length: frames of a clip, T.
        transform: augmentation.
    """

    def __init__(self, stills: Sequence[Still], clip_length: int, transform: StaticTransform) -> None:
        self.stills = list(stills)
        self.clip_length = clip_length
        self.transform = transform

    def __len__(self) -> int:
        """Number of samples, repeats included."""
        return len(self.stills)

    def __getitem__(self, key: ClipKey) -> Clip:
        """The clip that the key describes, always the same one; ``max_skip`` has no meaning here.

        Raises:
            ValueError: a damaged file or an empty mask.
        """
        rng = np.random.default_rng(key.seed)
        frame, mask = self.stills[key.index].read(self.transform.short_side)
        frames, masks = self.transform([frame] * self.clip_length, [mask] * self.clip_length, rng)
        return to_clip(frames, masks, 1, rng)


class StaticDataModule(VOSDataModule):
    """Training clips from still images, validation on videos.

    Args:
        root: folder that holds the data sets.
        images: still images for training.
        videos: not used in this stage; accepted so that one description of a data set serves both stages.
        val: video sequences for validation and test; ``None``: no validation.
        crop: side of the square training clips, pixels.
        clip_length: frames of a training clip: differently warped copies of one picture.
        batch_size: clips of one optimiser step, over all devices and accumulated forward passes.
        num_workers: loader processes of each device.
        seed: seed of the order of the data and of all augmentation.
        max_objects: not used in this stage: a clip has one object.
        short_side: evaluation frames are shrunk so that the shorter side has at most this many pixels; ``None`` keeps
            them. Masks are scored and written at the size of the annotations in any case.
        demo: write the small procedural data set to ``<root>/demo`` first, unless it is there.
    """

    def __init__(
        self,
        root: str = "data",
        images: list[ImageSet] | None = None,
        videos: list[SequenceSet] | None = None,
        val: SequenceSet | None = None,
        crop: int = 384,
        clip_length: int = 3,
        batch_size: int = 16,
        num_workers: int = 4,
        seed: int = 0,
        max_objects: int = 1,
        short_side: int | None = 480,
        demo: bool = False,
    ) -> None:
        super().__init__(
            root, images, videos, val, crop, clip_length, batch_size, num_workers, seed, max_objects, short_side, demo
        )

    def training_set(self) -> StaticClips:
        """All samples of ``images``.

        Raises:
            FileNotFoundError: a folder or file is missing.
            ValueError: no image set, or files that do not fit together.
        """
        if not self.images:
            raise ValueError("data.images is empty: the static stage trains on still images; name at least one set")
        stills: list[Still] = []
        for images in self.images:
            stills += self.checked(images.stills(self.root)) * images.repeat
        return StaticClips(stills, self.clip_length, StaticTransform(self.crop))
