"""The command line: ``python -m lightning_vos fit|validate|test --config ...``."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import yaml
from lightning import LightningDataModule
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_vos.checkpoint import read_checkpoint
from lightning_vos.module import VOSModule


class VOSCLI(LightningCLI):
    """LightningCLI that takes any method and any data module by ``class_path``."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """What our methods can do: fit, validate and test."""
        return {name: skip for name, skip in LightningCLI.subcommands().items() if name != "predict"}

    def _parse_ckpt_path(self) -> None:
        """Not Lightning's way, where a checkpoint's settings beat the command line; see :func:`with_settings_of`."""


def with_settings_of(args: Sequence[str]) -> list[str]:
    """Put the model settings that a checkpoint holds between the configuration files and the options.

    So ``validate --ckpt_path=X`` builds the network that X was trained as, and ``--model.top_k=30`` still changes it.

    Raises:
        ValueError: the checkpoint cannot be read, or belongs to another method than the configuration names.
        FileNotFoundError: there is no such checkpoint.
    """
    args = list(args)
    path = next((arg.partition("=")[2] for arg in args if arg.startswith("--ckpt_path=")), None)
    if not args or args[0] == "fit" or path is None:
        return args  # a resumed training is described by its configuration
    if not Path(path).is_file():
        raise FileNotFoundError(f"--ckpt_path={path}: no such file; train first, or set CKPT to a checkpoint")
    checkpoint = read_checkpoint(path)
    places = [index for index, arg in enumerate(args) if arg == "--config"]
    for index in places:
        configured = (yaml.safe_load(Path(args[index + 1]).read_text()) or {}).get("model", {}).get("class_path")
        if configured is not None and configured.rpartition(".")[2] != checkpoint["method"]:
            raise ValueError(
                f"--ckpt_path={path}: a checkpoint of {checkpoint['method']}, but {args[index + 1]} asks for "
                f"{configured}; choose METHOD or CKPT to match"
            )
    settings = {name: value for name, value in checkpoint["hyper_parameters"].items() if not name.startswith("_")}
    model = {"model": {"class_path": f"lightning_vos.{checkpoint['method']}", "init_args": settings}}
    end = places[-1] + 2 if places else 1
    return [*args[:end], "--config", json.dumps(model), *args[end:]]


def main(args: Sequence[str] | None = None) -> VOSCLI:
    """Parse the configuration, build the parts, run.

    Args:
        args: command line without the program; ``sys.argv`` by default.

    Returns:
        The command line object, whose ``trainer`` and ``model`` a test may look at.

    Raises:
        ValueError, FileNotFoundError, MisconfigurationException: a mistake in configuration or data.
    """
    # PyTorch and Lightning speak to developers here; nothing that a user of this project can act on.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter is intended.*")
    warnings.filterwarnings("ignore", message=".*there is no last checkpoint available.*")
    warnings.filterwarnings("ignore", message=".*`isinstance.treespec, LeafSpec.`.*")
    return VOSCLI(
        VOSModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={"parser_mode": "omegaconf+", "allow_abbrev": False},
        args=with_settings_of(sys.argv[1:] if args is None else args),
    )


def run() -> None:
    """Entry point: a user's mistake is one line on standard error and exit status 2, never a traceback."""
    try:
        main()
    except (ValueError, FileNotFoundError, MisconfigurationException) as error:
        if os.environ.get("VOS_TRACEBACK"):
            raise
        message = " ".join(str(error).split())
        sys.stderr.write(f"error: {message}\n(VOS_TRACEBACK=1 shows where)\n")
        sys.exit(2)


if __name__ == "__main__":
    run()
