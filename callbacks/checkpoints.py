"""What is saved of a run: the newest state for resuming and the best by J&F."""

from __future__ import annotations

from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class LastCheckpoint(ModelCheckpoint):
    """``last.ckpt``: the state after every ``every_n_train_steps`` steps and after the last one.

    ``fit --ckpt_path=last`` continues from it. The file is replaced atomically.

    Args:
        dirpath: folder of the run's checkpoints. It must be known before the run starts, to find the one to continue.
        every_n_train_steps: optimiser steps between two savings.
    """

    def __init__(self, dirpath: str, every_n_train_steps: int = 500) -> None:
        super().__init__(
            dirpath, filename="last", every_n_train_steps=every_n_train_steps, enable_version_counter=False
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The number of steps need not be a multiple of the interval."""
        if self._last_global_step_saved != trainer.global_step:
            trainer.save_checkpoint(Path(self.dirpath or "") / "last.ckpt", weights_only=False)


class BestCheckpoint(ModelCheckpoint):
    """``best.ckpt``: the state with the highest ``val/J&F`` so far.

    Chosen on the validation set, so its score there is optimistic; the figures in our tables are those of ``last``.

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
