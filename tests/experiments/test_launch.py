"""Several commands in turn: what they are given, which signals they get, and when no further one is started."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import ROOT

from experiments.launch import in_turn

# Says that it is there, waits, and ends with status 75 and the number of the signals that it has got until then.
CHILD = """
import pathlib, signal, sys, time
got = []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, frame: got.append(number))
pathlib.Path(sys.argv[1]).touch()
while not got:
    time.sleep(0.01)
time.sleep(0.3)
pathlib.Path(sys.argv[1]).write_text(" ".join(signal.Signals(number).name for number in got))
sys.exit(75)
"""
PARENT = """
import sys
from experiments.launch import in_turn
sys.exit(in_turn([[sys.executable, "-c", sys.argv[1], path] for path in sys.argv[2:]]))
"""


def parent(tmp_path: Path, **settings: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", PARENT, CHILD, f"{tmp_path}/one", f"{tmp_path}/two"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, **settings)
    end = time.monotonic() + 60
    while not (tmp_path / "one").exists():
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_reaches_the_running_command(number: signal.Signals, tmp_path: Path) -> None:
    process = parent(tmp_path)
    process.send_signal(number)
    assert process.wait(timeout=60) == 75
    assert (tmp_path / "one").read_text() == number.name
    assert not (tmp_path / "two").exists()


def test_ctrl_c_of_a_terminal_reaches_it_once(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()

    def own_terminal() -> None:
        os.setsid()
        os.close(os.open(os.ttyname(theirs), os.O_RDWR))  # becomes the controlling terminal

    process = parent(tmp_path, stdin=theirs, preexec_fn=own_terminal)
    os.write(ours, b"\x03")
    assert process.wait(timeout=60) == 75
    assert (tmp_path / "one").read_text() == "SIGINT"
    assert not (tmp_path / "two").exists()
    os.close(ours)
    os.close(theirs)


def test_the_first_that_fails_is_the_last(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def script(line: str) -> list[str]:
        return [sys.executable, "-c", line]

    before = signal.getsignal(signal.SIGTERM)
    assert (
        in_turn([script("import os; print(os.environ['NO_ALBUMENTATIONS_UPDATE'], os.environ['GOMP_SPINCOUNT'])")] * 2)
        == 0
    )
    assert capfd.readouterr().out.count("\n1 30000\n") == 2
    touch = script(f"open({str(tmp_path / 'x')!r}, 'w')")
    assert in_turn([script("raise SystemExit(3)"), touch]) == 3
    assert in_turn([script("import os; os.kill(os.getpid(), 9)"), touch]) == 137
    assert not (tmp_path / "x").exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_command_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    assert in_turn([["echo", "a b", "$c"]]) == 0
    assert capfd.readouterr().out == "echo 'a b' '$c'\na b $c\n"
