"""The model card of a released network: what it has learned from, how, how good it is, and what it cannot do."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_vos.compare.records import read_sequences
from lightning_vos.results_folder import ResultsFolder

# What has to be said of every network, in the order of the card.
FACTS = {
    "data": "what it has learned from, such as 'DAVIS 2017 train and 200 rendered videos'",
    "licence": "of that data, and what follows for the network",
    "recipe": "as RECIPE names it, with what was changed",
    "command": "that trained it",
    "commit": "of this repository at that time",
    "scored": "what the scores are of, such as 'DAVIS 2017 val, 480p, bf16-mixed, the network of this file'",
    "limits": "what it is not good at",
}


def read_scores(folder: str | Path) -> dict[str, Any]:
    """Scores that an evaluation has left in its folder, in [0, 1].

    Returns:
        ``J&F``, ``J`` and ``F``: means over all objects; ``sequences``: J&F of each, the mean over its objects.

    Raises:
        FileNotFoundError: no evaluation has ended there.
        ValueError: its tables are not those of an evaluation.
    """
    files = ResultsFolder(Path(folder))
    for path in (files.global_csv("val"), files.sequences_csv("val")):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; give the folder of an evaluation, as make eval writes one")
    try:
        with files.global_csv("val").open(newline="") as file:
            (total,) = csv.DictReader(file)
        scores: dict[str, Any] = {name: float(total[f"{name}-Mean"]) for name in ("J&F", "J", "F")}
        scores["sequences"] = {name: sum(values) / len(values) for name, values in read_sequences(files).items()}
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{folder}: its tables are not those of an evaluation ({error}); evaluate again") from error
    return scores


def card(name: str, network: Mapping[str, Any], content: bytes) -> str:
    """The model card, in Markdown.

    Args:
        name: of the released network.
        network: as :func:`lightning_vos.network_file.decoded` gives it; its ``card`` holds ``FACTS`` and ``scores``.
        content: of the file.
    """
    facts, scores = network["card"], network["card"]["scores"]
    weights: dict[str, Tensor] = network["state_dict"]
    numbers = sum(value.numel() for value in weights.values())
    lines = [
        f"# {name}",
        "",
        f"{network['method']}, {numbers / 1e6:.2f} million weights, {len(content) / 1e6:.1f} MB in half precision, "
        f"saved after {network['global_step']} steps. `lightning_vos.load({name!r})` gives it in float32.",
        "",
        "| | |",
        "|---|---|",
        f"| data | {_cell(facts['data'])} |",
        f"| licence of the data | {_cell(facts['licence'])} |",
        f"| recipe | {_cell(facts['recipe'])} |",
        f"| command | `{_cell(facts['command'])}` |",
        f"| commit | {_cell(facts['commit'])} |",
        f"| SHA-256 of the file | `{hashlib.sha256(content).hexdigest()}` |",
        "",
        "## Scores",
        "",
        f"{facts['scored']}; in per cent.",
        "",
        "| | J&F | J | F |",
        "|---|---|---|---|",
        f"| mean over objects | {' | '.join(f'{100 * scores[part]:.1f}' for part in ('J&F', 'J', 'F'))} |",
        "",
        "| sequence | J&F |",
        "|---|---|",
        *(f"| {_cell(sequence)} | {100 * value:.1f} |" for sequence, value in sorted(scores["sequences"].items())),
        "",
        "## Limits",
        "",
        facts["limits"],
        "",
    ]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
