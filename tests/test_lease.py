"""A folder has one owner, and one that is gone locks nobody out."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_vos import lease
from lightning_vos.lease import FolderInUse, Lease

HOLDER = """
import sys, time
from lightning_vos.lease import Lease
Lease(sys.argv[1], "training").acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_another_process_is_named(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    named = rf"in use by process {holder.pid} on {socket.gethostname()} \(training\); wait for it, stop it, or choose"
    with pytest.raises(FolderInUse, match=named):
        Lease(tmp_path, "training").acquire()


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_owner_is_followed(holder: subprocess.Popen[str], tmp_path: Path, by: signal.Signals) -> None:
    holder.send_signal(by)
    holder.wait()
    with Lease(tmp_path, "training"), pytest.raises(FolderInUse, match=f"process {os.getpid()} "):
        Lease(tmp_path, "prediction").acquire()
    assert list(tmp_path.iterdir()) == []


def owner(tmp_path: Path, age: float = 0.0, **changes: object) -> Path:
    path = tmp_path / ".owner.json"
    path.write_text(
        json.dumps(
            {**lease._this_process(), "token": "x", "purpose": "training", "job": None, "restarts": None, **changes}
        )
    )
    os.utime(path, (time.time() - age, time.time() - age))
    return path


@pytest.mark.parametrize(
    ("age", "changes", "free"),
    [
        (0, {}, False),
        (0, {"started": "1"}, True),  # another process had this number before
        (10, {"host": "other", "machine": "b"}, False),
        (1000, {"host": "other", "machine": "b"}, True),
        (10, {"host": "other", "machine": "b", "job": "17"}, True),  # this job, before it was queued again
        (10, {"host": "other", "machine": "b", "job": "17", "restarts": "1"}, True),
        (10, {"host": "other", "machine": "b", "job": "17", "restarts": "2"}, False),  # another node of this job, now
        (10, {"host": "other", "machine": "b", "job": "18"}, False),
        (10, {"machine": "b"}, False),  # a container on this machine, or another machine called the same
        (1000, {"machine": "b"}, True),
        (10, {"machine": None}, False),
    ],
)
def test_which_owners_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: float, changes: dict[str, str], free: bool
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    owner(tmp_path, age, **changes)
    new = Lease(tmp_path, "training")
    if free:
        with new:
            assert json.loads(new.path.read_text())["pid"] == os.getpid()
    else:
        with pytest.raises(FolderInUse):
            new.acquire()
        assert sorted(path.name for path in tmp_path.iterdir()) == [".owner.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"x"'])
def test_a_lease_that_was_cut_off_is_nobodys(tmp_path: Path, content: str) -> None:
    path = tmp_path / ".owner.json"
    path.write_text(content)
    os.utime(path, (0, 0))
    with Lease(tmp_path, "training"):
        pass
    assert not path.exists()


def test_of_many_that_come_at_once_one_wins(tmp_path: Path) -> None:
    owner(tmp_path, started="1")
    processes = [
        subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    time.sleep(0.1)
    lines = []
    for process in processes:
        assert process.stdout is not None
        lines.append(process.stdout.readline())
    for process in processes:
        process.kill()
        process.wait()
    assert lines.count(b"held\n") == 1


def test_who_was_away_too_long_knows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEWED_EVERY", 0.05)
    first = Lease(tmp_path, "training")
    first.acquire()
    owner(tmp_path, token="another")
    deadline = time.monotonic() + 10
    while not first.lost and time.monotonic() < deadline:
        time.sleep(0.02)
    assert first.lost
    first.release()
    assert (tmp_path / ".owner.json").exists()  # it is the other's
