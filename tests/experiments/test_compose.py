"""What follows from a few choices: names, folders, checkpoints; and what is said of a wrong choice."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from tiny_runs import METHODS, ROOT, commands, planned

from experiments.compose import Experiment, compose, from_static, predict, train
from experiments.options import experiment_of, parse
from experiments.plan import scored
from lightning_vos import networks

METHOD = "remn" if "remn" in METHODS else METHODS[0]


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["static", "METHOD=nobody"], r"method=nobody: choose from .*remn.*"),
        (["static", "METHOD=no/body"], r"method=no/body: no model.yaml in this folder"),
        (["video", "DATA=davis"], r"data=davis: choose from davis16, .*demo.*"),
        (["video", "DATA=none.yaml"], r"data=none.yaml: no such file"),
        (["eval", "DATA="], r"data=: choose from davis16, .*demo.*"),
        (["compare", "DATA=mose"], r"data=mose: choose from davis16, .*demo.*"),
        (["submission", "DATA=demo"], r"data=demo: choose from davis17-testdev, lvos, mose, youtube_vos"),
        (["check-data", "DATA=none"], r"data=none: choose from davis16, .* demo, .*mose.*"),
        (["train", "STAGE=both"], r"stage=both: choose from all, online, static, video"),
        (["check", "STAGE=online", "METHOD=dmm_net"], r"stage=online: choose from all, static, video"),
        (["online", "METHOD=remn"], r"method=remn: choose from dmm_net"),
        (["static", "RECIPE=tiny", f"METHOD={METHOD}"], r"recipe=tiny: choose from .*small.*"),
        (["predict"], r"video is not set: .*"),
        (["predict", "VIDEO=a.mp4"], r"mask is not set: .*"),
        (
            ["predict", "VIDEO=a.mp4", "MASK=b.png", "DIRECTION=up"],
            r"direction=up: choose from backward, both, forward",
        ),
        (["slurm", "GPUS=two"], r"argument --gpus: invalid int value: 'two'"),
        (["sync", "RUNS=/none"], r"runs=/none: nothing below it was logged offline"),
    ],
)
def test_a_wrong_choice_names_those_there_are(words: list[str], line: str) -> None:
    with pytest.raises(ValueError, match=rf"^{line}$"):
        commands(*words)


def test_what_is_no_option_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^unrecognized arguments: --model.lr=1; options of lightning_vos go after --$"
    ):
        parse(["train", "remn", "--model.lr=1"], {})
    with pytest.raises(ValueError, match="unrecognized arguments: --dat=demo"):
        parse(["train", "remn", "--dat=demo"], {})
    with pytest.raises(ValueError, match="invalid choice: 'trian'"):
        parse(["trian"], {})


def test_variables_and_options_are_passed_on() -> None:
    (command,) = commands("video", "DATA=davis17", "RUN=mine", "DATA_ROOT=/sets", "WEIGHTS=a.ckpt", "ARGS=--a=1 --b=2")
    assert command[0] == "fit"
    assert "experiments/data/davis17.yaml" in command
    assert {"--data.root=/sets", "--trainer.default_root_dir=runs/mine/video", "--ckpt_path=last"} <= set(command)
    assert command[-3:] == ["--model.weights=a.ckpt", "--a=1", "--b=2"]  # what the user says comes last and wins


def test_the_command_line_goes_over_the_environment() -> None:
    environ = {"METHOD": "hmmn", "DATA": "davis17", "ARGS": '--a="b c"', "RECIPE": "small", "PRECISION": "", "RUN": ""}
    given = experiment_of(parse(["static", "remn", "--recipe=", "--", "--d=e f"], environ))
    assert (given.method, given.data, given.recipe) == ("remn", "davis17", ())
    assert given.options == ("--a=b c", "--d=e f")
    assert given.precision in ("bf16-mixed", "32-true")
    assert given.name == "remn-davis17"
    assert experiment_of(parse(["static"], environ)).name == "hmmn-davis17-small"


@pytest.mark.parametrize(("gpus", "precision"), [("0", "32-true"), ("2", "bf16-mixed")])
def test_precision_of_a_job_follows_from_its_gpus(gpus: str, precision: str) -> None:
    assert experiment_of(parse(["slurm"], {"GPUS": gpus})).precision == precision


def test_name_of_a_run() -> None:
    assert Experiment().name == "remn-demo"
    assert Experiment(recipe=("small",)).name == "remn-demo"
    assert Experiment(method="hmmn", data="davis16", recipe=("small", "demo")).name == "hmmn-davis16-small"
    assert Experiment(data="davis16").recipes == ()
    assert Experiment().recipes == ("small", "demo")
    assert Experiment(run="mine", recipe=("small",)).folder("video") == Path("runs/mine/video")


def test_stages_in_order() -> None:
    runs = planned("train", f"METHOD={METHOD}", "RUN=mine", "ARGS=--model.lr=1")
    assert [run.stage for run in runs] == ["static", "video", "eval"]
    assert [(run.words[0], run.words[4]) for run in runs] == [
        ("fit", "experiments/static.yaml"),
        ("fit", "experiments/video.yaml"),
        ("validate", "experiments/video.yaml"),
    ]
    assert all(run.words[-1] == "--model.lr=1" for run in runs)
    assert "--model.weights=runs/mine/static/checkpoints/last.ckpt" in runs[1].words
    assert not any(word.startswith("--model.weights") for word in runs[0].words)
    assert "--ckpt_path=runs/mine/video/checkpoints/last.ckpt" in runs[2].words


@pytest.mark.parametrize("stage", ["static", "video"])
def test_train_of_one_stage(stage: str) -> None:
    (command,) = commands("train", f"STAGE={stage}", f"METHOD={METHOD}", "RUN=mine")
    assert f"--trainer.default_root_dir=runs/mine/{stage}" in command


def test_what_a_stage_hands_over() -> None:
    e = Experiment(method="dmm_net", run="mine", weights="given.ckpt")
    static, video, evaluation = train(e)
    assert f"--model.weights={static.hands_over}" in video.words
    assert f"--ckpt_path={video.hands_over}" in evaluation.words
    assert "--model.weights=given.ckpt" in compose(e, "video").words
    assert from_static(e).weights == str(static.hands_over)
    online = compose(Experiment(method="dmm_net", run="mine"), "online")
    assert f"--model.weights={video.hands_over}" in online.words


def test_predict_takes_the_newest_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    e = Experiment(method="remn", runs=f"{tmp_path}/my runs")
    monkeypatch.setattr(networks, "FOLDER", tmp_path / "none released")
    with pytest.raises(ValueError, match=re.escape("my runs/remn-*/video/checkpoints/last.ckpt: train remn first")):
        predict(e, "a.mp4", "m.png", "out")
    for age, run_name in ((300, "remn-old"), (100, "remn-demo"), (0, "hmmn-demo")):
        file = tmp_path / "my runs" / run_name / "video" / "checkpoints" / "last.ckpt"
        file.parent.mkdir(parents=True)
        file.touch()
        os.utime(file, (1e9 - age, 1e9 - age))
    words = predict(e, "a.mp4", "m.png", "out", "both").words
    assert f"--ckpt_path={tmp_path}/my runs/remn-demo/video/checkpoints/last.ckpt" in words
    assert "--data.direction=both" in words


def test_compare_takes_names_and_spaces() -> None:
    (command,) = commands("compare", "CKPTS='my run/a.ckpt' b=c.ckpt")
    assert command[:4] == ["my run/a.ckpt", "b=c.ckpt", "--out=runs/compare-demo", "--"]
    (command,) = commands("compare", "METHOD=hmmn", "DATA=davis17")
    assert command[0] == "runs/hmmn-davis17/video/checkpoints/last.ckpt"


def test_a_dry_run_writes_to_a_folder_of_its_own() -> None:
    static, video = commands("check")
    assert "--trainer.callbacks.table=false" in static
    assert "--trainer.callbacks.table=false" not in video
    for stage, command in (("static", static), ("video", video)):
        assert command[-5 - (stage == "static") :][:3] == [
            f"--trainer.default_root_dir=$folder/{stage}",
            "--trainer.logger=false",
            "--ckpt_path=null",
        ]


def test_from_another_folder_the_files_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = compose(Experiment(), "static").words
    assert all(Path(word).is_file() for word in words if word.endswith(".yaml"))


def test_an_evaluation_is_needed_unless_the_second_stage_ended_with_one(tmp_path: Path) -> None:
    e = Experiment(runs=str(tmp_path))
    video = compose(e, "video")
    assert not scored(e)
    for age, path, done in ((300, video.results, True), (200, video.hands_over, False), (100, video.results, True)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))
        assert scored(e) is done
