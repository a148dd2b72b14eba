"""Killed at random moments, again and again: a run always goes on, from a whole file, and ends as if undisturbed."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
from random_kills import STOPPED, Run, disturb
from tiny_runs import METHODS, in_a_process, write_tiny_demo

METHOD = METHODS[-1]
pytestmark = pytest.mark.slow


def test_ctrl_c_saves(tmp_path: Path) -> None:
    """A terminal sends it to the whole process group, loaders included."""
    run = Run(METHOD, write_tiny_demo(tmp_path / "data"), tmp_path / "run", steps=120, workers=1)
    process = in_a_process(run.arguments, "train 7", signal.SIGINT)
    assert process.returncode == STOPPED, process.stderr
    assert "Ctrl-C again to stop at once" in process.stderr
    assert "stopped by SIGINT after step 7 of 120; the same command continues" in process.stderr
    assert run.saved == 7


def test_twenty_kills(tmp_path: Path) -> None:
    """Of one method, in one process; ``random_kills.py`` by hand kills all, also in two."""
    demo = write_tiny_demo(tmp_path / "data")
    whole, killed = (Run(METHOD, demo, tmp_path / name, steps=80) for name in ("whole", "killed"))
    ends, faults = disturb(whole, killed, 20, random.Random(0))
    assert faults == []
    assert sum(count for end, count in ends.items() if end.endswith(f"[{STOPPED}]")) > 3
    assert ends["SIGKILL [-9]"] > 3
