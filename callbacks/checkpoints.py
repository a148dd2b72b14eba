"""What is saved of a run: the newest state for resuming and the best by J&F; and how a run is stopped."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_vos.checkpoint import read_checkpoint
from lightning_vos.frame_callback import FrameCallback
from lightning_vos.passing import AGAIN
from lightning_vos.run_settings import run_settings
from lightning_vos.video import Video


class LastCheckpoint(ModelCheckpoint, FrameCallback):
    """``last.ckpt``: the state after every ``every_n_train_steps`` steps, before a validation and after the last step.

    ``fit --ckpt_path=last`` continues from it. The file is replaced atomically.

    SIGUSR1, SIGTERM and SIGINT (Ctrl-C) ask a run to stop; a second Ctrl-C ends it at once. As soon as one rank has got
    one, all save their state after the step in work (within a validation it has been saved before) and exit with status
    75, which tells the batch script to queue the job again. A fault that may pass ends a run with 75 too; then what was
    saved last stands, as the step that failed is not to be trusted. Lightning's own handlers save from within the
    signal, amid a step and maybe amid a collective operation, so these go over them for the time of the training.

    Args:
        dirpath: folder of the run's checkpoints. It must be known before the run starts, to find the one to continue.
        every_n_train_steps: optimiser steps between two savings.
    """

    def __init__(self, dirpath: str, every_n_train_steps: int = 500) -> None:
        super().__init__(
            dirpath, filename="last", every_n_train_steps=every_n_train_steps, enable_version_counter=False
        )
        self._signal: signal.Signals | None = None
        self._steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen for signals; the trainer puts back what was there when it ends."""
        super().on_train_start(trainer, pl_module)
        self._signal, self._steps = None, trainer.global_step
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._note)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is time; stop when asked to."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.global_step == self._steps:  # amid the passes of a step
            return
        self._steps = trainer.global_step
        stop = trainer.strategy.reduce_boolean_decision(self._signal is not None, all=False)
        if stop or (trainer.val_check_batch and (batch_idx + 1) % trainer.val_check_batch == 0):
            self._save_now(trainer)
        if stop:
            self._say(trainer)
            # A launcher that sees another rank fail would kill this one while it still has to close its logs.
            raise SystemExit(AGAIN if trainer.is_global_zero else 0)

    def on_frame_end(
        self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int, frame: Tensor, labels: Tensor
    ) -> None:
        """Leave a validation amid training: its state is saved, and a video may be long.

        Other ranks may have got no signal, or wait for this one and cannot see theirs: they lose their connection.
        """
        if self._signal is not None and trainer.state.fn == TrainerFn.FITTING:
            self._say(trainer)
            raise SystemExit(AGAIN)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The number of steps need not be a multiple of the interval."""
        self._save_now(trainer)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number)
        if number == signal.SIGINT:
            rank_zero_info("stopping after this step, and saving; Ctrl-C again to stop at once, without")

    def _save_now(self, trainer: Trainer) -> None:
        if self._last_global_step_saved != trainer.global_step and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(Path(self.dirpath or "") / "last.ckpt", weights_only=False)
            self._last_global_step_saved = trainer.global_step

    def _say(self, trainer: Trainer) -> None:
        reason = self._signal.name if self._signal is not None else "another rank"
        rank_zero_info(
            f"stopped by {reason} after step {trainer.global_step} of {trainer.max_steps}; the same command continues"
        )


class BestCheckpoint(ModelCheckpoint):
    """``best.ckpt``: the state with the highest ``val/J&F`` so far.

    Chosen on the validation set, so its score there is optimistic; the figures in our tables are those of ``last``.
    A run that goes on asks the file itself how good it is: ``last.ckpt`` was written before the validation that chose
    it. A validation without a score, as that of a set without ground truth, chooses nothing.

    Args:
        dirpath: folder of the run's checkpoints.
    """

    def __init__(self, dirpath: str) -> None:
        super().__init__(
            dirpath,
            filename="best",
            monitor="val/J&F",
            mode="max",
            auto_insert_metric_name=False,
            enable_version_counter=False,
            save_on_train_epoch_end=False,
        )
        self._scoreless = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the score to beat; say when there will be none."""
        super().on_train_start(trainer, pl_module)
        self._scoreless = False
        if trainer.global_step:
            self._score_to_beat(trainer)
        if not getattr(getattr(trainer.val_dataloaders, "dataset", None), "has_truth", True):
            self._say_scoreless("no frame of data.val has ground truth to score, beside the masks that are given")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, if this validation has a score, and it is the best."""
        if self.monitor in trainer.callback_metrics:
            super().on_validation_end(trainer, pl_module)
        elif not trainer.sanity_checking:
            self._say_scoreless(f"the validation has logged no {self.monitor}")

    def _score_to_beat(self, trainer: Trainer) -> None:
        path = Path(self.dirpath or "") / "best.ckpt"
        score = self._score_of(path, run_settings(trainer)["data"]) if path.is_file() else None
        known = {str(path): score} if score is not None else {}
        self.best_k_models, self.best_model_score, self.current_score = known, score, score
        self.best_model_path = self.kth_best_model_path = str(path) if known else ""
        if score is not None:
            self.kth_value = score

    def _score_of(self, path: Path, data: dict[str, Any]) -> Tensor | None:
        """The score that a checkpoint was chosen by; ``None`` where it does not count."""
        try:
            best = read_checkpoint(str(path))
        except ValueError as error:
            rank_zero_warn(f"{error}; the next validation replaces it")
            return None
        before = best.get("run", {}).get("data", {})
        if any(data.get(name) != before.get(name, data.get(name)) for name in ("val", "short_side")):
            rank_zero_warn(f"{path}: chosen on another validation set, its score does not count; the next replaces it")
            return None
        score: Tensor | None = best["callbacks"].get(self.state_key, {}).get("current_score")
        return score

    def _say_scoreless(self, reason: str) -> None:
        if not self._scoreless:
            self._scoreless = True
            rank_zero_warn(f"{reason}: there will be no best.ckpt; last.ckpt is saved as ever")
