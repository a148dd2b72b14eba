"""Checkpoints, read strictly or with an error that says why, and the network that is in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_vos import checksum, network_file
from lightning_vos.discovery import find
from lightning_vos.networks import ENDING, locate
from lightning_vos.passing import passes
from lightning_vos.settings import build, overlaid, parameters

PARTS = {"method": str, "network": str, "state_dict": Mapping, "hyper_parameters": Mapping}
CURRENT = "current_model_state"  # Lightning's name of the weights in training, where ``state_dict`` is their average


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read a checkpoint that training wrote, or the file of a released network, without running any code in it.

    Args:
        path: a file; one of a released network ends in ``.safetensors``.

    Raises:
        ValueError: the file is something else, or damaged, or its weights are not finite.
    """
    checkpoint = network_file.decoded(path) if Path(path).suffix == ENDING else read_file(path, "a checkpoint")
    missing = PARTS.keys() - set(checkpoint if isinstance(checkpoint, dict) else ())
    if missing:
        raise ValueError(f"{path}: not a checkpoint of this project, {', '.join(sorted(missing))} not in it")
    if wrong := _wrong_part(checkpoint):
        raise ValueError(f"{path}: {wrong!r} in it is not of the right kind; the checkpoint is damaged")
    check_finite(weights_of(checkpoint), path, "give a checkpoint of before the run went wrong")
    return checkpoint


def _wrong_part(checkpoint: dict[str, Any]) -> str | None:
    """The first part that is not what it should be; names must be fit for a message of one line."""
    for name, kind in PARTS.items():
        if not isinstance(checkpoint[name], kind) or (kind is str and not checkpoint[name].isprintable()):
            return name
    if not isinstance(checkpoint.get(CURRENT, {}), Mapping):
        return CURRENT
    for name, value in weights_of(checkpoint).items():
        if not isinstance(name, str) or not name.isprintable() or not isinstance(value, Tensor):
            return str(name)
    return None


def weights_of(checkpoint: Mapping[str, Any]) -> dict[Any, Any]:
    """All weights of a checkpoint: those of the network and, where these are an average, those in training."""
    return {**checkpoint.get("state_dict", {}), **{f"{CURRENT}.{n}": w for n, w in checkpoint.get(CURRENT, {}).items()}}


def restore(checkpoint: dict[str, Any], path: str, name: str, settings: Mapping[str, Any]) -> Any:
    """The network of a checkpoint, on the CPU, in evaluation mode.

    Args:
        checkpoint: as :func:`read_checkpoint` gives it.
        path: where it was read, for the messages.
        name: of the class to build: the checkpoint's ``network``, or its ``method``, which can be trained.
        settings: those that are to differ from the checkpoint's; of a part a dict of what is to differ.

    Raises:
        ValueError: the class is not installed, has no such setting, or the weights do not fit it.
    """
    cls = find(name, path)
    known = parameters(cls)
    saved = {key: value for key, value in checkpoint["hyper_parameters"].items() if key in known}
    saved |= checkpoint.get("settings", {})  # all of them the network's own: an unknown one is refused
    try:
        model = build(cls, overlaid(saved, settings))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
    check_fits(model.state_dict(), checkpoint["state_dict"], path, "it was saved by another version")
    model.load_state_dict(checkpoint["state_dict"])
    return model.eval()


def load_weights(module: nn.Module, path: str, starts_from: Sequence[str] = ()) -> dict[str, Any]:
    """Load the weights of a checkpoint of the same method into ``module``; every entry must fit.

    Args:
        module: the network.
        path: a checkpoint of its class, or of those that ``starts_from`` names; a path, or the name of a released
            network.
        starts_from: names of classes.

    Returns:
        The checkpoint.

    Raises:
        FileNotFoundError: no such file, or no released network of this name.
        ValueError: not a checkpoint, another method, or entries that are missing or do not fit.
    """
    advice = f"give a checkpoint (.ckpt, .safetensors) of {type(module).__name__}"
    checkpoint = read_checkpoint(locate(path, "--model.weights=", advice))
    check_method(checkpoint, module, f"--model.weights={path}", starts_from)
    state = checkpoint["state_dict"]
    advice = "use the same model settings (trunk, widths) in both stages"
    check_fits(module.state_dict(), state, f"--model.weights={path}", advice)
    module.load_state_dict(state)
    return checkpoint


def without_files(settings: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Settings without those that name weights to start from, as a checkpoint holds these itself.

    Args:
        settings: nested.
        names: of settings, with a dot where one belongs to a part.
    """
    kept = {name: dict(value) if isinstance(value, dict) else value for name, value in settings.items()}
    for name in names:
        first, _, second = name.partition(".")
        if second and first in kept:
            kept[first][second] = None
        elif first in kept:
            kept[first] = None
    return kept


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


def check_finite(weights: Mapping[str, Any], what: str, advice: str) -> None:
    """Refuse weights that are not all numbers: a network with one of them computes nothing.

    Args:
        weights: entries by name; what is not a tensor of floats is not looked at.
        what: where they come from, for the message.
        advice: what to do, likewise.

    Raises:
        ValueError: naming the first few entries that hold an infinite value or none.
    """
    floats = {name: value for name, value in weights.items() if isinstance(value, Tensor) and value.is_floating_point()}
    wrong = [name for name, value in floats.items() if not value.isfinite().all()]
    if wrong:
        first = f"{', '.join(wrong[:3])}{', ...' if len(wrong) > 3 else ''}"
        raise ValueError(f"{what}: {len(wrong)} of {len(weights)} entries are not finite ({first}); {advice}")


def check_method(checkpoint: dict[str, Any], module: nn.Module, what: str, others: Sequence[str] = ()) -> None:
    """Refuse the checkpoint of another method; ``what`` names it in the message, ``others`` classes that will do too.

    Raises:
        ValueError: naming both methods.
    """
    method = checkpoint.get("method", type(module).__name__)
    if method not in (type(module).__name__, *others):
        raise ValueError(f"{what} belongs to {method}, not to {type(module).__name__}: choose --model to match")


def read_file(path: str, kind: str) -> Any:
    """What ``torch.save`` wrote to a file, byte for byte, without running any code in it.

    Raises:
        ValueError: the file is something else than the ``kind`` of thing it should be, or damaged.
        OSError: it cannot be read now.
    """
    try:
        checksum.check(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are something else make the unpickler fail in any way
        if passes(error):
            raise
        said = "" if isinstance(error, LookupError) else str(error).strip()  # a lookup names its key and nothing else
        reason = said.partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise ValueError(f"{path}: cannot be read as {kind} ({reason}); it is damaged or something else") from error
