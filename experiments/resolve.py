"""The configuration that a run has when all its layers and options have gone over one another."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import yaml

from experiments.compose import Run
from lightning_vos.cli import main


def resolve(run: Run) -> dict[str, Any]:
    """What ``--print_config`` prints, parsed in this process; nothing is built.

    Raises:
        ValueError: what is wrong with a file or an option.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([*run.words, "--print_config"])
    return dict(yaml.safe_load(printed.getvalue()))
