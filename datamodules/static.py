"""Stage one: clips made from still images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import Dataset

from datamodules.base import VOSDataModule
from datamodules.image_sets import Still
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
    """Training clips from still images, one object each; validation on videos.

    Args:
        root: folder that holds the data sets.
        clip_length: frames of a training clip: differently warped copies of one picture.
        batch_size: clips of one optimiser step, over all devices and accumulated forward passes.
        **kwargs: see :class:`~datamodules.base.VOSDataModule`.
    """

    def __init__(self, root: str = "data", clip_length: int = 3, batch_size: int = 16, **kwargs: Any) -> None:
        super().__init__(root, clip_length=clip_length, batch_size=batch_size, max_objects=1, **kwargs)

    def training_set(self) -> StaticClips:
        """All samples of ``images``; warns of ``videos`` that stage two will refuse, hours before it does.

        Raises:
            FileNotFoundError: a folder or file is missing.
            ValueError: no image set, or files that do not fit together.
        """
        if self.videos:
            try:
                self.all_videos(dense=True)
            except (OSError, ValueError) as error:
                rank_zero_warn(f"stage two will refuse its videos: {error}")
        return StaticClips(self.all_stills(), self.clip_length, StaticTransform(self.crop, self.whole))
