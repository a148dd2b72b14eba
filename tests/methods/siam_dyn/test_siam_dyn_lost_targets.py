"""How often targets are lost, counted by the callback that SiamDyn brings along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import small, squares
from lightning import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_vos import SiamDyn
from lightning_vos.functional import one_hot
from lightning_vos.methods.siam_dyn.lost_targets import LostTargets
from lightning_vos.video import Footage, Video

LATE = 2  # frame on which the last object is given


class Videos(Dataset[Any]):
    """Three videos of 6, 5 and 4 frames with 2, 1 and 3 objects."""

    shapes = ((6, 2), (5, 1), (4, 3))

    def __init__(self, footage: bool = False) -> None:
        self.footage = footage
        self.videos = [squares(1, frames, objects, seed=i) for i, (frames, objects) in enumerate(self.shapes)]

    def __len__(self) -> int:
        return len(self.shapes)

    def prompts(self, index: int) -> dict[int, Tensor]:
        labels, last = self.videos[index][1][0], self.shapes[index][1]
        if last == 1:
            return {0: labels[0]}
        return {0: labels[0] * (labels[0] != last), LATE: labels[LATE] * (labels[LATE] == last)}

    def __getitem__(self, index: int) -> Any:
        frames, objects = self.shapes[index]
        pictures = self.videos[index][0][0]
        ids = tuple(range(1, objects + 1))
        names = [f"{t:05d}" for t in range(frames)]
        prompts = self.prompts(index)
        video = Video(index, f"clip-{index}", (48, 64), ids, prompts, names, pictures.__getitem__, lambda t: None)
        return Footage.of(video) if self.footage else video


@pytest.fixture
def model() -> SiamDyn:
    """With random weights, it finds masks of more than ``lost_area`` pixels for some of the targets."""
    return small("SiamDyn")


def trainer(folder: Path) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(default_root_dir=folder, accelerator="cpu", devices=1, enable_model_summary=False, **quiet)


def loader(videos: Videos) -> DataLoader[Any]:
    return DataLoader(videos, batch_size=None)


def lost_by_hand(model: SiamDyn, videos: Videos) -> list[bool]:
    """Of every object and every frame without a prompt."""
    lost: list[bool] = []
    for index, (frames, objects) in enumerate(videos.shapes):
        pictures, prompts = videos.videos[index][0], videos.prompts(index)
        with model.sequence():
            for t in range(frames):
                count = objects if t >= LATE or objects == 1 else objects - 1
                mask = one_hot(prompts[t], count).unsqueeze(0) if t in prompts else None
                model.step(pictures[:, t], mask, remember=t < frames - 1)
                if mask is None:
                    assert model.lost_targets is not None
                    lost += model.lost_targets.flatten().tolist()
    return lost


def test_the_share_over_all_frames_without_a_prompt(model: SiamDyn, tmp_path: Path) -> None:
    videos = Videos()
    expected = lost_by_hand(model, videos)
    assert 0 < sum(expected) < len(expected)
    run = trainer(tmp_path)
    run.validate(model, loader(videos), verbose=False)
    assert sum(isinstance(callback, LostTargets) for callback in run.callbacks) == 1  # type: ignore[attr-defined]
    assert run.callback_metrics["val/lost_targets"].item() == pytest.approx(sum(expected) / len(expected))


def test_nothing_in_a_test_or_a_prediction(model: SiamDyn, tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.test(model, loader(Videos()), verbose=False)
    assert run.callback_metrics == {}
    run.predict(model, loader(Videos(footage=True)))
    assert run.callback_metrics == {}
