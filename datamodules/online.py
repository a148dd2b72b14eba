"""First-frame ("online") training: on the masks that an evaluation gives, before its videos are segmented."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset

from datamodules.base import VOSDataModule
from datamodules.pictures import Pictures, pictures_of
from datamodules.transforms import StaticTransform
from datamodules.video import MixedClips
from lightning_vos.types import Clip


class OnlineDataModule(VOSDataModule):
    """Training clips made of the given masks of the evaluation videos, each frame another warp; validation on these.

    Nothing is seen that the protocol of semi-supervised segmentation does not give: of every video the frames on which
    objects start, with the masks of these objects. Scores are those of a method *with* first-frame training, and do
    not compare with those of a method without. One network is trained for all videos together (DMM-Net's authors; OSVOS
    trains one for each).

    Args:
        root: folder that holds the data sets; ``val`` names the videos, and is needed.
        clip_length: frames of a training clip; 1 for single pictures.
        batch_size: clips of one optimiser step, over all devices and accumulated forward passes.
        max_objects: most objects of a training clip.
        replay: share of the clips that are made of ``images`` and ``videos`` instead, so that what was learned from
            them is not forgotten, from 0 to below 1.
        **kwargs: see :class:`~datamodules.base.VOSDataModule`.
    """

    order = (*VOSDataModule.order, "val")

    def __init__(
        self,
        root: str = "data",
        clip_length: int = 1,
        batch_size: int = 16,
        max_objects: int = 20,
        replay: float = 0.25,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, clip_length=clip_length, batch_size=batch_size, max_objects=max_objects, **kwargs)
        if not 0 <= replay < 1:
            raise ValueError(f"data.replay={replay} must be at least 0 and below 1: it is a share of the clips")
        self.replay = replay

    def training_set(self) -> Dataset[Clip]:
        """The given masks of ``val``, with ``replay`` also all samples of ``images`` and ``videos``.

        Raises:
            FileNotFoundError: a folder, list or file is missing.
            ValueError: no ``val``, nothing to replay, or files that do not fit together.
        """
        if self.val is None:
            raise ValueError("data.val is not set: first-frame training is on the videos to be evaluated; name a set")
        given = [video.given() for video in self.checked(self.val.videos(self.root))]
        clips = Pictures([], given, self.max_objects, StaticTransform(self.crop, self.whole), self.clip_length)
        if not self.replay:
            return clips
        if not self.images and not self.videos:
            raise ValueError(
                f"data.replay={self.replay}: data.images and data.videos are empty; name a set or set replay to 0"
            )
        return MixedClips(clips, pictures_of(self, self.clip_length), self.replay)
