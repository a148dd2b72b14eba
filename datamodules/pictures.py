"""Single pictures with all their objects: still images and frames of videos, for stages that train a detector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from datamodules.base import VOSDataModule
from datamodules.image_sets import Still
from datamodules.images import read_image, resize_labels
from datamodules.layouts import VideoFiles
from datamodules.samplers import ClipKey
from datamodules.transforms import StaticTransform, to_clip
from lightning_vos.types import Clip


class Pictures(Dataset[Clip]):
    """Clips that show all objects of a picture, every frame another warp of it.

    Samples are the still images, then the annotated frames of the videos in order of time. Void is background.

    Args:
        stills: still images; one that is listed twice is seen twice as often.
        videos: sequences; likewise.
        max_objects: most objects of a clip.
        transform: augmentation.
        clip_length: frames of a clip.
    """

    def __init__(
        self,
        stills: Sequence[Still],
        videos: Sequence[VideoFiles],
        max_objects: int,
        transform: StaticTransform,
        clip_length: int = 1,
    ) -> None:
        self.stills = list(stills)
        self.frames = [(video, t) for video in videos for t in sorted(video.masks)]
        self.max_objects = max_objects
        self.transform = transform
        self.clip_length = clip_length

    def __len__(self) -> int:
        """Number of still images and annotated frames, repeats included."""
        return len(self.stills) + len(self.frames)

    def __getitem__(self, key: ClipKey) -> Clip:
        """The clip that the key describes, always the same one; ``max_skip`` has no meaning here.

        Raises:
            ValueError: a damaged file, an empty mask of a still image, or a sequence without any object.
        """
        rng = np.random.default_rng(key.seed)
        if key.index < len(self.stills):
            frame, mask = self.stills[key.index].read(self.transform.short_side)
        else:
            frame, mask = self._read(*self.frames[key.index - len(self.stills)])
        frames, masks = self.transform([frame] * self.clip_length, [mask] * self.clip_length, rng)
        return to_clip(frames, masks, self.max_objects, rng)

    def _read(self, video: VideoFiles, t: int) -> tuple[np.ndarray, np.ndarray]:
        # Which frames show an object is only known from their masks, and reading all of them at the start would take
        # minutes. So a frame without one stands for the next frame that has one.
        annotated = sorted(video.masks)
        start = annotated.index(t)
        for shown in annotated[start:] + annotated[:start]:
            labels = video.without_void(shown)
            if labels.any():
                frame = read_image(video.frames[shown], self.transform.short_side)
                labels = resize_labels(labels, frame.shape[:2])
                if labels.any():  # a few pixels may get lost when the mask shrinks
                    return frame, labels
        raise ValueError(f"{video.masks[t].parent}: no mask shows an object; remove the sequence")


def pictures_of(data: VOSDataModule, clip_length: int = 1) -> Pictures:
    """All samples of ``images``, with all their objects, and all annotated frames of ``videos``.

    Raises:
        FileNotFoundError: a folder, list or file is missing.
        ValueError: files that do not fit together.
    """
    stills = data.all_stills(all_objects=True) if data.images else []
    transform = StaticTransform(data.crop, data.whole)
    return Pictures(stills, data.all_videos(), data.max_objects, transform, clip_length)


class PictureDataModule(VOSDataModule):
    """Training clips of one frame with all its objects, from still images and videos; validation on videos.

    Objects that cover less than a thousandth of the augmented picture become background, unless there is no other.

    Args:
        root: folder that holds the data sets. Of ``images``, COCO pictures come with all their instances; every
            annotated frame of ``videos`` is a picture of its own.
        batch_size: clips of one optimiser step, over all devices and accumulated forward passes.
        max_objects: most objects of a training clip.
        **kwargs: see :class:`~datamodules.base.VOSDataModule`.
    """

    def __init__(self, root: str = "data", batch_size: int = 16, max_objects: int = 20, **kwargs: Any) -> None:
        super().__init__(root, clip_length=1, batch_size=batch_size, max_objects=max_objects, **kwargs)

    def training_set(self) -> Pictures:
        """All samples of ``images`` and all annotated frames of ``videos``.

        Raises:
            FileNotFoundError: a folder, list or file is missing.
            ValueError: neither image nor sequence sets, or files that do not fit together.
        """
        if not self.images and not self.videos:
            raise ValueError("data.images and data.videos are empty: there is no picture; name at least one set")
        return pictures_of(self)
