"""A method and a data set outside of the repository: their files lie in a folder of experiments of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tiny_runs import ROOT, planned, small_model, started, tiny, training, write_tiny_demo

from experiments.compose import Experiment, compose
from experiments.resolve import resolve
from experiments.search import search_path

pytestmark = pytest.mark.slow

CODE = """
from lightning_vos import REMN


class Mine(REMN):
    def __init__(self, own: int = 3, **arguments: object) -> None:
        super().__init__(**arguments)
        self.save_hyperparameters()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package ``my_methods`` that can be imported, and a folder of experiments; no method there has all files."""
    (tmp_path / "my_methods.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(ROOT)
    files = {
        "mine/model.yaml": {"model": {"class_path": "my_methods.Mine", "init_args": {"own": 5}}},
        "mine/small/model.yaml": {"model": {"init_args": {"own": 7}}},
        "data/mine.yaml": yaml.safe_load((ROOT / "experiments/data/demo.yaml").read_text()),
        "data/davis17.yaml": {"data": {"init_args": {"crop": 64}}},
    }
    for name, content in files.items():
        path = tmp_path / "my experiments" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content))
    return tmp_path / "my experiments"


@pytest.mark.parametrize("by_path", [False, True])
def test_it_composes(folder: Path, by_path: bool) -> None:
    method = f"{folder}/mine" if by_path else "mine"
    (run,) = planned("video", f"METHOD={method}", "DATA=mine", "RECIPE=small", f"EXPERIMENTS=/none:{folder}")
    assert run.folder == Path("runs/mine-mine-small/video")
    model = resolve(run)["model"]
    assert model["class_path"] == "my_methods.Mine"
    assert model["init_args"]["own"] == 7
    assert Experiment(method=method, search=search_path(str(folder))).recipes == ("small",)  # of the demo's two


def test_an_own_file_goes_before_that_of_the_repository(folder: Path) -> None:
    run = compose(Experiment(data="davis17", search=search_path(str(folder))), "video")
    assert f"{folder}/data/davis17.yaml" in run.words
    assert "experiments/data/davis17.yaml" not in run.words
    with pytest.raises(ValueError, match=r"METHOD=none: choose from dmm_net, .*mine"):
        compose(Experiment(method="none", search=search_path(str(folder))), "video")


def test_it_trains(folder: Path, tmp_path: Path) -> None:
    run = compose(Experiment(method=f"{folder}/mine", data=f"{folder}/data/mine.yaml"), "video")
    demo = write_tiny_demo(tmp_path / "data")
    cli, _ = started([*run.words, *small_model("remn"), *tiny(demo, tmp_path / "out"), *training()])
    assert (type(cli.model).__name__, cli.model.hparams["own"]) == ("Mine", 5)
    assert cli.trainer.global_step == 1
