"""Stage two: clips of videos."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils.data import Dataset

from datamodules.base import VOSDataModule
from datamodules.samplers import ClipKey
from datamodules.sequences import TrainingSequences
from datamodules.static import StaticClips
from datamodules.transforms import StaticTransform, VideoTransform
from lightning_vos.types import Clip

# Gaps grow while the model learns and shrink at the end, as in XMem, whose 5 / 10 / 15 / 5 frames these are.
CURRICULUM = ((0.0, 5), (0.1, 10), (0.3, 15), (0.9, 5))


class MixedClips(Dataset[Clip]):
    """Clips of one set, some of which give way to a clip of another.

    Few videos are soon known by heart; the pictures of stage one keep the matching general (our design; STM's authors
    and others only pretrain on them).

    Args:
        main: clips, such as those of videos; the length is theirs.
        others: clips that stand in for them, such as those of still images, drawn evenly.
        share: probability that a clip is one of the others.
    """

    def __init__(self, main: Dataset[Clip], others: Dataset[Clip], share: float) -> None:
        self.main = main
        self.others = others
        self.share = share
        self.length, self.choices = (len(clips) for clips in (main, others))  # type: ignore[arg-type]

    def __len__(self) -> int:
        """Number of samples of the main set, repeats included."""
        return self.length

    def __getitem__(self, key: ClipKey) -> Clip:
        """The clip that the key describes, always the same one.

        Raises:
            ValueError: a damaged file or an empty mask.
        """
        # A generator of its own: the clips that remain are those of a run without the others.
        rng = np.random.default_rng([key.seed, self.choices])
        if rng.random() < self.share:
            return self.others[key._replace(index=int(rng.integers(self.choices)))]
        return self.main[key]


class VideoDataModule(VOSDataModule):
    """Training clips from videos, validation on videos.

    Args:
        root: folder that holds the data sets.
        max_skip: ``[fraction of the run, largest gap]`` pairs: from that fraction of ``trainer.max_steps`` on,
            consecutive frames of a clip are at most so many frames of the original video apart. Default: 5, then 10, 15
            and 5 from 10, 30 and 90 % of the run. Frame numbers are read from the file names, so YouTube-VOS, which
            annotates every 5th frame, needs no other figures.
        stills: share of the clips that are made of the still images of stage one (``images``), from 0 to below 1.
        **kwargs: see :class:`~datamodules.base.VOSDataModule`.
    """

    def __init__(
        self,
        root: str = "data",
        max_skip: list[tuple[float, int]] | None = None,
        stills: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        if not 0 <= stills < 1:
            raise ValueError(f"data.stills={stills} must be at least 0 and below 1: it is a share of the clips")
        self.max_skip = max_skip or CURRICULUM
        self.stills = stills

    def training_set(self) -> TrainingSequences | MixedClips:
        """All sequences of ``videos``, with ``stills`` also all samples of ``images``.

        Raises:
            FileNotFoundError: a folder, list or file is missing.
            ValueError: no sequence set, no image set though ``stills`` asks for one, or files that do not fit together.
        """
        if not self.videos:
            raise ValueError("data.videos is empty: the video stage trains on sequences; name at least one set")
        videos = self.all_videos(dense=True)
        clips = TrainingSequences(videos, self.clip_length, self.max_objects, VideoTransform(self.crop, self.whole))
        if not self.stills:
            return clips
        return MixedClips(
            clips, StaticClips(self.all_stills(), self.clip_length, StaticTransform(self.crop, self.whole)), self.stills
        )
