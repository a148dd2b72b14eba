"""Evaluation of a network as it was trained: the settings of a checkpoint among those of the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path

import yaml

from lightning_vos.checkpoint import read_checkpoint
from lightning_vos.config_errors import option_values
from lightning_vos.discovery import find
from lightning_vos.networks import locate
from lightning_vos.settings import parameters

_MARKED = "$\N{WORD JOINER}{"  # for ${ in a checkpoint, which the parser of configurations would fill in


def with_settings_of(args: Sequence[str]) -> list[str]:
    """Put the model settings that a checkpoint holds between the configuration files and the options.

    So ``validate --ckpt_path=X`` builds the network that X was trained as, and ``--model.top_k=30`` still changes it.

    Raises:
        ValueError: the checkpoint cannot be read, its settings are no plain values, or it belongs to another
            method than the configuration names.
        FileNotFoundError: there is no such checkpoint, or no released network of this name.
    """
    args = list(args)
    path = next((value for _, value in reversed(list(option_values(args, "--ckpt_path")))), None)
    if not args or args[0] == "fit" or path is None:
        return args  # a resumed training is described by its configuration
    checkpoint = read_checkpoint(locate(path, "--ckpt_path=", "train first, or give another checkpoint"))
    method = checkpoint["method"]
    class_path = f"lightning_vos.{method}"
    files = list(option_values(args, "--config", "-c"))
    for _, file in files:
        configured = _class_path(file)
        if configured is not None and configured.rpartition(".")[2] == method:
            class_path = configured  # which need not be among the installed methods
        elif configured is not None and method not in _starts_from(configured):
            raise ValueError(
                f"--ckpt_path={path}: a checkpoint of {method}, but {file} asks for {configured}; "
                "choose --config or --ckpt_path to match"
            )
    if class_path == f"lightning_vos.{method}":
        find(method, path)
    settings = checkpoint["hyper_parameters"]
    known = parameters(getattr(import_module(class_path.rpartition(".")[0]), method))
    if unknown := sorted(map(str, settings.keys() - known.keys())):
        raise ValueError(
            f"{path}: {method} has no setting {', '.join(unknown)}, with which it was trained; it was saved by another "
            "version"
        )
    for name, value in settings.items():
        if is_dataclass(known[name].default) and not isinstance(value, dict):
            raise ValueError(f"{path}: its setting {name} is {value!r}, not settings of that part; it is damaged")
    try:
        text = json.dumps({"model": {"class_path": class_path, "init_args": settings}}).replace("${", _MARKED)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its settings are no plain values ({error}); it is damaged") from error
    end = files[-1][0] if files else 1
    return [*args[:end], "--config", text, *args[end:]]


def as_saved(text: str) -> str:
    """Text of a configuration or a message without the marks that :func:`with_settings_of` has set in it."""
    return text.replace(_MARKED, "${")


def _starts_from(class_path: str) -> tuple[str, ...]:
    """Other classes of the same method, whose checkpoints are as good; what cannot be imported is said later."""
    module, _, name = class_path.rpartition(".")
    try:
        return tuple(getattr(import_module(module), name).starts_from)
    except (ImportError, AttributeError, ValueError):
        return ()


def _class_path(file: str) -> str | None:
    """The method that a configuration file names, if it does; what is wrong with the file is said when it is parsed."""
    try:
        config = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        return str(config["model"]["class_path"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        return None
