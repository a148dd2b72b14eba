"""The file of a released network: safetensors with weights in half precision, and all else in its header.

Such a file holds bytes and text: reading it runs nothing. Weights are float16, half the size of what training keeps;
:func:`halved` says which stay as they are. The header's one entry, ``lightning_vos``, is JSON: ``method`` and
``network`` (names of classes), ``settings`` of the network and of its ``training``, the ``step`` it was saved at, the
facts of its ``card``, and ``sha256`` of the whole file with zeros in place of these 64 digits. So no byte of it can
change unnoticed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors
from torch import Tensor

from lightning_vos.discovery import find
from lightning_vos.settings import parameters

FORMAT = 1
ROUNDING = 2.0**-11  # of float16: half the distance of two neighbours, relative to the number
_ENTRY = "lightning_vos"
_NO_DIGITS = "0" * 64
_PARTS = {"method": str, "network": str, "settings": dict, "training": dict, "step": int, "card": dict}


def halved(weights: Mapping[str, Tensor], exact: Collection[str] = ()) -> dict[str, Tensor]:
    """Weights in float16, as far as this costs no more than its rounding.

    A tensor keeps its precision where it is no floating point, where it is named (statistics: a variance is divided
    by), and where it changes, as a vector, by more than ``ROUNDING`` of its length: numbers too large for float16, or
    all so small (below 6e-5) that it has fewer digits for them.

    Args:
        weights: entries by name.
        exact: names of those that are to stay as they are.
    """
    return {name: _own(value) if name in exact else _half(value) for name, value in weights.items()}


def _half(value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return _own(value)
    small, wanted = value.half(), value.double()
    lost = (small.double() - wanted).norm()  # infinite where a number is too large
    return _own(small if lost <= ROUNDING * wanted.norm() else value)


def _own(value: Tensor) -> Tensor:
    """In memory of its own, one number after the other: what safetensors writes."""
    return value.detach().clone(memory_format=torch.contiguous_format)


def encoded(checkpoint: Mapping[str, Any], card: Mapping[str, Any], exact: Collection[str], what: str) -> bytes:
    """The content of the file of a network.

    Args:
        checkpoint: as :func:`lightning_vos.checkpoint.read_checkpoint` gives it.
        card: facts for the model card, plain values.
        exact: names of entries that keep their precision.
        what: where the checkpoint comes from, for the messages.

    Raises:
        ValueError: its class is not installed, or its settings are no plain values.
    """
    known = parameters(find(checkpoint["network"], what))
    saved = checkpoint["hyper_parameters"]
    header = {
        "sha256": _NO_DIGITS,  # first, so that no other text is taken for it
        "format": FORMAT,
        "method": checkpoint["method"],
        "network": checkpoint["network"],
        "settings": {name: value for name, value in saved.items() if name in known},
        "training": {name: value for name, value in saved.items() if name not in known},
        "step": int(checkpoint.get("global_step", 0)),
        "card": dict(card),
    }
    try:
        text = json.dumps(header, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{what}: its settings are no plain values ({error}); it is damaged") from error
    content = safetensors.save(halved(checkpoint["state_dict"], exact), {_ENTRY: text})
    digits = hashlib.sha256(content).hexdigest()
    return content.replace(_NO_DIGITS.encode(), digits.encode(), 1)


def decoded(path: str | Path) -> dict[str, Any]:
    """Read the file of a network: what a checkpoint holds, with weights in float32.

    Returns:
        ``method``, ``network``, ``state_dict``, ``hyper_parameters`` and ``global_step`` as of a checkpoint;
        ``settings``: those of the network alone; ``card``: the facts for the model card.

    Raises:
        ValueError: the file is something else, damaged, or of a later version.
        OSError: it cannot be read now.
    """
    with Path(path).open("rb"):
        pass  # what the system says to that is an error of its own
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(_ENTRY)
        if text is None:
            raise ValueError(
                f"{path}: a safetensors file of something else, its header does not say which network it is; give one "
                "that python -m lightning_vos.release has written"
            )
        content = Path(path).read_bytes()
        header = _checked(text, content, path)
        weights = safetensors.load(content)
    except SafetensorError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path}: cannot be read as a network ({reason}); it is damaged or something else") from error
    return {
        "method": header["method"],
        "network": header["network"],
        "state_dict": {name: value.float() if value.dtype == torch.half else value for name, value in weights.items()},
        "hyper_parameters": {**header["training"], **header["settings"]},
        "settings": header["settings"],
        "global_step": header["step"],
        "card": header["card"],
    }


def _checked(text: str, content: bytes, path: str | Path) -> dict[str, Any]:
    """The header, once it is known to be as it was written.

    Raises:
        ValueError: it is not.
    """
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    digits = header.get("sha256") if isinstance(header, dict) else None
    if (
        not isinstance(digits, str)
        or len(digits) != len(_NO_DIGITS)
        or not digits.isascii()
        or hashlib.sha256(content.replace(digits.encode(), _NO_DIGITS.encode(), 1)).hexdigest() != digits
    ):
        raise ValueError(f"{path}: its checksum is not that of its content; the network is damaged, get the file again")
    if header.get("format") != FORMAT:
        raise ValueError(
            f"{path}: of format {str(header.get('format'))[:20]!r}, this version reads {FORMAT}; install a later one"
        )
    if wrong := [name for name, kind in _PARTS.items() if type(header.get(name)) is not kind]:
        raise ValueError(f"{path}: {wrong[0]!r} in its header is not of the right kind; the network is damaged")
    return header
