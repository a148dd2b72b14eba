"""Who writes to the folders of a run: one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only

from lightning_vos.frame_callback import FrameCallback
from lightning_vos.lease import Lease

_PURPOSES = {"fit": "training", "validate": "evaluation", "test": "evaluation"}


@contextmanager
def owned(trainer: Trainer, subcommand: str) -> Iterator[None]:
    """Own the folders that a run writes to, by rank zero, until it ends in whatever way.

    A prediction owns each of its videos instead (:class:`callbacks.MaskWriter`): several may share a folder.

    Raises:
        FolderInUse: one of the folders belongs to another process.
    """
    with ExitStack() as leases:
        if trainer.is_global_zero and subcommand in _PURPOSES:
            for folder in written(trainer):
                leases.enter_context(Lease(folder, _PURPOSES[subcommand]))
        yield


@rank_zero_only
def look(folder: Path, subcommand: str) -> None:
    """Refuse the folder of a run that another process writes to, before loggers and callbacks are built and speak.

    Raises:
        FolderInUse: naming the process.
    """
    if subcommand in _PURPOSES:
        Lease(folder, _PURPOSES[subcommand]).look()


def written(trainer: Trainer) -> list[Path]:
    """The folders that a run writes to: that of the run, and those outside of it that its callbacks name."""
    folders = [Path(trainer.default_root_dir).absolute()]
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        own = callback.dirpath if isinstance(callback, ModelCheckpoint) else getattr(callback, "output_dir", None)
        if own is not None and isinstance(callback, ModelCheckpoint | FrameCallback):
            folders.append(Path(own).absolute())
    return [f for f in dict.fromkeys(folders) if not any(f != g and f.is_relative_to(g) for g in folders)]
