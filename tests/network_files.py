"""Files of small networks, as a release writes them, and with what is wrong in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from conftest import small
from fuzz import signed
from safetensors import safe_open
from safetensors import torch as safetensors
from torch import Tensor

from lightning_vos import VOSModule
from lightning_vos.model_card import FACTS
from lightning_vos.network_file import encoded

CARD = {
    **{name: f"the {name}" for name in FACTS},
    "scores": {"J&F": 0.5, "J": 0.4, "F": 0.6, "sequences": {"bear": 0.5}},
}


def checkpoint_of(model: VOSModule) -> dict[str, Any]:
    """What a trainer would save of a network."""
    checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams), "global_step": 7}
    model.on_save_checkpoint(checkpoint)
    return checkpoint


def write_network(path: Path, method: str, **changes: Any) -> Path:
    """The file of a small network of a method, settings of a part as ``part__name``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(checkpoint_of(small(method, **changes)), CARD, (), method))
    return path


def header_of(path: Path) -> dict[str, Any]:
    """What the header of a file says."""
    with safe_open(path, "pt") as file:
        header: dict[str, Any] = json.loads(file.metadata()["lightning_vos"])
    return header


def altered(source: Path, target: Path, header: dict[str, Any] | None = None, **weights: Tensor) -> Path:
    """A copy with other values in its header and other weights, a dot in their names as ``__``; all of them signed."""
    given = {name.replace("__", "."): value for name, value in weights.items()}
    target.write_bytes(signed({**header_of(source), **(header or {})}, {**safetensors.load_file(source), **given}))
    return target
