"""How far a prediction is: a bar on a terminal, lines where the output goes to a file."""

from __future__ import annotations

import sys
import time
from datetime import timedelta

from lightning import LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from lightning_vos.frame_callback import FrameCallback
from lightning_vos.video import Footage, Video


class PredictionProgress(FrameCallback):
    """Shows frames done, frames per second, objects and the time left of the video that is being segmented.

    Frames per second count everything: decoding, segmentation, writing. Off a terminal a line is printed every
    ``percent`` of the video: ``bear  40/400 frames  12.3 FPS  2 objects  0:00:29 left``.

    Args:
        percent: share of the video between two lines, in (0, 100].

    Raises:
        ValueError: if ``percent`` is out of range.
    """

    def __init__(self, percent: float = 10.0) -> None:
        if not 0 < percent <= 100:
            raise ValueError(f"percent={percent} must be above 0 and at most 100")
        self.percent = percent
        self._bar: Progress | None = None
        self._frames = self._done = 0  # of all passes, in all and so far
        self._began = (0.0, 0)

    def on_footage_start(self, trainer: Trainer, pl_module: LightningModule, footage: Footage) -> None:
        """Say what is given, and begin anew, after what an interrupted prediction has done."""
        if footage.given:
            Console(soft_wrap=True, highlight=False, markup=False).print(f"{footage.video.name}: {footage.given}")
        self._stop()
        self._frames = sum(len(video) for video in footage.passes)
        self._done = sum(video.start for video in footage.passes)
        self._began = (time.monotonic(), self._done)
        if sys.stdout.isatty() and self._done < self._frames:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"), TimeRemainingColumn())
            self._bar = Progress(TextColumn("{task.description}"), *columns)
            self._bar.add_task(footage.video.name, total=self._frames, completed=self._done, state="")
            self._bar.start()

    def on_frame_end(
        self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int, frame: Tensor, labels: Tensor
    ) -> None:
        """Count the frame."""
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], advance=1, state=self._state(video))
        elif self._done == self._frames or self._done % max(1, round(self._frames * self.percent / 100)) == 0:
            seconds = (self._frames - self._done) / self._speed()
            Console(soft_wrap=True, highlight=False).print(
                f"{video.name}  {self._done}/{self._frames} frames  {self._state(video)}  "
                f"{timedelta(seconds=round(seconds))} left"
            )

    def on_footage_end(self, trainer: Trainer, pl_module: LightningModule, footage: Footage) -> None:
        """Take the bar away."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take the bar away, so that the message stands alone."""
        self._stop()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the bar of a video that failed away."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _speed(self) -> float:
        started, before = self._began
        return (self._done - before) / max(1e-9, time.monotonic() - started)

    def _state(self, video: Video) -> str:
        count = len(video.object_ids)
        return f"{self._speed():.1f} FPS  {count} object{'s' if count != 1 else ''}"
