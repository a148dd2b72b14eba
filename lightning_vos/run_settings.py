"""The settings of a training that decide what is learned, as its checkpoints hold them, beside those of the network."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, Trainer

from lightning_vos.settings import parameters

# Where data lies, and who reads it, change nothing of it.
WITHOUT_EFFECT = ("root", "num_workers", "demo")


def run_settings(trainer: Trainer, data: LightningDataModule | None = None) -> dict[str, Any]:
    """Plain values by the names of the command line: ``seed_everything``, ``trainer.*`` and ``data.*``, nested.

    Args:
        trainer: of the run.
        data: its data module, where the trainer does not know it yet.
    """
    data = data if data is not None else getattr(trainer, "datamodule", None)
    return {
        "seed_everything": torch.initial_seed(),
        "trainer": {
            "max_steps": trainer.max_steps,
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "gradient_clip_val": trainer.gradient_clip_val,
            "gradient_clip_algorithm": _plain(trainer.gradient_clip_algorithm) or "norm",
            "precision": str(trainer.precision),
            "devices": trainer.world_size,
        },
        "data": {} if data is None else data_settings(data),
    }


def data_settings(data: LightningDataModule) -> dict[str, Any]:
    """Settings of a data module that decide which clips it makes, as far as it keeps them under their names."""
    names = [name for name in parameters(type(data)) if name not in WITHOUT_EFFECT and hasattr(data, name)]
    return {"class_path": type(data).__qualname__} | {name: _plain(getattr(data, name)) for name in names}


def _plain(value: Any) -> Any:
    """What a checkpoint may hold and two runs can be compared by; of an object, its class and its attributes."""
    if value is None or isinstance(value, bool | int | float | str):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, Path) or not hasattr(value, "__dict__"):
        return str(value)
    return {"class_path": type(value).__qualname__, **{name: _plain(part) for name, part in vars(value).items()}}
