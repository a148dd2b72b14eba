"""Stage two: clips of videos."""

from __future__ import annotations

from typing import Any

from datamodules.base import VOSDataModule
from datamodules.layouts import VideoFiles
from datamodules.sequences import TrainingSequences
from datamodules.transforms import VideoTransform

# Gaps grow while the model learns and shrink at the end, as in XMem, whose 5 / 10 / 15 / 5 frames these are.
CURRICULUM = ((0.0, 5), (0.1, 10), (0.3, 15), (0.9, 5))


class VideoDataModule(VOSDataModule):
    """Training clips from videos, validation on videos.

    Args:
        root: folder that holds the data sets.
        max_skip: ``[fraction of the run, largest gap]`` pairs: from that fraction of ``trainer.max_steps`` on,
            consecutive frames of a clip are at most so many frames of the original video apart. Default: 5, then 10, 15
            and 5 from 10, 30 and 90 % of the run. Frame numbers are read from the file names, so YouTube-VOS, which
            annotates every 5th frame, needs no other figures.
        **kwargs: see :class:`~datamodules.base.VOSDataModule`.
    """

    def __init__(self, root: str = "data", max_skip: list[tuple[float, int]] | None = None, **kwargs: Any) -> None:
        """See the class."""
        super().__init__(root, **kwargs)
        self.max_skip = max_skip or CURRICULUM

    def training_set(self) -> TrainingSequences:
        """All sequences of ``videos``.

        Raises:
            FileNotFoundError: a folder, list or file is missing.
            ValueError: no sequence set, or files that do not fit together.
        """
        if not self.videos:
            raise ValueError("data.videos is empty: the video stage trains on sequences; name at least one set")
        videos: list[VideoFiles] = []
        for sequences in self.videos:
            videos += self.checked(sequences.videos(self.root, dense=True)) * sequences.repeat
        return TrainingSequences(videos, self.clip_length, self.max_objects, VideoTransform(self.crop))
