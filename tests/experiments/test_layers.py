"""Every method's files compose with every recipe, stage and data set, in one order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_runs import DATA, EXPERIMENTS, METHODS, ROOT, planned, recipes

from experiments.resolve import resolve
from lightning_vos.config_errors import option_values

STAGES = ("static", "video")
ONLINE = [m for m in METHODS if (EXPERIMENTS / m / "online.yaml").is_file()]

# Data files hold nothing of the model and recipes nothing of where data lies: no need to cross all with all.
COMPOSED = [(m, s, r, "demo") for m in METHODS for s in STAGES for r in recipes(m)]
COMPOSED += [(m, "online", r, "demo") for m in ONLINE for r in recipes(m)]
COMPOSED += [(m, s, "", d) for m in METHODS for s in STAGES for d in DATA if d != "demo"]


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(("method", "stage", "recipe", "data"), COMPOSED)
def test_layers_compose(method: str, stage: str, recipe: str, data: str) -> None:
    (run,) = planned(stage, f"METHOD={method}", f"DATA={data}", f"RECIPE={recipe}", "ARGS=--data.seed=77")
    files = [value for _, value in option_values(run.words, "--config")]
    for name in ("base", stage, f"data/{data}", f"{method}/model", f"{method}/{stage}"):
        assert f"experiments/{name}.yaml" in files
    for name in recipe.split():
        assert f"experiments/{method}/{name}/model.yaml" in files
    config = dict(leaves(resolve(run)))
    expected: dict[tuple[str, ...], Any] = {}
    for file in files:  # a later one goes over an earlier one
        expected.update(leaves(yaml.safe_load(Path(file).read_text())))
    expected["data", "init_args", "seed"] = 77
    expected["trainer", "default_root_dir"] = f"runs/{method}-{data}{_suffix(recipe, data)}/{stage}"
    expected = {key: value for key, value in expected.items() if "${" not in str(value)}
    assert {key: config[key] for key in expected} == expected
    assert config["data", "init_args", "batch_size"] % config["trainer", "devices"] == 0


def leaves(tree: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Values with their keys; of a list of settings the length."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield (*path, key), len(value)
        else:
            yield (*path, key), value


def _suffix(recipe: str, data: str) -> str:
    return f"-{recipe.split()[0]}" if recipe and data != "demo" else ""
