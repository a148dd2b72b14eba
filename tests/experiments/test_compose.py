"""What follows from a few choices: names, folders, checkpoints; and what is said of a wrong choice."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import get_args

import pytest
from lightning.fabric.connector import _PRECISION_INPUT
from tiny_runs import METHODS, ROOT, commands, planned

from experiments.compose import Experiment, compose, from_static, predict, train
from experiments.options import experiment_of, parse
from experiments.plan import plan, scored
from experiments.precision import PRECISIONS
from experiments.resolve import resolve
from experiments.slurm import jobs
from lightning_vos import networks

METHOD = "remn" if "remn" in METHODS else METHODS[0]


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["static", "METHOD=nobody"], r"METHOD=nobody: choose from .*remn.*"),
        (["static", "METHOD=no/body"], r"METHOD=no/body: no model.yaml in this folder"),
        (["video", "DATA=davis"], r"DATA=davis: choose from davis16, .*demo.*"),
        (["video", "DATA=none.yaml"], r"DATA=none.yaml: no such file"),
        (["eval", "DATA="], r"DATA=: choose from davis16, .*demo.*"),
        (["compare", "DATA=mose"], r"DATA=mose: choose from davis16, .*demo.*"),
        (["submission", "DATA=demo"], r"DATA=demo: choose from davis17-testdev, lvos, mose, youtube_vos"),
        (["check-data", "DATA=none"], r"DATA=none: choose from davis16, .* demo, .*mose.*"),
        (["train", "STAGE=both"], r"STAGE=both: choose from all, online, static, video"),
        (["check", "STAGE=online", "METHOD=dmm_net"], r"STAGE=online: choose from all, static, video"),
        (["online", "METHOD=remn"], r"METHOD=remn: choose from dmm_net"),
        (["static", "RECIPE=tiny", f"METHOD={METHOD}"], r"RECIPE=tiny: choose from .*small.*"),
        (["predict"], r"VIDEO is not set: .*"),
        (["predict", "VIDEO=a.mp4"], r"MASK is not set: .*"),
        (
            ["predict", "VIDEO=a.mp4", "MASK=b.png", "DIRECTION=up"],
            r"DIRECTION=up: choose from backward, both, forward",
        ),
        (["slurm", "GPUS=two"], r"argument --gpus: invalid int value: 'two'"),
        (["static", "PRECISION=bf8"], r"PRECISION=bf8: give one of bf16-mixed, 32-true, .*"),
        (["slurm", "CPUS=0"], r"CPUS=0: give a number from 1 on"),
        (["slurm", "GPUS=-1"], r"GPUS=-1: give a number from 0 on"),
        (["slurm", "TIME=1d"], r"TIME=1d: give minutes, .*"),
        (["slurm", "AFTER=static"], r"AFTER=static: give the number of a job"),
        (["sync", "RUNS=/none"], r"RUNS=/none: nothing below it was logged offline"),
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
    with pytest.raises(ValueError, match=r"^sweep takes no options of lightning_vos: leave out -- --model.lr=1$"):
        parse(["sweep", "remn", "--", "--model.lr=1"], {})


def test_usage_shows_where_further_options_go(capsys: pytest.CaptureFixture[str]) -> None:
    for command, end in {
        "train": "[METHOD] [-- OPTION ...]",
        "trial": "[METHOD] [OPTION ...]",
        "sync": "[--print]",
    }.items():
        with pytest.raises(SystemExit):
            parse([command, "--help"], {})
        assert " ".join(capsys.readouterr().out.partition("\n\n")[0].split()).endswith(end)


def test_precisions_are_those_of_the_trainer() -> None:
    named = {name for names in get_args(_PRECISION_INPUT) for name in get_args(names) if "-" in str(name)}
    assert set(PRECISIONS) == {name for name in named if not name.startswith("transformer-engine")}


@pytest.mark.parametrize("time", ["90", "90:00", "24:00:00", "2-12", "2-12:30:00", "UNLIMITED"])
def test_times_as_slurm_writes_them(time: str) -> None:
    assert parse(["slurm", "--time", time], {}).time == time


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


@pytest.mark.parametrize(("cpus", "workers"), [("1", 1), ("2", 1), ("12", 11)])
def test_cores_of_a_job_reach_its_loaders(cpus: str, workers: int, capsys: pytest.CaptureFixture[str]) -> None:
    environ = {"METHOD": METHOD, "RECIPE": "small", "CPUS": cpus, "ARGS": "--model.lr=1", "PRECISION": "32-true"}
    assert jobs.stages(parse(["slurm", "--stage=video", "--print"], environ)) == 0
    script = capsys.readouterr().out
    assert f"#SBATCH --cpus-per-task={cpus}\n" in script
    # behind the files, of which recipes name a number too, and before what the user says
    assert script.index("--config") < script.index(f"--data.num_workers={workers} ") < script.index("--model.lr=1")
    assert jobs.agents(parse(["agents", "--sweep=me/suite/1", "--print"], environ)) == 0
    assert f"ARGS=--data.num_workers={workers} --model.lr=1" in capsys.readouterr().out.replace("'", "")


def test_the_user_s_own_number_of_loaders_wins() -> None:
    args = parse(["slurm", "--stage=video"], {"METHOD": METHOD, "CPUS": "8", "ARGS": "--data.num_workers=3"})
    args.options = jobs._with_workers(args)
    (run,) = plan(args)
    assert resolve(run)["data"]["init_args"]["num_workers"] == 3
    args.options.pop()
    (run,) = plan(args)
    assert resolve(run)["data"]["init_args"]["num_workers"] == 7
