"""Checkpoints: written whole or not at all, read strictly or with an error that says why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_vos.atomic import unfinished


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it: at every moment the old file is there, or the new one.

    Lightning writes to the system's temporary folder and moves the file; from one file system to another that is a
    copy, and who is killed amid it leaves half a checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write ``checkpoint``, so that the machine may be switched off at any time."""
        path = Path(path)
        for left in path.parent.glob(f".{path.name}.*"):  # of a write that was killed
            left.unlink(missing_ok=True)
        with unfinished(path, durable=True) as beside:
            torch.save(checkpoint, beside)


def load_weights(module: nn.Module, path: str) -> dict[str, Any]:
    """Load the weights of a checkpoint of the same method into ``module``; every entry must fit.

    Returns:
        The settings of the run that wrote them.

    Raises:
        ValueError: no such file, not a checkpoint, another method, or entries that are missing or do not fit.
    """
    if not Path(path).is_file():
        raise ValueError(f"--model.weights={path}: no such file; give a checkpoint (.ckpt) of {type(module).__name__}")
    checkpoint = read_checkpoint(path)
    check_method(checkpoint, module, f"--model.weights={path}")
    state = checkpoint["state_dict"]
    advice = "use the same model settings (trunk, widths) in both stages"
    check_fits(module.state_dict(), state, f"--model.weights={path}", advice)
    module.load_state_dict(state)
    return dict(checkpoint["hyper_parameters"])


def check_fits(own: Mapping[str, Tensor], given: Mapping[str, Tensor], what: str, advice: str, other: str = "") -> None:
    """Refuse entries that cannot take the place of a module's own.

    Args:
        own: the module's entries.
        given: what should take their place.
        what: where that comes from, for the message.
        advice: what to do, likewise.
        other: where the module's entries come from, if that is to be named.

    Raises:
        ValueError: naming the first few that are missing, unexpected, or of another shape.
    """
    wrong = [f"{name} is missing" for name in own if name not in given]
    wrong += [f"{name} is unexpected" for name in given if name not in own]
    wrong += [
        f"{name} is {tuple(given[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    if wrong:
        place = f" {other}" if other else ""
        raise ValueError(f"{what}: {len(wrong)} entries do not fit{place} ({'; '.join(wrong[:3])}, ...); {advice}")


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read a checkpoint that training wrote, without running any code in it.

    Raises:
        ValueError: the file is something else, or damaged.
    """
    checkpoint = _read(path, "a checkpoint")
    missing = {"method", "state_dict", "hyper_parameters"} - set(checkpoint if isinstance(checkpoint, dict) else ())
    if missing:
        raise ValueError(f"{path}: not a checkpoint of this project, {', '.join(sorted(missing))} not in it")
    return checkpoint


def check_method(checkpoint: dict[str, Any], module: nn.Module, what: str) -> None:
    """Refuse the checkpoint of another method; ``what`` names it in the message.

    Raises:
        ValueError: naming both methods.
    """
    method = checkpoint.get("method", type(module).__name__)
    if method != type(module).__name__:
        raise ValueError(f"{what} belongs to {method}, not to {type(module).__name__}: choose --model to match")


def check_continues(checkpoint: dict[str, Any], path: str, model: LightningModule, trainer: Trainer) -> None:
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
    given: tuple[str, ...] = getattr(model, "pretrained", ())  # they are in the checkpoint, which does not name them
    own, saved = model.hparams, checkpoint["hyper_parameters"]
    names = [name for name in own if name in saved and name not in given]
    changed = [f"{name}={own[name]} instead of {saved[name]}" for name in names if own[name] != saved[name]]
    if changed:
        rank_zero_warn(f"{path}: the run goes on with other settings than it was saved with: {', '.join(changed)}")


def read_released(path: str, wanted: str) -> dict[str, Tensor]:
    """Read a flat state dict as authors release it, without running any code in it.

    Args:
        path: the file; entries with or without the prefix ``module.``.
        wanted: what should be given, for the messages.

    Returns:
        The entries, without the prefix.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is something else, or damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; give {wanted}")
    content = _read(path, "a state dict")
    entries = content if isinstance(content, dict) else {}
    if not entries or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in entries.items()):
        what = f"a dict of {', '.join(map(str, list(entries)[:4]))}" if entries else type(content).__name__
        own = "; a checkpoint of this project needs no import" if "method" in entries else ""
        raise ValueError(f"{path}: not a flat state dict but {what}; give {wanted}{own}")
    return {name.removeprefix("module."): value for name, value in entries.items()}


def check_released(path: str, method: str, wanted: str, missing: list[str], unexpected: list[str]) -> None:
    """Refuse a released state dict of which not every entry has found its place.

    Args:
        path: the file or files.
        method: its name.
        wanted: what should be given.
        missing: what is missing or does not fit, a phrase for each entry.
        unexpected: what is left over, likewise.

    Raises:
        ValueError: naming the first few.
    """
    wrong = [*missing, *unexpected]
    if wrong:
        raise ValueError(
            f"{path}: not the released {method}, {len(missing)} entries are missing or do not fit and "
            f"{len(unexpected)} are unexpected ({'; '.join(wrong[:4])}{', ...' if len(wrong) > 4 else ''}); "
            f"give {wanted}"
        )


def _read(path: str, kind: str) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are something else make the unpickler fail in any way
        said = "" if isinstance(error, LookupError) else str(error).strip()  # a lookup names its key and nothing else
        reason = said.partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise ValueError(f"{path}: cannot be read as {kind} ({reason}); it is damaged or something else") from error
