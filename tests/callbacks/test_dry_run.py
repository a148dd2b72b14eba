"""`make check`: what it measures is what the stages would do, and what is wrong with the data is said before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import squares
from PIL import Image
from tiny_runs import METHODS, commands, small_model, started, tiny, training, write_tiny_demo

from callbacks.dry_run import DryRun, fullest
from lightning_vos.types import Clip, ClipBatch

pytestmark = pytest.mark.slow

METHOD, STEPS = METHODS[-1], 40


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_demo(tmp_path_factory.mktemp("data"))


def check(stage: str, demo: Path, out: Path, *options: str) -> tuple[Any, str]:
    """One stage of what ``make check`` starts, with a tiny run."""
    (command,) = commands("check", f"METHOD={METHOD}", "DATA=demo", f"STAGE={stage}")
    words = [word.replace("$folder", str(out)) for word in command]
    settings = [w for w in tiny(demo, out, STEPS) if not w.startswith("--trainer.default_root_dir")]
    return started([*words, *small_model(METHOD), *settings, *training(stage=stage), *options])


def test_a_stage_is_measured_in_a_few_steps(demo: Path, tmp_path: Path) -> None:
    for stage, accumulate in (("static", 1), ("video", 2)):
        options = [f"--trainer.accumulate_grad_batches={accumulate}", "--trainer.val_check_interval=20"]
        cli, printed = check(stage, demo, tmp_path, *options)
        assert cli.trainer.global_step == 6
        assert cli.trainer.max_steps == STEPS  # so that everything that follows the progress of the run is as in it
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["stage"] for row in rows] == ["static", "video"]
    for row, objects in zip(rows, (1, 3), strict=True):
        assert (row["objects"], row["steps"], row["frames"]) == (objects, STEPS, 15)
        assert row["memory"] > 50 * 2**20
        assert 0 < row["frame"] < 10
        assert row["seconds"] == pytest.approx(STEPS * row["step"] + 2 * 15 * row["frame"])
    assert "dry run" in printed
    assert "static" in printed  # the table of the last stage holds the one before


def test_the_fullest_batch() -> None:
    frames, labels = squares(2, 3, 1)
    batch = ClipBatch.collate([Clip(frames[b], labels[b], 1) for b in range(2)])
    full = fullest(batch, 5)
    assert torch.equal(full.frames, batch.frames)
    assert full.masks.shape == batch.masks.shape
    assert full.masks.dtype == torch.uint8
    assert all(mask.unique().tolist() == [0, 1, 2, 3, 4, 5] for mask in full.masks.flatten(0, 1))
    assert full.num_objects.tolist() == [5, 5]
    assert full.max_objects == 5


def test_a_stray_label_is_named_before_the_first_step(demo: Path, tmp_path: Path) -> None:
    shutil.copytree(demo, tmp_path / "data")
    path = sorted((tmp_path / "data/demo/Annotations/480p").glob("val-02-*"))[0] / "00003.png"
    with Image.open(path) as image:
        labels = np.array(image)
    labels[:5, :5] = 9
    Image.fromarray(labels).save(path)
    with pytest.raises(ValueError, match=rf"{path}: labels \[9\] of video 'val-02-\S+', frame 00003, .* correct"):
        check("video", tmp_path / "data", tmp_path / "out")
    assert not (tmp_path / "out" / "rows.json").exists()


def test_too_few_steps() -> None:
    with pytest.raises(ValueError, match="steps=2: the first 2 only warm up; give at least 3"):
        DryRun("rows.json", steps=2)
