"""Runs that are stopped and go on: checkpoints written whole, and what a run may go on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

from lightning_vos import checksum
from lightning_vos.atomic import unfinished
from lightning_vos.module import VOSModule
from lightning_vos.settings import changed


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it: at every moment the old file is there, or the new one.

    Lightning writes to the system's temporary folder and moves the file; from one file system to another that is a
    copy, and who is killed amid it leaves half a checkpoint. What is read is known to be what was written.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write ``checkpoint``, so that the machine may be switched off at any time."""
        path = Path(path)
        for left in path.parent.glob(f".{path.name}.*"):  # of a write that was killed: the folder has one owner
            left.unlink(missing_ok=True)
        with unfinished(path, durable=True) as beside:
            checksum.save(checkpoint, beside)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint that is as it was written.

        Raises:
            ValueError: it is not.
        """
        try:
            checksum.check(path)
        except ValueError as error:
            raise ValueError(f"{path}: {error}; it is damaged, go on from another checkpoint") from error
        return super().load_checkpoint(path, *args, **kwargs)


def check_continues(checkpoint: dict[str, Any], path: str, model: VOSModule, trainer: Trainer) -> None:
    """Refuse to lengthen a run that is complete; name the settings of the model that are not those it was saved with.

    Raises:
        ValueError: the run is complete, and the trainer asks for more steps.
    """
    done, steps = checkpoint["global_step"], trainer.max_steps
    ended = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] and trainer.max_epochs == 1
    if ended and done < steps:
        raise ValueError(
            f"{path}: this run is complete after {done} steps, trainer.max_steps={steps} cannot lengthen it; choose "
            f"another --trainer.default_root_dir, with --model.weights={path} to start from what it has learned"
        )
    # What a network started from is in the checkpoint, which does not name it.
    other = changed(model.hparams, checkpoint["hyper_parameters"], ignored=model.pretrained)
    if other:
        rank_zero_warn(f"{path}: the run goes on with other settings than it was saved with: {', '.join(other)}")
