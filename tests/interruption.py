"""A callback that kills its whole process group at a chosen moment, as a power cut would, and notes every clip."""

from __future__ import annotations

import os
import signal
import zlib
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from lightning_vos.frame_callback import FrameCallback
from lightning_vos.types import ClipBatch
from lightning_vos.video import Video


class Interruption(FrameCallback):
    """Kills at ``VOS_TEST_KILL``: ``train 8`` after step 8, ``validate 10`` amid the validation after step 10.

    By SIGKILL, or the signal that ``VOS_TEST_SIGNAL`` names.

    Written to ``default_root_dir``: ``clips.txt`` with step and checksum of every batch, of rank 1 ``clips-1.txt``; and
    ``validations.txt`` with the step of every validation that was finished.
    """

    def __init__(self) -> None:
        self.moment, _, step = os.environ.get("VOS_TEST_KILL", "never 0").partition(" ")
        self.at = int(step)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: ClipBatch, batch_idx: int
    ) -> None:
        checksum = zlib.crc32(batch.frames.cpu().numpy().tobytes() + batch.masks.cpu().numpy().tobytes())
        name = f"clips-{trainer.global_rank}.txt" if trainer.global_rank else "clips.txt"
        _note(trainer, name, f"{trainer.global_step + 1} {checksum}")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: ClipBatch, batch_idx: int
    ) -> None:
        self._perhaps("train", trainer)

    def on_frame_end(
        self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int, frame: Tensor, labels: Tensor
    ) -> None:
        if video.index == 1 and t == 2:
            self._perhaps("validate", trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            _note(trainer, "validations.txt", f"{trainer.global_step}")

    def _perhaps(self, moment: str, trainer: Trainer) -> None:
        if (moment, trainer.global_step) == (self.moment, self.at):
            os.killpg(0, signal.Signals[os.environ.get("VOS_TEST_SIGNAL", "SIGKILL")])


def _note(trainer: Trainer, name: str, line: str) -> None:
    with (Path(trainer.default_root_dir) / name).open("a") as file:
        file.write(f"{line}\n")


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Where two nested structures of tensors and plain values are not the same to the last bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [path]
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return [f"{path}: {sorted(map(str, one.keys() ^ other.keys()))}"]
        return [line for key in one for line in differences(one[key], other[key], f"{path}.{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [
            line for i, (a, b) in enumerate(zip(one, other, strict=True)) for line in differences(a, b, f"{path}.{i}")
        ]
    return [] if one == other else [f"{path}: {one!r} and {other!r}"]
