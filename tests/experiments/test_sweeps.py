"""What W&B's agents would start for the sweeps in experiments/ is what our command line understands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_runs import METHODS, ROOT
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from experiments.compose import Experiment, compose
from experiments.resolve import resolve
from lightning_vos.settings import flat

pytestmark = pytest.mark.slow


def sweep(method: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "experiments" / method / "sweep.yaml").read_text())


def drawn(parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """Trials in which every value that is named comes up: each of a list, both ends of a range."""
    choices = {name: p.get("values", [p.get("min"), p.get("max")]) for name, p in parameters.items()}
    return [
        {name: values[min(turn, len(values) - 1)] for name, values in choices.items()}
        for turn in range(max(map(len, choices.values())))
    ]


@pytest.mark.parametrize("method", METHODS)
def test_every_value_of_every_parameter_arrives(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for trial in drawn(sweep(method)["parameters"]):
        rendered = create_sweep_command_args({"args": {name: {"value": value} for name, value in trial.items()}})
        run = compose(Experiment(method=method, data="davis17", options=tuple(rendered["args"])), "video")
        settings = flat(resolve(run)["model"]["init_args"])
        assert {name: settings[name.removeprefix("model.")] for name in trial} == trial


@pytest.mark.parametrize("method", METHODS)
def test_the_command_of_a_sweep(method: str) -> None:
    config = sweep(method)
    *command, arguments = create_sweep_command(config["command"])
    assert command == [".venv/bin/python", "-m", "experiments", "trial", method]
    assert arguments == "${args}"
    assert config["metric"] == {"name": "val/J&F", "goal": "maximize"}
    assert Path(ROOT / "experiments" / method / "model.yaml").is_file()
