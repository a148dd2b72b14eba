"""Runs that are stopped and go on: checkpoints written whole, and what a run may go on with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
from lightning import LightningDataModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

from lightning_vos import checksum
from lightning_vos.atomic import unfinished
from lightning_vos.checkpoint import check_finite, read_checkpoint, weights_of
from lightning_vos.networks import ENDING
from lightning_vos.run_settings import run_settings
from lightning_vos.settings import changed

if TYPE_CHECKING:
    from lightning_vos.module import VOSModule


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it: at every moment the old file is there, or the new one.

    Lightning writes to the system's temporary folder and moves the file; from one file system to another that is a
    copy, and who is killed amid it leaves half a checkpoint. What is read is known to be what was written.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write ``checkpoint``, so that the machine may be switched off at any time.

        Raises:
            ValueError: its weights are not finite; the file stays what it was.
        """
        path = Path(path)
        # A forked process hands its weights back by a file of them alone.
        check_finite(weights_of(checkpoint), f"{path} is not written", "start again from it with a lower --model.lr")
        for left in path.parent.glob(f".{path.name}.*"):  # of a write that was killed: the folder has one owner
            left.unlink(missing_ok=True)
        with unfinished(path, durable=True) as beside:
            checksum.save(checkpoint, beside)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint that is as it was written, or the file of a released network.

        Raises:
            ValueError: it is not.
        """
        if Path(path).suffix == ENDING:
            return {**read_checkpoint(str(path)), "pytorch-lightning_version": lightning.__version__}
        try:
            checksum.check(path)
        except ValueError as error:
            raise ValueError(f"{path}: {error}; it is damaged, go on from another checkpoint") from error
        return super().load_checkpoint(path, *args, **kwargs)


def check_continues(
    checkpoint: dict[str, Any], path: str, model: VOSModule, trainer: Trainer, data: LightningDataModule
) -> None:
    """Refuse what a run cannot go on with; name the settings that are not those it was saved with.

    Raises:
        ValueError: it holds a network alone; the run is complete, and the trainer asks for more steps; or the samples
            that it has used would be others, so that what is left of the data is not known.
    """
    if "optimizer_states" not in checkpoint:
        raise ValueError(f"{path}: a network without its run, which cannot go on; start from it by --model.weights")
    done, steps = checkpoint["global_step"], trainer.max_steps
    anew = f"choose another --trainer.default_root_dir, with --model.weights={path} to start from what it has learned"
    ended = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] and trainer.max_epochs == 1
    if ended and done < steps:
        raise ValueError(
            f"{path}: this run is complete after {done} steps, trainer.max_steps={steps} cannot lengthen it; {anew}"
        )
    own, saved = run_settings(trainer, data), checkpoint.get("run", {})
    order = getattr(data, "order", ())
    moved = [f"data.{name}" for name in order if saved.get("data", own["data"]).get(name) != own["data"].get(name)]
    if moved and done < steps:
        raise ValueError(
            f"{path}: after {done} steps the order of the samples cannot change, but {', '.join(moved)} has; set it as "
            f"it was, or {anew}"
        )
    # What a network started from is in the checkpoint, which does not name it.
    other = changed(model.hparams, checkpoint["hyper_parameters"], ignored=model.pretrained) + changed(own, saved)
    if other:
        rank_zero_warn(f"{path}: the run goes on with other settings than it was saved with: {', '.join(other)}")


def align_passes(checkpoint: dict[str, Any], passes: int) -> None:
    """Count what a run has done in passes of ``passes`` a step, so that a step begins where one has ended.

    Args:
        checkpoint: of a run between two steps, with the loops of Lightning; its counters are changed.
        passes: of a step of the run that goes on, ``accumulate_grad_batches``.
    """
    before = checkpoint.get("run", {}).get("trainer", {}).get("accumulate_grad_batches", passes)
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"] if before != passes else {}
    for counts in (progress[name] for name in ("total", "current") if name in progress):
        more = counts["ready"] // before * passes - counts["ready"]
        for name in ("ready", "started", "processed", "completed"):
            counts[name] += more
