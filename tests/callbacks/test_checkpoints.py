"""``best.ckpt`` is the best, whenever the run was killed; a validation set that cannot be scored ends no run."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from learner import Learner, clips, trainer
from lightning import Callback
from tiny_runs import commands, small_model, started, tiny, training, write_tiny_demo

from callbacks import BestCheckpoint
from datamodules import DavisSet
from datamodules.layouts import VideoFiles
from datamodules.sequences import EvaluationSet
from lightning_vos.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow


class KilledAfterValidation(Callback):
    """Ends the run after a validation whose best checkpoint is saved, before anything else is."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("power cut")


def validated(folder: Path, scores: list[float], *callbacks: Any, resume: bool = True, **data: Any) -> Learner:
    """Six steps, with a validation after each second; the state is saved after each, before its validation."""
    model, last = Learner(), folder / "last.ckpt"
    model.scores = list(scores)
    run = trainer(
        folder,
        BestCheckpoint(str(folder)),
        *callbacks,
        limit_val_batches=1.0,
        val_check_interval=2,
        num_sanity_val_steps=0,
    )
    start = str(last) if resume and last.exists() else None
    run.fit(model, clips(folder.parent, **data), ckpt_path=start, weights_only=True)
    return model


def best(folder: Path) -> tuple[int, float]:
    checkpoint = read_checkpoint(str(folder / "best.ckpt"))
    (state,) = (state for state in checkpoint["callbacks"].values() if state.get("monitor") == "val/J&F")
    return checkpoint["global_step"], round(float(state["current_score"]), 3)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [([0.9], [0.5, 0.6], (2, 0.9)), ([0.9], [0.5, 0.95], (6, 0.95)), ([0.3], [0.5, 0.4], (4, 0.5))],
)
def test_a_kill_after_the_validation_does_not_forget_its_score(
    before: list[float], after: list[float], expected: tuple[int, float], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(RuntimeError, match="power cut"):
        validated(folder, before, KilledAfterValidation(2))
    assert best(folder) == (2, before[0])
    states = read_checkpoint(str(folder / "last.ckpt"))["callbacks"].values()
    assert [state["best_model_score"] for state in states if state.get("monitor") == "val/J&F"] == [None]
    validated(folder, after)
    assert best(folder) == expected


def killed(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        validated(folder, [0.9], KilledAfterValidation(2))


def test_a_score_counts_only_with_its_file(tmp_path: Path) -> None:
    """The file is lost, damaged, or was chosen on other videos; and a run that starts anew has no score to beat."""
    for name in ("lost", "damaged", "other", "anew"):
        killed(tmp_path / name)
    (tmp_path / "lost/best.ckpt").unlink()
    validated(tmp_path / "lost", [0.5, 0.4])
    assert best(tmp_path / "lost") == (4, 0.5)
    (tmp_path / "damaged/best.ckpt").write_bytes(b"half a checkpoint")
    with pytest.warns(UserWarning, match=r"best\.ckpt: cannot be read .*; the next validation replaces it"):
        validated(tmp_path / "damaged", [0.5, 0.4])
    assert best(tmp_path / "damaged") == (4, 0.5)
    with pytest.warns(UserWarning, match=r"best\.ckpt: chosen on another validation set, its score does not count"):
        validated(tmp_path / "other", [0.5, 0.4], val=DavisSet("DAVIS", split="train"))
    assert best(tmp_path / "other") == (4, 0.5)
    validated(tmp_path / "anew", [0.2, 0.5, 0.4], resume=False)
    assert best(tmp_path / "anew") == (4, 0.5)


# ---------------------------------------------------------------- nothing to score


@pytest.mark.parametrize(
    ("length", "masks", "truth"),
    [
        (4, (0, 1, 2, 3), True),
        (4, (0, 2), True),
        (2, (0, 1), True),
        (4, (0,), False),  # prompts alone
        (1, (0,), False),  # a picture
        (4, (0, 3), False),  # the last frame is not scored
    ],
)
def test_whether_there_is_a_frame_to_score(length: int, masks: tuple[int, ...], truth: bool) -> None:
    frames = tuple(Path(f"{t:05d}.jpg") for t in range(length))
    video = VideoFiles("elk", frames, {t: Path(f"{t:05d}.png") for t in masks}, {0: [1]})
    assert EvaluationSet([video]).has_truth is truth


@pytest.mark.parametrize("kind", ["prompts", "pictures"])
def test_a_set_without_ground_truth_does_not_end_the_run(kind: str, tmp_path: Path) -> None:
    root = write_tiny_demo(tmp_path / "data") / "demo"
    for name in (root / "ImageSets/2017/val.txt").read_text().split():
        for file in [*root.glob(f"Annotations/*/{name}/*.png"), *root.glob(f"JPEGImages/*/{name}/*.jpg")]:
            if file.stem != "00000" and (file.suffix == ".png" or kind == "pictures"):
                file.unlink()
    (command,) = commands("video", "METHOD=siam_dyn", "DATA=demo")
    options = [*small_model("siam_dyn"), *tiny(tmp_path / "data", tmp_path / "run", 3), *training()]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        started([*command, *options, "--trainer.val_check_interval=1"])
    said = [str(warning.message) for warning in caught if "best.ckpt" in str(warning.message)]
    assert said == [
        "no frame of data.val has ground truth to score, beside the masks that are given: there will be no best.ckpt; "
        "last.ckpt is saved as ever"
    ]
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["last.ckpt"]
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 3


def test_a_validation_without_a_score_does_not_end_the_run(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="the validation has logged no val/J&F: there will be no best"):
        validated(tmp_path / "run", [])
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["last.ckpt"]
