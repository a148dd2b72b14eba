"""A run that was killed goes on as if nothing had happened; a run on two processes is the run on one."""

from __future__ import annotations

import csv
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
import yaml
from interruption import differences
from tiny_runs import METHODS, ROOT, commands, in_a_process, small_model, started, tiny, training, write_tiny_demo

from lightning_vos.config_errors import option_values

pytestmark = pytest.mark.slow

STEPS = 12
# Mixed precision where the processor can compute with it, as under make; elsewhere it takes minutes.
HALF = "bf16-mixed" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "32-true"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_demo(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def weights(method: str, demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the video stage starts from; a resumed run must not go back to it."""
    out = tmp_path_factory.mktemp("static")
    (command,) = commands("static", f"METHOD={method}", "DATA=demo")
    started(
        [*command, *small_model(method), *tiny(demo, out), *training(stage="static"), "--trainer.limit_val_batches=0"]
    )
    return out / "checkpoints" / "last.ckpt"


def arguments(method: str, demo: Path, out: Path, weights: Path, every: int, precision: str, ema: str) -> list[str]:
    """Twelve steps, saved after every third and validated after ``every``; the callbacks are those of base.yaml."""
    (command,) = commands("video", f"METHOD={method}", "DATA=demo", f"WEIGHTS={weights}")
    callbacks = yaml.safe_load((ROOT / "experiments/base.yaml").read_text())["trainer"]["callbacks"]
    for callback in callbacks:
        if callback["class_path"] == "callbacks.LastCheckpoint":
            callback["init_args"]["every_n_train_steps"] = 3
    callbacks.append({"class_path": "interruption.Interruption"})
    out.mkdir(exist_ok=True)
    (out / "mine.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    end = max(index for index, _ in option_values(command, "--config"))
    options = ["--data.num_workers=1", f"--trainer.val_check_interval={every}", f"--trainer.precision={precision}"]
    options.append(f"--model.ema={ema}")
    return [
        *command[:end],
        f"--config={out}/mine.yaml",
        *command[end:],
        *small_model(method),
        *tiny(demo, out, STEPS),
        *training(),
        *options,
    ]


def last(out: Path) -> dict[str, Any]:
    return torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)


def lines(out: Path, name: str) -> list[str]:
    return (out / name).read_text().split("\n")[:-1]


@pytest.mark.parametrize(
    ("kill", "saved", "every", "precision", "ema"),
    [
        ("train 8", 6, 5, "32-true", "null"),  # amid an epoch, after a validation
        ("validate 6", 6, 6, HALF, "0.9"),  # amid a validation, just after the state was saved
    ],
)
def test_a_killed_run_ends_as_if_nothing_had_happened(
    kill: str,
    saved: int,
    every: int,
    precision: str,
    ema: str,
    method: str,
    demo: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    logging = kill.startswith("train")
    started(arguments(method, demo, whole, weights, every, precision, ema))
    args = arguments(method, demo, killed, weights, every, precision, ema)
    if logging:
        args.remove("--trainer.logger=false")
    process = in_a_process(args, kill)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert last(killed)["global_step"] == saved
    done = len(lines(killed, "clips.txt"))
    assert done == int(kill.split()[1])
    monkeypatch.setenv("WANDB_MODE", "offline")
    started(args)

    one, other = last(whole), last(killed)
    assert one["global_step"] == other["global_step"] == STEPS
    average = () if ema == "null" else ("current_model_state", "averaging_state")
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "hyper_parameters", *average):
        assert differences(one[part], other[part]) == []
    assert all(differences(one["state_dict"], one[part]) for part in average)
    for name in ("global", "per-sequence"):
        file = f"results/{name}_results-val.csv"
        assert (whole / file).read_text() == (killed / file).read_text()

    clips = lines(whole, "clips.txt")
    assert len({line.split()[1] for line in clips}) == STEPS  # all different, so none can stand for another
    assert lines(killed, "clips.txt") == [*clips[:done], *clips[saved:]]  # none is left out, none comes twice
    # A validation that was due when the state was saved counts as done.
    missed = str(saved) if kill == f"validate {saved}" else None
    assert lines(killed, "validations.txt") == [step for step in lines(whole, "validations.txt") if step != missed]
    if logging:
        wandb.finish()
        parts = list((killed / "wandb").glob("offline-run-*/*.wandb"))
        assert len(parts) == 2
        assert {part.stem for part in parts} == {f"run-{(killed / 'wandb/run_id.txt').read_text().strip()}"}
        curves = [logged_steps(killed / f"curves/version_{version}/metrics.csv") for version in range(2)]
        assert curves[1] == list(range(saved, STEPS))
        assert curves[0] == list(range(len(curves[0])))


def logged_steps(path: Path) -> list[int]:
    """Steps, counted from 0, that have a training loss."""
    with path.open() as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]


def test_a_finished_run_is_left_alone(method: str, demo: Path, weights: Path) -> None:
    before = last(weights.parents[1])
    (command,) = commands("static", f"METHOD={method}", "DATA=demo")
    args = [*command, *small_model(method), *tiny(demo, weights.parents[1]), *training(stage="static")]
    cli, printed = started([*args, "--trainer.limit_val_batches=0"])
    assert cli.trainer.global_step == 1
    assert differences(before["state_dict"], last(weights.parents[1])["state_dict"]) == []
    assert f"checkpoint {weights}" in printed
    assert "complete after 1 steps; python -m lightning_vos validate --ckpt_path=<checkpoint> scores it" in printed
    with pytest.raises(
        ValueError, match=r"complete after 1 steps, trainer.max_steps=2 cannot lengthen it; choose another"
    ):
        started([*args, "--trainer.limit_val_batches=0", "--trainer.max_steps=2"])
    with pytest.warns(UserWarning, match=r"goes on with other settings than it was saved with: lr=0\.5 instead of"):
        started([*args, "--trainer.limit_val_batches=0", "--model.lr=0.5"])
    assert differences(before["state_dict"], last(weights.parents[1])["state_dict"]) == []


# ---------------------------------------------------------------- several processes


@pytest.mark.parametrize("method", ["dmm_net"])  # whose small recipe trains so
def test_two_processes_score_as_one(method: str, demo: Path, tmp_path: Path) -> None:
    """With Lightning's own launcher, as the small DMM-Net trains; test_ddp.py has all methods, in forks."""
    two = ["--trainer.devices=2", "--trainer.logger=false"]
    (command,) = commands("video", f"METHOD={method}", "DATA=demo")
    out = tmp_path / "two"
    options = [*small_model(method), "--model.lr=1e-5"]
    trained = in_a_process([*command, *options, *tiny(demo, out, 2), *training(), *two])
    assert trained.returncode == 0, trained.stderr
    assert len([line for line in trained.stdout.splitlines() if line.startswith("J&F ")]) == 1
    assert last(out)["global_step"] == 2
    assert {path.name for path in out.iterdir()} == {"checkpoints", "config.yaml", "pictures", "results"}
    assert len(list((out / "pictures").iterdir())) == 3  # each rank draws its own videos

    (command,) = commands("eval", f"METHOD={method}", "DATA=demo", f"CKPT={out}/checkpoints/last.ckpt")
    started([*command, *tiny(demo, tmp_path / "one")])
    assert results(tmp_path / "one") == results(out)
    assert float(results(out)[0].splitlines()[1].split(",")[0]) > 0.01  # something was found at all

    # One video for two ranks: the second has nothing of its own.
    lists = demo / "demo/ImageSets/2017"
    (lists / "single.txt").write_text((lists / "val.txt").read_text().splitlines()[0] + "\n")
    args = [*command, "--data.val.split=single"]
    started([*args, *tiny(demo, tmp_path / "single-one")])
    scored = in_a_process([*args, *tiny(demo, tmp_path / "single-two"), *two])
    assert scored.returncode == 0, scored.stderr
    assert results(tmp_path / "single-two") == results(tmp_path / "single-one")
    assert results(tmp_path / "single-two") != results(tmp_path / "one")


def results(out: Path) -> list[str]:
    return [(out / "results" / f"{name}_results-val.csv").read_text() for name in ("global", "per-sequence")]
