"""Released weights as a checkpoint: ``python -m lightning_vos.official HMMN HMMN_weights.pth last.ckpt``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lightning import Trainer

import lightning_vos
from lightning_vos.__main__ import quieten, run
from lightning_vos.module import VOSModule


def save_checkpoint(model: VOSModule, path: str) -> None:
    """Write a model as a checkpoint that evaluation and ``--model.weights`` take, settings included."""
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(model)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    trainer.save_checkpoint(path, weights_only=True)


def main(args: list[str] | None = None) -> None:
    """Read the released files, write the checkpoint.

    Raises:
        ValueError, FileNotFoundError: as the method's ``from_official``; nothing is written then.
    """
    methods = [name for name in lightning_vos.__all__ if hasattr(getattr(lightning_vos, name), "from_official")]
    parser = argparse.ArgumentParser(prog="python -m lightning_vos.official", description=__doc__)
    parser.add_argument("method", choices=methods)
    parser.add_argument("files", nargs="+", help="the released file or files")
    parser.add_argument("checkpoint", help="where to write")
    options = parser.parse_args(args)
    quieten()
    save_checkpoint(getattr(lightning_vos, options.method).from_official(*options.files), options.checkpoint)
    sys.stdout.write(f"{options.checkpoint}: {options.method} with the released weights\n")


if __name__ == "__main__":
    run(main)
