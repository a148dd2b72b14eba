"""A trained network as a file to release: ``python -m lightning_vos.release last.ckpt remn.safetensors --data ...``.

Writes the network in half precision, and its model card ``remn.md`` beside it. What is written is read back and
compared before it has its name. Given a released network in place of a checkpoint, it is written again; facts that are
not given are then those it has.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_vos.atomic import unfinished
from lightning_vos.checkpoint import read_checkpoint, restore
from lightning_vos.cli import run
from lightning_vos.command_line import at_home
from lightning_vos.model_card import FACTS, card, read_scores
from lightning_vos.network_file import decoded, encoded, halved
from lightning_vos.networks import ENDING, locate
from lightning_vos.quiet import quieten

LARGEST = 12_000_000  # bytes of a file: it travels with the package


def release(checkpoint: str, network: str | Path, facts: Mapping[str, str], results: str | Path | None = None) -> None:
    """Write the file of a network and its model card.

    Args:
        checkpoint: to release; a path, or the name of a released network.
        network: the file to write; its name without ``.safetensors`` is that of the released network.
        facts: what ``FACTS`` lists, all that a released network does not have already.
        results: folder of the evaluation that the card is to show; ``None``: that of the training stage, if its last
            validation came after the checkpoint, or what a released network has already.

    Raises:
        FileNotFoundError: no such checkpoint, or no results.
        ValueError: a fact is missing, the checkpoint cannot be read or does not fit its class, or the file would be too
            large; nothing is written then.
    """
    target = Path(network)
    if target.suffix != ENDING or "." in target.stem:
        raise ValueError(f"{network}: not the name of a network's file; give one like remn{ENDING}, with no other dot")
    path = locate(checkpoint)
    saved = read_checkpoint(path)
    model = restore(saved, path, saved["network"], {})
    told = {**saved.get("card", {}), **{name: " ".join(text.split()) for name, text in facts.items() if text.strip()}}
    if missing := [name for name in FACTS if name not in told]:
        raise ValueError(f"{network}: {', '.join(missing)} not given; a model card says them: --{missing[0]}=...")
    folder = results or _beside(Path(path))
    if folder is not None:
        told["scores"] = read_scores(folder)
    elif "scores" not in told:
        raise FileNotFoundError(
            f"{path}: no scores of it found; evaluate it, and give the folder of the evaluation: --results=..."
        )
    exact = model.state_dict().keys() - dict(model.named_parameters()).keys()
    content = encoded(saved, told, exact, path)
    if len(content) > LARGEST:
        raise ValueError(
            f"{network}: would take {len(content) / 1e6:.1f} MB, and a released network at most {LARGEST / 1e6:.0f}; "
            "train a smaller one"
        )
    with unfinished(target) as beside:
        beside.write_bytes(content)
        written = decoded(beside)
        _check_same(saved, written, exact, target)
        restore(written, str(target), written["network"], {})
    with unfinished(target.with_suffix(".md")) as beside:
        beside.write_text(card(target.stem, written, content), encoding="utf-8")


def _beside(checkpoint: Path) -> Path | None:
    """The folder of the stage whose last state this is, if it was scored since."""
    folder = checkpoint.absolute().parent.parent
    scores = folder / "results" / "global_results-val.csv"
    last = checkpoint.name == "last.ckpt" and checkpoint.absolute().parent.name == "checkpoints"
    return folder if last and scores.is_file() and scores.stat().st_mtime > checkpoint.stat().st_mtime else None


def _check_same(saved: dict[str, Any], written: dict[str, Any], exact: set[str], path: Path) -> None:
    """Refuse what was read back and is not what was to be written.

    Raises:
        ValueError: naming the first part or entry that differs.
    """
    wrong = [name for name in ("method", "network", "hyper_parameters") if saved[name] != written[name]]
    wanted, found = halved(saved["state_dict"], exact), written["state_dict"]
    wrong += sorted(wanted.keys() ^ found.keys())
    wrong += [name for name in wanted if name in found and not torch.equal(wanted[name].to(found[name]), found[name])]
    if wrong:
        raise ValueError(f"{path}: not written, what was read back differs in {wrong[0]}; try again")


def main(args: list[str] | None = None) -> None:
    """Read the checkpoint, write the network and its model card.

    Raises:
        FileNotFoundError, ValueError: see :func:`release`; nothing is written then.
    """
    parser = argparse.ArgumentParser(prog="python -m lightning_vos.release", description=__doc__)
    parser.add_argument("checkpoint", help="to release; or a released network, to write it again with other facts")
    parser.add_argument("network", help=f"file to write, <name>{ENDING}")
    parser.add_argument("--results", help="folder of the evaluation that the card shows")
    for name, what in FACTS.items():
        parser.add_argument(f"--{name}", default="", help=what)
    words = [at_home(word) for word in (sys.argv[1:] if args is None else args)]
    options = vars(parser.parse_args(words))
    quieten()
    release(options["checkpoint"], options["network"], {name: options[name] for name in FACTS}, options["results"])
    sys.stdout.write(
        f"{options['network']}: {Path(options['network']).stat().st_size / 1e6:.1f} MB, and its model card\n"
    )


if __name__ == "__main__":
    run(main)
