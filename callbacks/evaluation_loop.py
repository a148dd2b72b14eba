"""Which evaluation is running: its stage, in the names of figures and files, and its videos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning import Trainer


def stage_of(trainer: Trainer) -> str:
    """``test`` in a test, else ``val``."""
    return "test" if trainer.testing else "val"


def evaluation_set(trainer: Trainer) -> Any:
    """The data set of the loop that is running: ``len()``, ``names`` of the videos and ``object_ids``, a tuple a video.

    Raises:
        ValueError: there are several, or it is not a set of videos.
    """
    loaders: Any = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    if isinstance(loaders, Sequence):
        if len(loaders) != 1:
            raise ValueError(f"{len(loaders)} {stage_of(trainer)} dataloaders: one is scored; give it one")
        loaders = loaders[0]
    dataset = loaders.dataset
    missing = [name for name in ("__len__", "names", "object_ids") if not hasattr(dataset, name)]
    if missing:
        raise ValueError(f"{type(dataset).__name__} has no {', '.join(missing)}: a set of videos is needed")
    return dataset
