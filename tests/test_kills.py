"""Killed at random moments, again and again: a run always goes on, from a whole file, and ends as if undisturbed."""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from pathlib import Path

import pytest
import torch
import yaml
from interruption import differences
from tiny_runs import METHODS, ROOT, commands, in_a_process, small_model, started, tiny, training, write_tiny_demo

from lightning_vos.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow

METHOD, STEPS, EVERY, KILLS = METHODS[-1], 120, 2, 20
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1)
STOPPED = 75


def arguments(demo: Path, out: Path) -> list[str]:
    """A short run, saved after every second: the file is being written for much of the time."""
    (command,) = commands("video", f"METHOD={METHOD}", "DATA=demo")
    callbacks = yaml.safe_load((ROOT / "experiments/base.yaml").read_text())["trainer"]["callbacks"]
    for callback in callbacks:
        if callback["class_path"] == "callbacks.LastCheckpoint":
            callback["init_args"]["every_n_train_steps"] = EVERY
    callbacks.append({"class_path": "interruption.Interruption"})
    out.mkdir(exist_ok=True)
    (out / "mine.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    options = [*small_model(METHOD), *tiny(demo, out, STEPS), *training(1), f"--config={out}/mine.yaml"]
    return [*command, *options, "--trainer.val_check_interval=20"]


def fork(args: list[str]) -> int:
    """Start the run in a fork of this process, which spares the imports; its process id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            started(args)
            status = 0
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return child


def ended(child: int, how: int = 0) -> int | None:
    """Its exit status, negative for a signal; ``None`` while it runs."""
    found, status = os.waitpid(child, how)
    return os.waitstatus_to_exitcode(status) if found else None


def begun(out: Path) -> list[int]:
    """Steps that were begun, in order, over all starts."""
    path = out / "clips.txt"
    return [int(line.split()[0]) for line in path.read_text().splitlines()] if path.exists() else []


def saved(out: Path) -> int:
    """Step of the newest state; it can be read in any case."""
    path = out / "checkpoints" / "last.ckpt"
    return int(read_checkpoint(str(path))["global_step"]) if path.exists() else 0


def test_ctrl_c_saves(tmp_path: Path) -> None:
    """A terminal sends it to the whole process group, loaders included."""
    demo = write_tiny_demo(tmp_path / "data")
    process = in_a_process([*arguments(demo, tmp_path / "run"), "--data.num_workers=1"], "train 7", signal.SIGINT)
    assert process.returncode == STOPPED, process.stderr
    assert "Ctrl-C again to stop at once" in process.stderr
    assert f"stopped by SIGINT after step 7 of {STEPS}; the same command continues" in process.stderr
    assert saved(tmp_path / "run") == 7


def test_twenty_kills(tmp_path: Path) -> None:
    demo = write_tiny_demo(tmp_path / "data")
    rng = random.Random(0)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert os.waitpid(fork(arguments(demo, whole)), 0)[1] == 0
    reference = torch.load(whole / "checkpoints" / "last.ckpt", weights_only=True)
    assert begun(whole) == list(range(1, STEPS + 1))

    args, statuses = arguments(demo, killed), []
    for number in range(KILLS):
        target = len(begun(killed)) + rng.randint(0, 4)  # 0: before the first step, or on the way to it
        sent, child, status = SIGNALS[number % len(SIGNALS)], fork(args), None
        end = time.monotonic() + 600
        while status is None and len(begun(killed)) < target:
            assert time.monotonic() < end
            time.sleep(0.002)
            status = ended(child, os.WNOHANG)
        if status is None:
            time.sleep(rng.uniform(0, 0.1))
            os.kill(child, sent)
            status = ended(child)
        statuses.append(status)
        assert status in (0, -sent, STOPPED), f"kill {number}"
        last = begun(killed)[-1] if begun(killed) else 0
        if status == STOPPED:
            assert saved(killed) == last, f"kill {number}"
        assert last - 1 - saved(killed) <= EVERY, f"kill {number}"  # whether the last step was done is not known
    assert os.waitpid(fork(args), 0)[1] == 0
    assert statuses.count(STOPPED) > 3
    assert statuses.count(-signal.SIGKILL) > 3
    result = torch.load(killed / "checkpoints" / "last.ckpt", weights_only=True)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert differences(reference[part], result[part]) == []
    assert not list((killed / "checkpoints").glob(".*"))
