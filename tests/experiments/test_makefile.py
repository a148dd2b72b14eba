"""The Makefile: a target is one command a stage, and values reach it as they were typed."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from conftest import small
from lightning import Trainer
from tiny_runs import ROOT, commands, small_model, tiny, training, write_tiny_demo

STRANGE = 'it\'s $x `ls`; "q" & #1'


def make(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """``make``, also when make itself has started the tests."""
    ours = ("MAKE", "MFLAGS", "GOMP")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return subprocess.run(["make", *words], cwd=ROOT, check=check, capture_output=True, text=True, env=env)


def test_train_is_a_command_a_stage() -> None:
    python = ".venv/bin/python -m experiments"
    lines = make("-n", "train", "METHOD=remn").stdout.splitlines()
    assert lines[-3:] == [f"{python} static", f"{python} video --from-static", f"{python} eval --if-needed"]
    assert make("-n", "train", "STAGE=video").stdout.splitlines()[-1] == f"{python} train"
    assert make("-n", "check-data").stdout.splitlines()[-1] == f"{python} check-data"


def test_help_names_every_target() -> None:
    shown = make().stdout
    targets = ("train", "static", "video", "eval", "compare", "submission", "check-data", "slurm", "test", "lint")
    assert all(f"make {target} " in shown for target in targets)


def test_a_mistake_is_one_line() -> None:
    done = make("-s", "static", "METHOD=nobody", check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    error, end = done.stderr.splitlines()
    assert error == "error: METHOD=nobody: choose from dmm_net, hmmn, remn, siam_dyn"
    assert end.startswith("make: *** [")


@pytest.mark.parametrize("name", ["DATA_ROOT", "RUNS", "RUN", "WEIGHTS", "CKPT"])
@pytest.mark.parametrize("stage", ["video", "eval"])
def test_values_arrive_as_they_were_typed(name: str, stage: str) -> None:
    words = ("METHOD=remn", "PRECISION=32-true", f"{name}={STRANGE}")
    (line,) = make("-s", "command", f"STAGE={stage}", *words).stdout.splitlines()
    assert [shlex.split(line)[3:]] == commands(stage, *words)
    used = (name, stage) not in (("WEIGHTS", "eval"), ("CKPT", "video"))
    assert any(STRANGE in word for word in shlex.split(line)) is used


@pytest.mark.slow
def test_a_run_and_a_prediction_in_strange_folders(tmp_path: Path) -> None:
    """Training from weights, evaluation and prediction, each by its target."""
    folder = tmp_path / STRANGE
    demo = write_tiny_demo(folder / "sets")
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(small("REMN"))
    trainer.save_checkpoint(folder / "static.ckpt", weights_only=True)

    given = ("--data.root", "--trainer.default_root_dir", "--trainer.precision")
    options = [word for word in [*small_model("remn"), *tiny(demo, tmp_path)] if not word.startswith(given)]
    words = [f"DATA_ROOT={demo}", f"RUNS={folder}/runs", "PRECISION=32-true", "METHOD=remn"]
    make("video", *words, f"WEIGHTS={folder}/static.ckpt", f"ARGS={shlex.join([*options, *training()])}")
    options = [word for word in options if not word.startswith("--model")]
    make("eval", *words, f"ARGS={shlex.join(options)}")
    assert (folder / "runs/remn-demo/eval/results/global_results-val.csv").is_file()

    name = min((demo / "demo/JPEGImages/480p").glob("val-*")).name
    clip = (demo / "demo/JPEGImages/480p" / name).rename(folder / "my; clip")
    mask = min((demo / "demo/Annotations/480p" / name).iterdir()).rename(folder / "my $mask.png")
    words += [f"VIDEO={clip}", f"MASK={mask}", f"OUT={folder}/out put", "ARGS=--trainer.accelerator=cpu"]
    done = make("predict", *words)
    assert len(list((folder / "out put" / "masks").rglob("*.png"))) == len(list(clip.iterdir())), done.stdout
