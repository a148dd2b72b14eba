"""What DMM-Net's proposals allow: their recall in a validation, and a perfect matcher in an evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import small
from dmm_scenes import squares_as_proposals, with_proposals
from lightning import Callback, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_vos import DMMNet
from lightning_vos.methods.dmm_net.match_state import Match
from lightning_vos.methods.dmm_net.perfect_matcher import PerfectMatcher
from lightning_vos.types import VOID
from lightning_vos.video import Footage, Video

SIZE = (64, 96)


class Still(Dataset[Video]):
    """Three frames of noise with two squares; the second frame is not annotated, the last has some void."""

    names = ("still",)
    object_ids = ((3, 7),)
    max_objects = 2

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.frames = torch.randint(0, 255, (3, 3, *SIZE), generator=generator, dtype=torch.uint8)
        self.labels = torch.zeros(SIZE, dtype=torch.uint8)
        self.labels[4:31, 4:31], self.labels[30:60, 50:90] = 1, 2
        self.last = self.labels.clone()
        self.last[4:31, 24:31] = VOID

    def __len__(self) -> int:
        return 1

    def target(self, t: int) -> Tensor | None:
        return (self.labels, None, self.last)[t]

    def __getitem__(self, index: int) -> Video:
        names = [f"{t:05d}" for t in range(3)]
        prompts = {0: self.labels}
        return Video(0, "still", SIZE, (3, 7), prompts, names, self.frames.__getitem__, self.target)


def loader(*videos: object) -> DataLoader:
    return DataLoader(videos or Still(), batch_size=None)  # type: ignore[arg-type]


def trainer(folder: Path, *callbacks: Callback) -> Trainer:
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", default_root_dir=folder, callbacks=list(callbacks), **options)


@pytest.fixture
def model() -> DMMNet:
    """One proposal is the first square, one holds a quarter of the second; no refinement."""
    boxes = squares_as_proposals((4, 4, 30, 30), (50, 30, 69, 44), (0, 40, 20, 60))
    return with_proposals(small("DMMNet", decoder__refinement=False), *boxes)


def test_recall_of_the_best_proposals(model: DMMNet, tmp_path: Path) -> None:
    (logged,) = trainer(tmp_path).validate(model, loader(), verbose=False)
    masks = torch.stack([Still().last == k for k in (1, 2)])
    with torch.inference_mode():
        image = model.normalize(Still().frames[:1])
        found = model.query(model.encode(image)).proposals[0] > 0.5
    shared = (masks.unsqueeze(1) & found).flatten(2).sum(2)
    either = (masks.unsqueeze(1) | found).flatten(2).sum(2)
    best = (shared / either).amax(dim=1)
    assert 0.7 < best[0] < 0.8  # void is background
    assert best[1] < 0.5
    assert logged["val/proposal_best_iou"] == pytest.approx(float(best.mean()), abs=1e-5)
    assert logged["val/proposal_recall_50"] == logged["val/proposal_recall_70"] == 0.5


def test_a_prediction_measures_nothing(model: DMMNet, tmp_path: Path) -> None:
    """Also where a truth is known."""
    run = trainer(tmp_path)
    footage = Footage(Still()[0], (Still()[0],), [0, 1, 2])
    run.predict(model, loader(footage), return_predictions=False)
    assert not run.callback_metrics


def test_perfect_matcher_finds_the_best_proposals(model: DMMNet, tmp_path: Path) -> None:
    seen: list[Match] = []
    matched = model.match
    model.match = lambda *args: seen.append(matched(*args)) or seen[-1]
    matcher = model.matcher
    trainer(tmp_path, PerfectMatcher()).validate(model, loader(), verbose=False)
    assert seen[-1].weights[0].argmax(dim=1).tolist() == [0, 1]
    assert model.matcher is matcher
