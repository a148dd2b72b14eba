"""Pictures of a few videos with their masks, the quickest way to see what goes wrong."""

from __future__ import annotations

import torch
from lightning import LightningModule, Trainer
from PIL import Image, ImageDraw
from torch import Tensor

from callbacks.drawing import overlay, shrunk
from callbacks.evaluation_loop import stage_of
from callbacks.picture_file import save_picture
from lightning_vos.frame_callback import FrameCallback
from lightning_vos.results_folder import ResultsFolder
from lightning_vos.video import Video

_TILE_WIDTH = 320
_GAP = 4
_DARK = 32  # grey of a tile without ground truth


class MaskImages(FrameCallback):
    """Writes a strip per video: frames with the predicted masks above, with the ground truth below where there is one.

    The same videos (the first ones of the set) and the same frames (evenly spaced, first and last included) every
    time, so that pictures of different epochs and runs can be laid side by side. A strip goes to
    ``<output_dir>/pictures/<video>.png`` and replaces the previous one; every rank writes those of its own videos.
    Rank zero's are also sent to the loggers that take pictures (``log_image``, as W&B's does) as ``val/<video>``.

    Args:
        videos: how many videos.
        frames: tiles per strip, each at most 320 pixels wide.
        output_dir: ``None``: the trainer's ``default_root_dir``.

    Raises:
        ValueError: if ``videos`` is negative or ``frames`` below 1.
    """

    def __init__(self, videos: int = 4, frames: int = 5, output_dir: str | None = None) -> None:
        if videos < 0 or frames < 1:
            raise ValueError(f"MaskImages(videos={videos}, frames={frames}): needs videos >= 0 and frames >= 1")
        self.videos = videos
        self.frames = frames
        self.output_dir = output_dir
        self._columns: list[tuple[str, Tensor, Tensor | None]] = []

    def on_frame_end(
        self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int, frame: Tensor, labels: Tensor
    ) -> None:
        """Keep a small picture of a chosen frame; on the last one, write the strip."""
        if trainer.sanity_checking or video.index >= self.videos:
            return
        if t == 0:
            self._columns = []
        last = len(video) - 1
        if t in {round(i * last / max(1, self.frames - 1)) for i in range(self.frames)}:
            target = video.target(t)
            below = None if target is None else _tile(frame, target.to(labels.device))
            self._columns.append((video.frame_names[t], _tile(frame, labels), below))
        if t < last:
            return
        path = ResultsFolder(self.output_folder(trainer)).strip(video.name)
        save_picture(path, _strip(self._columns))
        self._columns = []
        if trainer.is_global_zero:
            key = f"{stage_of(trainer)}/{video.name}"
            # The step at which Lightning is about to log the figures of this validation, which is one less than
            # global_step: W&B drops what comes at a step before the last one, and that would be J&F.
            step = trainer.fit_loop.epoch_loop._batches_that_stepped
            for logger in trainer.loggers:
                if hasattr(logger, "log_image"):
                    logger.log_image(key=key, images=[str(path)], step=step)


def _tile(frame: Tensor, labels: Tensor) -> Tensor:
    """``(3, h, w)`` uint8 on the CPU: the overlay at a size where its outlines survive, w <= 320."""
    return overlay(*shrunk(frame, labels, _TILE_WIDTH)).cpu()


def _strip(columns: list[tuple[str, Tensor, Tensor | None]]) -> Image.Image:
    """Tiles side by side, each with its frame's name; the second row only if any tile has ground truth."""
    _, height, width = columns[0][1].shape
    rows = 2 if any(below is not None for _, _, below in columns) else 1
    size = (len(columns) * (width + _GAP) - _GAP, rows * (height + _GAP) - _GAP)
    strip = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(strip)
    for i, (name, above, below) in enumerate(columns):
        tiles = (above, torch.full_like(above, _DARK) if below is None else below)
        for row, tile in enumerate(tiles[:rows]):
            x, y = i * (width + _GAP), row * (height + _GAP)
            strip.paste(Image.fromarray(tile.permute(1, 2, 0).contiguous().numpy()), (x, y))
            caption = f"{name} {'prediction' if row == 0 else 'no ground truth' if below is None else 'ground truth'}"
            if width >= 10 * len(caption):
                draw.text((x + 4, y + 3), caption, fill="white", stroke_width=1, stroke_fill="black")
    return strip
