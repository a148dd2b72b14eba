"""Every method's folder in experiments/ trains both stages, hands over its weights and is evaluated."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from conftest import SMALL
from PIL import Image
from tiny_runs import (
    METHODS,
    ROOT,
    class_name,
    commands,
    small_model,
    started,
    tiny,
    training,
    write_tiny_demo,
)

from lightning_vos.cli import VOSCLI
from lightning_vos.settings import flat

STAGES = ("static", "video")
pytestmark = pytest.mark.slow
SUMMARY = r"J&F \d\.\d{3}  J \d\.\d{3}  F \d\.\d{3}  \(copied first mask \d\.\d{3}\)  \d+\.\d FPS on \S.*"


class Runs(NamedTuple):
    """One run of each stage and an evaluation, with what they printed."""

    method: str
    folder: Path
    static: VOSCLI
    video: VOSCLI
    evaluation: VOSCLI
    printed: dict[str, str]

    def state(self, stage: str) -> dict[str, Any]:
        return torch.load(self.folder / stage / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["lightning_vos"])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_demo(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", params=METHODS)
def runs(request: pytest.FixtureRequest, demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """As ``make train`` does it, with the smallest network."""
    method, folder = request.param, tmp_path_factory.mktemp("runs")
    clis: dict[str, VOSCLI] = {}
    printed: dict[str, str] = {}
    for stage in STAGES:
        (command,) = commands(stage, f"METHOD={method}", "DATA=demo", f"RUN={folder.name}")
        weights = [f"--model.weights={folder}/static/checkpoints/last.ckpt"] if stage == "video" else []
        args = [*command, *small_model(method), *tiny(demo, folder / stage), *training(stage=stage), *weights]
        clis[stage], printed[stage] = started(args)
    (command,) = commands("eval", f"METHOD={method}", "DATA=demo", f"CKPT={folder}/video/checkpoints/last.ckpt")
    clis["eval"], printed["eval"] = started([*command, *tiny(demo, folder / "eval")])
    return Runs(method, folder, clis["static"], clis["video"], clis["eval"], printed)


@pytest.mark.parametrize("stage", STAGES)
def test_training_leaves_everything_behind(runs: Runs, stage: str) -> None:
    folder, cli = runs.folder / stage, getattr(runs, stage)
    assert cli.trainer.global_step == 1
    assert type(cli.model).__name__ == class_name(runs.method, stage)
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    assert (folder / "checkpoints" / "best.ckpt").is_file()
    assert {path.name for path in (folder / "results").iterdir()} == {
        "global_results-val.csv",
        "per-sequence_results-val.csv",
        "per-frame_results-val",
    }
    pictures = sorted((folder / "pictures").glob("*.png"))
    assert [path.stem for path in pictures] == sorted(cli.datamodule.val_set.names)
    with Image.open(pictures[0]) as picture:
        assert picture.height > 2 * 48  # prediction above ground truth
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert saved["data"]["init_args"]["crop"] == 48
    assert saved["trainer"]["max_steps"] == 1
    metrics = cli.trainer.callback_metrics
    for name in ("train/loss", *(f"val/{key}" for key in ("J&F", "J", "F", "J&F_copied_first_mask", "FPS"))):
        assert torch.isfinite(metrics[name]), name


@pytest.mark.parametrize("stage", ["static", "video", "eval"])
def test_last_line_has_the_figures(runs: Runs, stage: str) -> None:
    lines = runs.printed[stage].rstrip().splitlines()
    assert re.fullmatch(SUMMARY, lines[-1].rstrip()), lines[-1]
    with (runs.folder / stage / "results" / "global_results-val.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert lines[-1].startswith(f"J&F {float(row['J&F-Mean']):.3f}  J {float(row['J-Mean']):.3f}  ")


def test_video_stage_starts_from_the_static_weights(runs: Runs, demo: Path, tmp_path: Path) -> None:
    (command,) = commands("video", f"METHOD={runs.method}", "DATA=demo", "WEIGHTS=x.ckpt")
    assert "--model.weights=x.ckpt" in command
    weights = f"--model.weights={runs.folder}/static/checkpoints/last.ckpt"
    args = [*command, *small_model(runs.method), *tiny(demo, tmp_path), *training(), "--trainer.limit_val_batches=0"]
    if runs.method == "dmm_net":  # would start the encoder from another network of the checkpoint
        args.append("--model.trunk_from_detector=false")
    started([*args, weights, "--model.lr=0"])  # a step that changes nothing
    now = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    static, video = runs.state("static"), runs.state("video")
    assert now["global_step"] == 1
    assert all(torch.equal(now["state_dict"][name], static[name]) for name in static)
    assert any(not torch.equal(video[name], static[name]) for name in static)  # the real run has moved on


def test_evaluation_builds_the_network_of_the_checkpoint(runs: Runs) -> None:
    # `make eval` names no recipe: without the checkpoint's settings this would be the full-size network.
    trained = runs.video.model.state_dict()
    assert {name: value.shape for name, value in runs.evaluation.model.state_dict().items()} == {
        name: value.shape for name, value in trained.items()
    }
    results = [
        (runs.folder / stage / "results" / f"{kind}_results-val.csv").read_text()
        for kind in ("global", "per-sequence")
        for stage in ("video", "eval")
    ]
    assert results[0] == results[1]
    assert results[2] == results[3]


def test_options_go_over_the_settings_of_the_checkpoint(runs: Runs, demo: Path, tmp_path: Path) -> None:
    (command,) = commands("eval", f"METHOD={runs.method}", f"CKPT={runs.folder}/video/checkpoints/last.ckpt")
    saved = flat(runs.video.model.hparams)
    changes = {"lr": 0.25, **{name: 5 for name in saved if name.rpartition(".")[2] == "top_k"}}
    options = [f"--model.{name}={value}" for name, value in changes.items()]
    cli, _ = started([*command, *tiny(demo, tmp_path), "--trainer.limit_val_batches=1", *options])
    hparams = flat(cli.model.hparams)
    assert {name: hparams[name] for name in changes} == changes
    kept = {name: value for name, value in SMALL[class_name(runs.method)].items() if name not in changes}
    assert {name: hparams[name] for name in kept} == kept


def test_predict_composes(runs: Runs, demo: Path, tmp_path: Path) -> None:
    """``make predict`` layers the method's own file over that of predictions, whose data module knows no training."""
    video = next((demo / "demo/JPEGImages").glob("*/val-*"))
    mask = min((demo / "demo/Annotations").glob(f"*/{video.name}/*.png"))
    words = (f"CKPT={runs.folder}/video/checkpoints/last.ckpt", f"VIDEO={video}", f"MASK={mask}", f"OUT={tmp_path}")
    (command,) = commands("predict", f"METHOD={runs.method}", *words)
    started([*command, "--trainer.accelerator=cpu"])
    assert len(list((tmp_path / "masks").rglob("*.png"))) == len(list(video.iterdir()))


@pytest.mark.parametrize("method", METHODS)
def test_full_size(method: str, demo: Path, tmp_path: Path) -> None:
    (command,) = commands("video", f"METHOD={method}", "DATA=demo", "RECIPE=")
    args = [*command, *tiny(demo, tmp_path), *training(1), "--trainer.limit_val_batches=1", "--data.crop=64"]
    if method == "dmm_net":  # pictures of 64 pixels need not be blown up to 800
        args.append("--model.detector.short_side=128")
    # Half a gigabyte of checkpoints would take longer than the rest.
    cli, _ = started([*args, "--trainer.callbacks=null", "--trainer.enable_checkpointing=false", "--ckpt_path=null"])
    assert cli.trainer.global_step == 1
    assert torch.isfinite(cli.trainer.callback_metrics["train/loss"])
    assert sum(parameter.numel() for parameter in cli.model.parameters()) > 18e6
