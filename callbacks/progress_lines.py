"""Progress of a training whose output goes to a file, as it does under Slurm or nohup."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Any

from lightning import Callback, LightningModule, Trainer
from rich.console import Console


class ProgressLines(Callback):
    """Prints a line at every ``percent`` of the run, on rank zero, unless the output is a terminal.

    ``step 250/4000  loss 1.234  lr 0.0005  1.9 steps/s  0:32:51 left``; speed and time left are those since the last
    line, validation included.

    Args:
        percent: share of the run between two lines, in (0, 100].
    """

    def __init__(self, percent: float = 5.0) -> None:
        if not 0 < percent <= 100:
            raise ValueError(f"percent={percent} must be above 0 and at most 100")
        self.percent = percent
        self._clock: tuple[float, int] = (0.0, 0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._clock = (time.monotonic(), trainer.global_step)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Print when the next share is reached."""
        step, total = trainer.global_step, trainer.max_steps
        interval = max(1, round(total * self.percent / 100))
        if not trainer.is_global_zero or sys.stdout.isatty() or step % interval or step == self._clock[1]:
            return
        now = time.monotonic()
        speed = (step - self._clock[1]) / max(1e-9, now - self._clock[0])
        self._clock = (now, step)
        loss = float(trainer.callback_metrics.get("train/loss", float("nan")))
        left = timedelta(seconds=round((total - step) / speed))
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        Console(soft_wrap=True, highlight=False).print(
            f"step {step}/{total}  loss {loss:.3f}  lr {rate:.2g}  {speed:.2f} steps/s  {left} left"
        )
