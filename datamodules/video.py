"""Stage two: clips of videos."""

from __future__ import annotations

from datamodules.base import VOSDataModule
from datamodules.images import ImageSet
from datamodules.layouts import SequenceSet, VideoFiles
from datamodules.sequences import TrainingSequences
from datamodules.transforms import VideoTransform

# Gaps grow while the model learns and shrink at the end, as in XMem, whose 5 / 10 / 15 / 5 frames these are.
CURRICULUM = ((0.0, 5), (0.1, 10), (0.3, 15), (0.9, 5))


class VideoDataModule(VOSDataModule):
    """Training clips from videos, validation on videos.

    Args:
        root: folder that holds the data sets.
        images: not used in this stage; accepted so that one description of a data set serves both stages.
        videos: video sequences for training.
        val: video sequences for validation and test; ``None``: no validation.
        crop: side of the square training clips, pixels.
        clip_length: frames of a training clip.
        batch_size: clips of one optimiser step, over all devices and accumulated forward passes.
        num_workers: loader processes of each device.
        seed: seed of the order of the data and of all augmentation.
        max_objects: most objects of a training clip.
        short_side: evaluation frames are shrunk so that the shorter side has at most this many pixels; ``None`` keeps
            them. Masks are scored and written at the size of the annotations in any case.
        demo: write the small procedural data set to ``<root>/demo`` first, unless it is there.
        max_skip: ``[fraction of the run, largest gap]`` pairs: from that fraction of ``trainer.max_steps`` on,
            consecutive frames of a clip are at most so many frames of the original video apart. Default: 5, then 10, 15
            and 5 from 10, 30 and 90 % of the run. Frame numbers are read from the file names, so YouTube-VOS, which
            annotates every 5th frame, needs no other figures.
    """

    def __init__(
        self,
        root: str = "data",
        images: list[ImageSet] | None = None,
        videos: list[SequenceSet] | None = None,
        val: SequenceSet | None = None,
        crop: int = 384,
        clip_length: int = 8,
        batch_size: int = 8,
        num_workers: int = 4,
        seed: int = 0,
        max_objects: int = 3,
        short_side: int | None = 480,
        demo: bool = False,
        max_skip: list[tuple[float, int]] | None = None,
    ) -> None:
        super().__init__(
            root, images, videos, val, crop, clip_length, batch_size, num_workers, seed, max_objects, short_side, demo
        )
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
