"""On a real Slurm: chained stages, a run that is stopped or loses a rank and goes on, trials of a sweep in an array."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from cluster import Cluster, cluster, missing
from interruption import differences
from tiny_runs import ROOT, small_model, tiny, training, write_tiny_demo

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(missing()),
        reason=f"needs a real Slurm, {', '.join(missing())} not found: apt-get install slurm-wlm munge",
    ),
    pytest.mark.xdist_group("slurm"),  # one cluster for all
]

METHOD, STEPS, EVERY, PAUSE, RATES = "remn", 12, 3, 8, [1e-3, 1e-4]
INTERRUPTED = {"signalled": PAUSE, "limited": PAUSE, "killed": PAUSE, "early": EVERY - 1}  # after which step


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    with cluster() as running:
        running.environment |= {
            "PYTHONPATH": f"{ROOT}:{ROOT}/tests:{ROOT}/tests/slurm",
            "WANDB_MODE": "offline",
            "NO_ALBUMENTATIONS_UPDATE": "1",
        }
        yield running


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_demo(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("it's; my $runs")


def options(demo: Path, runs: Path) -> str:
    """Twelve tiny steps, saved after every third; callbacks and logger are those of base.yaml."""
    callbacks = yaml.safe_load((ROOT / "experiments/base.yaml").read_text())["trainer"]["callbacks"]
    for callback in callbacks:
        if callback["class_path"] == "callbacks.LastCheckpoint":
            callback["init_args"]["every_n_train_steps"] = EVERY
    callbacks += [{"class_path": "interruption.Interruption"}, {"class_path": "pause.Pause"}]
    (runs / "callbacks.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    words = [*small_model(METHOD), *tiny(demo, runs, STEPS), *training(), f"--config={runs}/callbacks.yaml"]
    unwanted = ("--trainer.devices", "--trainer.default_root_dir", "--trainer.logger", "--trainer.precision")
    return shlex.join(word for word in words if not word.startswith(unwanted))


def submit(slurm: Cluster, demo: Path, runs: Path, run: str, *words: str, pause: int = 0) -> list[str]:
    """``slurm``, or ``agents``, with two tasks each; the numbers of the jobs."""
    variables = {
        "METHOD": METHOD,
        "DATA": "demo",
        "DATA_ROOT": str(demo),
        "RUNS": str(runs),
        "RUN": run,
        "GPUS": "0",
        "DEVICES": "2",
        "CPUS": "1",
        "ARGS": options(demo, runs),
        "VOS_TEST_PAUSE": str(pause),
    }
    target, *given = words
    variables |= dict(word.split("=", 1) for word in given)
    command = [sys.executable, "-m", "experiments", target]
    environment = {**slurm.environment, **variables}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == done.stderr.splitlines()[-1].split()[1].rstrip(":")  # the last one, to wait for
    return [line.split()[1].rstrip(":") for line in done.stderr.splitlines() if line.startswith("job ")]


def last(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def clips(folder: Path) -> list[str]:
    return (folder / "clips.txt").read_text().splitlines()


def output(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.glob("slurm-*.log")))


class Jobs(NamedTuple):
    """Numbers of the jobs, all submitted and interrupted at once; they share the static stage of the chain."""

    chain: list[str]
    interrupted: dict[str, str]
    array: str


@pytest.fixture(scope="module")
def jobs(slurm: Cluster, demo: Path, runs: Path) -> Jobs:
    chain = submit(slurm, demo, runs, "whole", "slurm", "STAGE=all")
    after = [f"AFTER={chain[0]}", f"WEIGHTS={runs}/whole/static/checkpoints/last.ckpt"]
    interrupted = {
        run: submit(slurm, demo, runs, run, "slurm", "STAGE=video", "NOTICE=40", *after, pause=pause)[0]
        for run, pause in INTERRUPTED.items()
    }
    sweep = {
        "command": yaml.safe_load((ROOT / f"experiments/{METHOD}/sweep.yaml").read_text())["command"],
        "parameters": {"model.lr": {"values": RATES}},
    }
    (runs / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    agent = f"AGENT={shlex.join([sys.executable, 'tests/slurm/agent.py', f'{runs}/sweep.yaml'])}"
    words = ["agents", "SWEEP=me/mine/tiny", f"COUNT={len(RATES)}", agent, *after]
    (array,) = submit(slurm, demo, runs, "unused", *words, pause=PAUSE)

    trials = [f"sweeps/tiny/trial{number}" for number in range(1, len(RATES) + 1)]
    for run in (*interrupted, *trials):
        for rank in range(2):
            slurm.until((runs / run / f"video/paused-{rank}").exists, f"rank {rank} of {run} to reach its step")
    # A limit from the start would say how fast this machine has to be; Slurm looks at limits every half minute or so.
    slurm.limit(interrupted["limited"], minutes=2)
    slurm.call("scancel", "--signal=USR1", interrupted["signalled"])
    for run in ("killed", "early"):
        os.kill(int((runs / run / "video/paused-1").read_text()), signal.SIGKILL)
    for number in range(1, len(RATES) + 1):
        slurm.call("scancel", "--signal=USR1", f"{array}_{number}")
    return Jobs(chain, interrupted, array)


@pytest.fixture(scope="module")
def whole(slurm: Cluster, jobs: Jobs, runs: Path) -> Path:
    """All stages undisturbed, by one command."""
    assert len(jobs.chain) == 3
    for stage, job in zip(("static", "video", "eval"), jobs.chain, strict=True):
        assert slurm.finished(job) == "COMPLETED", output(runs / "whole" / stage)
    return runs / "whole"


@pytest.mark.parametrize(
    ("run", "saved"), [("signalled", PAUSE), ("limited", PAUSE), ("killed", PAUSE // EVERY * EVERY), ("early", 0)]
)
def test_a_run_that_is_interrupted_goes_on(run: str, saved: int, slurm: Cluster, jobs: Jobs, runs: Path) -> None:
    folder, job = runs / run / "video", jobs.interrupted[run]
    # Slurm ends the other rank, maybe before it has done so by itself: then the job's status is 128 + SIGTERM.
    status = "137" if run in ("killed", "early") else "(75|143)"
    slurm.until(lambda: re.search(f"exit status {status}: queued again", output(folder)), "the job to end")
    if run == "limited":
        slurm.until(lambda: slurm.field(job, "JobState") in ("PENDING", "RUNNING"), "the job to be queued")
        slurm.limit(job, minutes=60)
    assert ("stopped by SIGUSR1 after step 8 of 12" in output(folder)) is (run in ("signalled", "limited"))
    assert ("number 1 of at most 4\nexit status 137: queued again, to start anew" in output(folder)) is (run == "early")

    # Ended as the undisturbed one, step for step, as one W&B run.
    assert slurm.finished(job) == "COMPLETED", output(folder)
    assert slurm.finished(jobs.chain[1]) == "COMPLETED", output(runs / "whole" / "video")
    assert slurm.field(job, "Restarts") == "1"
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert differences(last(runs / "whole/video")[part], last(folder)[part]) == []
    expected = clips(runs / "whole/video")
    assert len(expected) == STEPS
    assert clips(folder) == [*expected[: INTERRUPTED[run]], *expected[saved:]]
    assert not list(folder.glob("starts-*"))
    parts = list((folder / "wandb").glob("offline-run-*"))
    assert len(parts) == 2
    assert {path.name.rpartition("-")[2] for path in parts} == {(folder / "wandb/run_id.txt").read_text().strip()}


def test_an_array_of_trials_that_are_stopped_and_go_on(slurm: Cluster, jobs: Jobs, runs: Path) -> None:
    trials = [runs / f"sweeps/tiny/trial{number}/video" for number in (1, 2)]
    for number, (trial, rate) in enumerate(zip(trials, RATES, strict=True), 1):
        assert slurm.finished(f"{jobs.array}_{number}") == "COMPLETED", output(runs / "sweeps/tiny")
        assert slurm.field(f"{jobs.array}_{number}", "Restarts") == "1"
        assert last(trial)["global_step"] == STEPS
        assert last(trial)["hyper_parameters"]["lr"] == rate
        assert [int(line.split()[0]) for line in clips(trial)] == list(range(1, STEPS + 1))
        parts = list((trial / "wandb").glob("offline-run-*"))
        assert {path.name.rpartition("-")[2] for path in parts} == {f"trial{number}"}
    assert not list((runs / "sweeps/tiny").glob("trial-*.sh"))


def test_stages_follow_each_other(whole: Path) -> None:
    assert last(whole / "static")["global_step"] == last(whole / "video")["global_step"] == STEPS
    script = (whole / "video" / "job.sbatch").read_text()
    for line in ("ntasks-per-node=2", "signal=USR1@300", "requeue", "open-mode=append", "dependency=afterok:"):
        assert f"#SBATCH --{line}" in script
    assert shlex.quote(f"--model.weights={whole}/static/checkpoints/last.ckpt") in script
    results = "results/global_results-val.csv"
    assert (whole / "eval" / results).read_text() == (whole / "video" / results).read_text()


def test_a_wrong_number_of_tasks_is_refused(slurm: Cluster, demo: Path, runs: Path) -> None:
    folder = runs / "wrong"
    folder.mkdir()
    words = ["STAGE=video", f"RUNS={runs}", "RUN=wrong", "GPUS=0", "DEVICES=2", "ARGS=--trainer.devices=1"]
    command = ["make", "-s", "slurm", *words]
    done = subprocess.run(command, cwd=ROOT, env=slurm.environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "error: --trainer.devices=1, but Slurm is asked for 2: set GPUS and NODES" in done.stderr
    assert not list(folder.rglob("*"))
