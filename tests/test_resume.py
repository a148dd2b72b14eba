"""A run that was killed goes on as if nothing had happened; a run on two processes is the run on one."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from interruption import differences
from tiny_runs import METHODS, ROOT, commands, small_model, started, tiny, training, write_tiny_demo

METHOD = "remn" if "remn" in METHODS else METHODS[0]
STEPS = 12


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_demo(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def weights(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the video stage starts from; a resumed run must not go back to it."""
    out = tmp_path_factory.mktemp("static")
    (command,) = commands("static", f"METHOD={METHOD}", "DATA=demo")
    started([*command, *small_model(METHOD), *tiny(demo, out), *training(), "--trainer.limit_val_batches=0"])
    return out / "checkpoints" / "last.ckpt"


def arguments(demo: Path, out: Path, weights: Path, precision: str) -> list[str]:
    """Twelve steps, saved every third, validated every fifth: neither divides the other."""
    (command,) = commands("video", f"METHOD={METHOD}", "DATA=demo", f"WEIGHTS={weights}")
    options = [
        "--data.num_workers=1",
        "--trainer.val_check_interval=5",
        f"--trainer.precision={precision}",
        "--trainer.callbacks+=interruption.Interruption",
    ]
    options += [f"--trainer.callbacks={LAST}"] if False else []
    return [*command, *small_model(METHOD), *tiny(demo, out, STEPS), *training(), *options]
