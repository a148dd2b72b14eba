"""The least that can be trained: three weights that follow the mean colour of the clips, under a real trainer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from data_files import write_davis
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks import LastCheckpoint, SkippedSteps
from datamodules import DavisSet, VideoDataModule
from lightning_vos.module import VOSModule
from lightning_vos.resume import AtomicCheckpointIO
from lightning_vos.types import ClipBatch
from lightning_vos.video import Video

Spoil = Callable[[Tensor, Tensor], Tensor]  # of a loss, given the weights


class Learner(VOSModule):
    """Remembers the clips it is shown in each step (from 1), and the weights after it.

    Args:
        **kwargs: see VOSModule.

    Attributes:
        spoiled: step (from 1) -> what becomes of the loss of its first pass.
        scores: J&F of the validations to come.
        spoiled_rank: the one rank whose loss is spoiled; ``None``: all.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"lr": 0.1, **kwargs})
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.spoiled: dict[int, Spoil] = {}
        self.spoiled_rank: int | None = None
        self.scores: list[float] = []
        self.clips: dict[int, list[str]] = {}
        self.after: dict[int, Tensor] = {}

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        clips = self.clips.setdefault(self.steps_done + 1, [])
        clips += [hashlib.sha256(frames.numpy().tobytes()).hexdigest() for frames in batch.frames]
        colour = batch.frames.float().mean((1, 3, 4)) / 255
        loss = ((self.weight * colour).sum(1) + self.weight.square().sum()).mean()
        spoil = self.spoiled.get(self.steps_done + 1)
        if (
            spoil
            and self.spoiled_rank in (None, self.global_rank)
            and batch_idx % self.trainer.accumulate_grad_batches == 0
        ):
            loss = spoil(loss, self.weight)
        return self.log_losses({"colour": loss}, len(colour))

    def on_train_batch_end(self, *args: Any) -> None:
        self.after[self.steps_done] = self.weight.detach().clone()

    def validation_step(self, video: Video, batch_idx: int) -> None:
        """Sees nothing."""

    def on_validation_epoch_end(self) -> None:
        if self.scores:
            self.log("val/J&F", self.scores.pop(0))


class Crash(Callback):
    """A power cut after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("power cut")


def clips(root: Path, **arguments: Any) -> VideoDataModule:
    """Four tiny videos for training, one for validation; the sets are written once."""
    if not (root / "DAVIS").exists():
        write_davis(root / "DAVIS", {"train": ["cow", "ant", "bee", "gnu"], "val": ["elk"]})
    settings: dict[str, Any] = {"clip_length": 2, "batch_size": 4, "crop": 32, "num_workers": 0, "seed": 5}
    videos, val = [DavisSet("DAVIS", repeat=3)], DavisSet("DAVIS", split="val")
    return VideoDataModule(str(root), **{"videos": videos, "val": val, "max_skip": [(0.0, 1)], **settings, **arguments})


def trainer(folder: Path, *callbacks: Callback, max_steps: int = 6, **arguments: Any) -> Trainer:
    """As ``base.yaml`` sets one up: a state after every step, steps that are not finite left out."""
    own: list[Callback] = [LastCheckpoint(str(folder), every_n_train_steps=1)]
    if not any(isinstance(callback, SkippedSteps) for callback in callbacks):
        own.append(SkippedSteps())
    settings: dict[str, Any] = {"devices": 1, "limit_val_batches": 0, "gradient_clip_val": 1.0, "max_epochs": 1}
    return Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[*own, *callbacks],
        plugins=[AtomicCheckpointIO()],
        **{**settings, **arguments},
    )
