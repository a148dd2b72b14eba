"""``~`` in options and files, output in any encoding, and a checkpoint's settings that look like code."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small
from tiny_runs import ROOT, commands, tiny, write_tiny_demo

from experiments.options import parse
from experiments.plan import plan
from lightning_vos.checkpoint_settings import as_saved, with_settings_of
from lightning_vos.cli import VOSCLI, run
from lightning_vos.command_line import at_home, each_text, print_any_letter


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("~/x", "HOME/x"),
        ("--data.root=~/x", "HOME/x"),
        ("name=~/x.ckpt", "HOME/x.ckpt"),
        ("~", "HOME"),
        ("a~/b", "a~/b"),
        ("--data.root=a/~/b", "a/~/b"),
        ("~nobody-of-this-name/x", "~nobody-of-this-name/x"),
    ],
)
def test_words(word: str, meant: str, home: Path) -> None:
    name = word.rpartition("=")[0]
    assert at_home(word) == f"{name}{'=' if name else ''}{meant.replace('HOME', str(home))}"


@pytest.mark.parametrize("variable", ["DATA_ROOT", "RUNS", "WEIGHTS", "CKPT", "VIDEO", "MASK", "OUT", "CKPTS", "ARGS"])
def test_variables(variable: str, home: Path) -> None:
    value = {"ARGS": "--data.images.root=~/x", "CKPTS": "a=~/x"}.get(variable, "~/x")
    command = (
        "predict" if variable in ("VIDEO", "MASK", "OUT", "CKPT") else "compare" if variable == "CKPTS" else "video"
    )
    given = {"PRECISION": "32-true", "CKPT": "c.ckpt", "VIDEO": "v", "MASK": "m", variable: value}
    (planned,) = plan(parse([command], given))
    assert any(f"{home}/x" in word for word in planned.words)
    assert not any("~" in word for word in planned.words)


def test_options_and_files(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the parts are built with; they are never built here."""
    (home / "mine.yaml").write_text("data:\n  init_args:\n    root: ~/sets\ntrainer:\n  default_root_dir: ~/out\n")
    (home / "c.ckpt").touch()
    monkeypatch.setattr(VOSCLI, "instantiate_classes", lambda cli: (_ for _ in ()).throw(Parsed(cli.config)))
    (command,) = commands("static", "METHOD=remn")
    words = [word for word in command if not word.startswith(("--data.root", "--trainer.default_root_dir"))]
    words += ["--config=~/mine.yaml", "--model.weights=~/w.ckpt", "--ckpt_path=~/c.ckpt"]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["lightning_vos", *words])
    with pytest.raises(Parsed) as parsed:
        run()
    config = parsed.value.args[0].fit
    assert config.data.init_args.root == f"{home}/sets"
    assert config.trainer.default_root_dir == f"{home}/out"
    assert config.model.init_args.weights == f"{home}/w.ckpt"
    assert config.ckpt_path == f"{home}/c.ckpt"


class Parsed(Exception):
    """The configuration, in place of a run."""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_letters_that_the_terminal_lacks(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding=encoding))
    print_any_letter()
    sys.stdout.write("Ж1 \N{GREEK SMALL LETTER DELTA}\n")
    sys.stdout.flush()
    assert raw.getvalue() == b"\\u04161 \\u03b4\n"


def test_a_command_prints_any_path(tmp_path: Path) -> None:
    words = ["-m", "experiments", "command", "remn", "--stage", "eval", "--data-root", f"{tmp_path}/Видео é"]
    for variables in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        environment = {**os.environ, **variables}
        done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert b"--data.root=" in done.stdout


# ---------------------------------------------------------------- settings of a checkpoint


def complaint(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """What is said of a checkpoint with these settings."""
    model = small("REMN")
    checkpoint = {"method": "REMN", "network": "REMN", "state_dict": model.state_dict(), "hyper_parameters": settings}
    torch.save(checkpoint, tmp_path / "a.ckpt")
    (command,) = commands("eval", "METHOD=remn", f"CKPT={tmp_path / 'a.ckpt'}")
    monkeypatch.setenv("VOS_SECRET", "hunter2")
    monkeypatch.chdir(ROOT)
    demo = tiny(write_tiny_demo(tmp_path / "data"), tmp_path / "out")
    monkeypatch.setattr("sys.argv", ["lightning_vos", *command, *demo[:1], *demo[4:9]])
    with pytest.raises(SystemExit) as stopped:
        run()
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert "hunter2" not in captured.out + captured.err
    error, _ = captured.err.splitlines()[-2:]
    return error


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"key_trunk": "${oc.env:VOS_SECRET}"},
            "trunk=${oc.env:VOS_SECRET}: there is none of that name; use resnet10, resnet18",
        ),
        (
            {"key_trunk": "a\\${oc.env:VOS_SECRET}${"},
            "model.key_trunk: no viable alternative at input '${'; give it as plain text",
        ),
        ({"${oc.env:VOS_SECRET}": 1}, "CKPT: REMN has no setting ${oc.env:VOS_SECRET}, with which it was trained"),
        ({"gate": {"ranking": "${oc.env:VOS_SECRET}"}}, "model.gate.ranking: "),
        (
            {"update": "${trainer}"},
            "CKPT: its setting update is '${trainer}', not settings of that part; it is damaged",
        ),
        ({"update": "/etc/hostname"}, "CKPT: its setting update is '/etc/hostname', not settings of that part"),
        ({"key_dim": torch.zeros(1)}, "CKPT: its settings are no plain values (Object of type Tensor"),
        ([1], "CKPT: 'hyper_parameters' in it is not of the right kind"),
    ],
)
def test_settings_stay_text(
    settings: Any, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = complaint(settings, tmp_path, monkeypatch, capsys)
    assert error.startswith(f"error: {line.replace('CKPT', str(tmp_path / 'a.ckpt'))}")


def test_text_comes_back_as_it_was(tmp_path: Path) -> None:
    text = {"key_trunk": ["${x}", "\\${y}", {"b": "$${z}"}], "norm": "plain"}
    checkpoint = {"method": "REMN", "network": "REMN", "state_dict": {}, "hyper_parameters": text}
    torch.save(checkpoint, tmp_path / "a.ckpt")
    words = with_settings_of(["validate", f"--ckpt_path={tmp_path / 'a.ckpt'}"])
    given = words[words.index("--config") + 1]
    assert "${" not in given
    assert each_text(json.loads(given)["model"]["init_args"], as_saved) == text
