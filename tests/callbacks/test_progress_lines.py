"""Progress: a bar on a terminal, lines in a file."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
import rich
from tiny_runs import ROOT, commands, small_model, tiny, training, write_tiny_demo

from lightning_vos.cli import main


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_a_bar_or_lines(terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Output(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    output = Output()
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["lightning_vos"])
    monkeypatch.setattr("sys.stdout", output)
    monkeypatch.setenv("TERM", "xterm")
    rich.reconfigure()  # the console that all share must not remember another output
    (command,) = commands("static", "METHOD=remn")
    data = write_tiny_demo(tmp_path / "data")
    options = [*small_model("remn"), *tiny(data, tmp_path / "run", steps=2), *training(stage="static")]
    main([*command, *options, "--trainer.limit_val_batches=0"])
    printed = output.getvalue()
    assert ("Training" in printed) is terminal
    assert ("v_num" in printed or "Epoch" in printed) is False
    lines = re.findall(r"^step (\d)/2  loss \d+\.\d{3}  lr \S+  \d+\.\d\d steps/s  0:00:\d\d left$", printed, re.M)
    assert lines == ([] if terminal else ["1", "2"])
