"""Small pictures of whole videos, for players that lay the masks of several models over the same frames."""

from __future__ import annotations

import shutil
from pathlib import Path

from lightning import LightningModule, Trainer
from PIL import Image
from torch import Tensor

from callbacks.drawing import edges, shrunk
from callbacks.picture_file import save_picture
from lightning_vos.frame_callback import FrameCallback
from lightning_vos.palette import PALETTE
from lightning_vos.results_folder import ResultsFolder
from lightning_vos.types import VOID
from lightning_vos.video import Video

_TINT, _OUTLINE = 140, 230  # opacity of an object and of the line around it, of 255


class ClipImages(FrameCallback):
    """Writes every frame of the first videos, small, and its masks as pictures that are clear where nothing is.

    ``<output_dir>/clips/<video>/00007.webp`` is frame number 7 (0-based), ``00007.png`` its predicted masks,
    ``00007.truth.png`` its ground truth where there is one. A mask laid over its frame shows objects tinted and
    outlined in white. Every rank writes its own videos; pictures of an earlier evaluation are removed when one starts.

    Args:
        videos: how many videos, the first ones of the set.
        width: largest width, pixels.
        output_dir: ``None``: the trainer's ``default_root_dir``.

    Raises:
        ValueError: if ``videos`` is negative or ``width`` below 1.
    """

    def __init__(self, videos: int = 40, width: int = 320, output_dir: str | None = None) -> None:
        if videos < 0 or width < 1:
            raise ValueError(f"ClipImages(videos={videos}, width={width}): needs videos >= 0 and width >= 1")
        self.videos = videos
        self.width = width
        self.output_dir = output_dir

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the pictures of an earlier evaluation."""
        if trainer.is_global_zero and not trainer.sanity_checking:
            shutil.rmtree(self._files(trainer).clips, ignore_errors=True)
        trainer.strategy.barrier()  # or a fast rank's first pictures would be removed

    def on_frame_end(
        self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int, frame: Tensor, labels: Tensor
    ) -> None:
        """Write one frame and its masks."""
        if trainer.sanity_checking or video.index >= self.videos:
            return
        files = self._files(trainer)
        small, found = shrunk(frame, labels, self.width)
        picture = Image.fromarray(small.permute(1, 2, 0).contiguous().cpu().numpy())
        save_picture(files.clip_frame(video.name, t), picture, quality=60, method=2)
        _save_layer(files.clip_masks(video.name, t), found, len(video.object_ids))
        target = video.target(t)
        if target is not None:
            truth = shrunk(frame, target.masked_fill(target == VOID, 0).to(labels.device), self.width)[1]
            _save_layer(files.clip_truth(video.name, t), truth, len(video.object_ids))

    on_test_epoch_start = on_validation_epoch_start

    def _files(self, trainer: Trainer) -> ResultsFolder:
        return ResultsFolder(self.output_folder(trainer))


def _save_layer(path: Path, labels: Tensor, objects: int) -> None:
    """Palette PNG of ``(H, W)`` uint8 labels 0..objects, clear where 0, with the outline as one label more.

    No entry of the palette is left over: they would be larger than the picture.
    """
    outlined = labels.masked_fill(edges(labels) & (labels == 0), objects + 1)
    image = Image.fromarray(outlined.cpu().numpy())
    image.putpalette(PALETTE[: objects + 1].tobytes() + b"\xff\xff\xff")
    save_picture(path, image, optimize=True, transparency=bytes([0, *[_TINT] * objects, _OUTLINE]))
