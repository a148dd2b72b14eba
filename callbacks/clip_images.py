"""Small pictures of whole videos, for players that lay the masks of several models over the same frames."""

from __future__ import annotations

import shutil
from pathlib import Path

from lightning import LightningModule, Trainer
from PIL import Image
from torch import Tensor

from callbacks.palette import PALETTE, edges, shrunk
from lightning_vos.atomic import unfinished
from lightning_vos.frame_callback import FrameCallback
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
            shutil.rmtree(self._folder(trainer), ignore_errors=True)
        trainer.strategy.barrier()  # or a fast rank's first pictures would be removed

    def on_frame_end(
        self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int, frame: Tensor, labels: Tensor
    ) -> None:
        """Write one frame and its masks."""
        if trainer.sanity_checking or video.index >= self.videos:
            return
        stem = self._folder(trainer) / video.name / f"{t:05d}"
        small, found = shrunk(frame, labels, self.width)
        picture = Image.fromarray(small.permute(1, 2, 0).contiguous().cpu().numpy())
        _save(picture, stem.with_suffix(".webp"), quality=60, method=2)
        _save_layer(found, len(video.object_ids), stem.with_suffix(".png"))
        target = video.target(t)
        if target is not None:
            truth = shrunk(frame, target.masked_fill(target == VOID, 0).to(labels.device), self.width)[1]
            _save_layer(truth, len(video.object_ids), stem.with_suffix(".truth.png"))

    on_test_epoch_start = on_validation_epoch_start

    def _folder(self, trainer: Trainer) -> Path:
        return self.output_folder(trainer) / "clips"


def _save_layer(labels: Tensor, objects: int, path: Path) -> None:
    """Palette PNG of ``(H, W)`` uint8 labels 0..objects, clear where 0, with the outline as one label more.

    No entry of the palette is left over: they would be larger than the picture.
    """
    outlined = labels.masked_fill(edges(labels) & (labels == 0), objects + 1)
    image = Image.fromarray(outlined.cpu().numpy())
    image.putpalette(PALETTE[: objects + 1].tobytes() + b"\xff\xff\xff")
    _save(image, path, optimize=True, transparency=bytes([0, *[_TINT] * objects, _OUTLINE]))


def _save(image: Image.Image, path: Path, **options: object) -> None:
    with unfinished(path) as beside:
        image.save(beside, format="WEBP" if path.suffix == ".webp" else "PNG", **options)
