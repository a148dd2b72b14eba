"""Progress of a run: a bar on a terminal, lines where the output goes to a file, as under Slurm or nohup."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console


class ProgressBar(RichProgressBar):
    """Lightning's bar, on a terminal only, without epochs (a run is one) and the number of the logger's version."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=4)  # a second; the default of 100 keeps a core busy
        if not sys.stdout.isatty():
            self.disable()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What is logged with ``prog_bar=True``."""
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training"


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
        self._silent = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look for a terminal; once a bar is running, the output no longer says that it is one."""
        self._silent = not trainer.is_global_zero or sys.stdout.isatty()

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
        if self._silent or step % interval or step == self._clock[1]:
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
