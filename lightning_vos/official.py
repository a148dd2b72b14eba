"""Released weights as a checkpoint: ``python -m lightning_vos.official HMMN HMMN_weights.pth last.ckpt``.

Settings of the model may follow: ``--model.memory_every=7``, ``--model.kernel.hop=paper``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml
from lightning import Trainer

from lightning_vos.cli import run
from lightning_vos.discovery import find
from lightning_vos.module import VOSModule
from lightning_vos.quiet import quieten
from lightning_vos.settings import nested


def save_checkpoint(model: VOSModule, path: str) -> None:
    """Write a model as a checkpoint that evaluation and ``--model.weights`` take, settings included."""
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(model)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    trainer.save_checkpoint(path, weights_only=True)


def main(args: list[str] | None = None) -> None:
    """Read the released files, write the checkpoint.

    Raises:
        ValueError, FileNotFoundError: as the method's ``from_official``, an unknown option, or a method of which no
            weights are released; nothing is written then.
    """
    parser = argparse.ArgumentParser(prog="python -m lightning_vos.official", description=__doc__)
    parser.add_argument("method", help="its class, such as HMMN")
    parser.add_argument("files", nargs="+", help="the released file or files")
    parser.add_argument("checkpoint", help="where to write")
    options, settings = parser.parse_known_args(args)
    quieten()
    method = find(options.method, "the released file")
    if not hasattr(method, "from_official") or not issubclass(method, VOSModule):
        raise ValueError(
            f"{options.method}: no released weights make a checkpoint of it; name a class that can be trained and has "
            "from_official, such as HMMN"
        )
    try:
        model = method.from_official(*options.files, **_parsed(settings))
    except TypeError as error:  # more files than the method has, or a setting that it does not have
        raise ValueError(f"{options.method}: {error}") from error
    save_checkpoint(model, options.checkpoint)
    sys.stdout.write(f"{options.checkpoint}: {options.method} with the released weights\n")


def _parsed(words: list[str]) -> dict[str, Any]:
    """Settings out of ``--model.name=value``; those of a part, ``--model.part.name=value``, as a dict."""
    settings = {}
    for word in words:
        name, equals, value = word.removeprefix("--model.").partition("=")
        if not word.startswith("--model.") or not equals:
            raise ValueError(f"{word}: no such option; settings of the model are given as --model.name=value")
        settings[name] = yaml.safe_load(value)
    return nested(settings)


if __name__ == "__main__":
    run(main)
