"""A run that was logged offline in several parts is uploaded as one, by wandb's own uploader."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import wandb
from tiny_runs import ROOT
from wandb_server import wandb_server

from callbacks import AutoWandbLogger


@pytest.mark.parametrize("how", ["make sync", "what the run said"])
def test_parts_become_one_run(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("callbacks.wandb.rank_zero_info", said.append)
    runs = tmp_path / ("runs" if how == "make sync" else "my runs")
    folder = runs / "mine" / "video"
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    parts = ([1, 2, 3, 4], [3, 4, 5])  # the second goes on from a checkpoint after step 2
    for number, steps in enumerate(parts):
        time.sleep(1.1 * number)  # the folder of a part is named by the second in which it starts
        logger = AutoWandbLogger(save_dir=str(folder))
        for step in steps:
            logger.log_metrics({"train/loss": 1 / step}, step)
        wandb.finish()
    identity = (folder / "wandb" / "run_id.txt").read_text().strip()
    assert len(list((folder / "wandb").glob(f"offline-run-*-{identity}"))) == len(parts)

    upload = said[0].partition("upload later with: ")[2]
    with wandb_server() as server:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "MAKE"))}
        environment |= {
            "WANDB_BASE_URL": server.url,
            "WANDB_API_KEY": 40 * "a",
            "HOME": str(tmp_path),
            "WANDB_DIR": str(tmp_path),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        command = ["make", "sync", f"RUNS={runs}"] if how == "make sync" else ["bash", "-c", upload]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        assert set(server.history) == {identity}, done.stderr
        lines = [server.history[identity][number] for number in sorted(server.history[identity])]
    # W&B numbers the lines of a continued run on; the axis of its curves is the optimiser step.
    assert [line["trainer/global_step"] for line in lines] == [step for steps in parts for step in steps]
    assert [line["train/loss"] for line in lines] == [1 / step for steps in parts for step in steps]
