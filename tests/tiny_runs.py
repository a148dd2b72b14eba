"""Real runs of the command line, small enough for a test: what is composed for a stage, on a few tiny videos."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import SMALL

from datamodules.demo import write_demo
from experiments.compose import Run
from experiments.options import parse
from experiments.plan import plan
from lightning_vos.cli import VOSCLI, main

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = ROOT / "experiments"
METHODS = sorted(path.parent.name for path in EXPERIMENTS.glob("*/model.yaml"))
DATA = sorted(path.stem for path in EXPERIMENTS.glob("data/*.yaml"))


def recipes(method: str) -> list[str]:
    """The ways to layer a method: as it is, each recipe alone, the default for the demo set."""
    single = sorted(path.parent.name for path in (EXPERIMENTS / method).glob("*/model.yaml"))
    return ["", *single, "small demo"]


def write_tiny_demo(root: Path) -> Path:
    """Four training and three validation videos, eight images, all of about 48 x 64 pixels."""
    write_demo(
        root,
        size=(48, 64),
        train_videos=4,
        train_frames=6,
        val_videos=3,
        val_frames=5,
        image_size=(64, 64),
        images=8,
    )
    return root


def planned(*words: str) -> list[Run]:
    """The runs of a command and of variables, such as ``train METHOD=remn``, composed in the repository's root."""
    target, *variables = words
    environ = {"PRECISION": "32-true", **dict(word.split("=", 1) for word in variables)}
    with contextlib.chdir(ROOT):
        return plan(parse([target], environ))


def commands(*words: str) -> list[list[str]]:
    """Arguments after ``python -m lightning_vos`` of every run of a command."""
    return [list(run.words) for run in planned(*words)]


def class_name(method: str, stage: str = "model") -> str:
    """Of what a stage trains: a method may have a class for each stage."""
    models = [
        yaml.safe_load((EXPERIMENTS / method / f"{name}.yaml").read_text()).get("model", {})
        for name in ("model", stage)
    ]
    return str([model["class_path"] for model in models if "class_path" in model][-1].split(".")[-1])


def small_model(method: str) -> list[str]:
    """Options of the smallest network of a method."""
    settings = SMALL[class_name(method)].items()
    return [f"--model.{name}={'null' if value is None else value}" for name, value in settings]


def tiny(data: Path, out: Path, steps: int = 1) -> list[str]:
    """Options that make any run a matter of a second: the whole of it on a CPU, in this process, without W&B."""
    return [
        f"--data.root={data}",
        "--data.demo=false",
        "--data.crop=48",
        "--data.num_workers=0",
        f"--trainer.default_root_dir={out}",
        "--trainer.accelerator=cpu",
        "--trainer.devices=1",
        "--trainer.precision=32-true",
        "--trainer.logger=false",
        f"--trainer.max_steps={steps}",
        f"--trainer.val_check_interval={steps}",
        "--trainer.log_every_n_steps=1",
    ]


def training(clips: int = 2, stage: str = "video") -> list[str]:
    """Options of the training data alone; how long the clips of the first stage are is the method's choice."""
    return [f"--data.batch_size={clips}", *(["--data.clip_length=3"] if stage == "video" else [])]


def started(args: list[str]) -> tuple[VOSCLI, str]:
    """Run the command line in this process, in the repository's root; it and what it printed."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.chdir(ROOT)
        patch.setattr("sys.argv", ["lightning_vos"])
        cli = main(args)
    return cli, printed.getvalue()


def in_a_process(
    args: list[str], kill: str | None = None, by: signal.Signals = signal.SIGKILL
) -> subprocess.CompletedProcess[str]:
    """``python -m lightning_vos`` in a process group of its own, which the callback may kill."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "NO_ALBUMENTATIONS_UPDATE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    environment.pop("VOS_TEST_KILL", None)
    environment.pop("WANDB_SERVICE", None)  # that of this process, where the run would stay open when it is killed
    if kill is not None:
        environment["VOS_TEST_KILL"] = kill
        environment["VOS_TEST_SIGNAL"] = by.name
    command = [sys.executable, "-m", "lightning_vos", *args]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, start_new_session=True
    )
