"""Small videos with a model that answers for them, the trainer around it, and what they score by plain loops."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_vos.frame_callback import FrameCallback
from lightning_vos.video import Video
from tests import reference

SIZE = (24, 40)


def scene(index: int, frames: int, objects: int) -> tuple[Tensor, Tensor, Tensor]:
    """Frames, ground truth labels and a model's labels of a video: rectangles that drift, and a model that lags."""
    generator = torch.Generator().manual_seed(index)
    pictures = torch.randint(0, 256, (frames, 3, *SIZE), generator=generator, dtype=torch.uint8)
    truth = torch.zeros(frames, *SIZE, dtype=torch.uint8)
    found = truth.clone()
    for k in range(1, objects + 1):
        y, x = torch.randint(0, 12, (2,), generator=generator).tolist()
        for t in range(frames):
            truth[t, y : y + 9, x + t : x + t + 8] = k
            late = t // 2
            found[t, y : y + 9 - index, x + late : x + late + 8] = k
    return pictures, truth, found


class Videos(Dataset[Video]):
    """Videos in memory; ``late`` gives the last object of a video on frame 2, ``sparse`` annotates even frames only."""

    def __init__(
        self, lengths: Sequence[int], objects: Sequence[int], late: bool = False, sparse: bool = False
    ) -> None:
        self.names = [f"clip-{i}" for i in range(len(lengths))]
        self.object_ids = [tuple(3 * k + 2 for k in range(n)) for n in objects]
        self.max_objects = max(objects)
        self.sparse = sparse
        self.scenes = [scene(i, t, k) for i, (t, k) in enumerate(zip(lengths, objects, strict=True))]
        self.prompts = []
        for (_, truth, found), count in zip(self.scenes, objects, strict=True):
            prompts = {0: truth[0].clone()}
            if late:
                prompts[0][prompts[0] == count] = 0
                prompts[2] = torch.where(truth[2] == count, truth[2], 0)
                truth[:2][truth[:2] == count] = 0
                found[:2][found[:2] == count] = 0
            self.prompts.append(prompts)

    def __len__(self) -> int:
        return len(self.names)

    def target(self, index: int, t: int) -> Tensor | None:
        return None if self.sparse and t % 2 else self.scenes[index][1][t]

    def __getitem__(self, index: int) -> Video:
        pictures = self.scenes[index][0]
        return Video(
            index,
            self.names[index],
            SIZE,
            self.object_ids[index],
            self.prompts[index],
            [f"{t:05d}" for t in range(len(pictures))],
            pictures.__getitem__,
            lambda t: self.target(index, t),
        )


class Model(LightningModule):
    """Calls the hooks as VOSModule does, and answers with the labels of the scene."""

    def __init__(self, videos: Videos) -> None:
        super().__init__()
        self.videos = videos
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def validation_step(self, video: Video, batch_idx: int, dataloader_idx: int = 0) -> None:
        observers = [c for c in self.trainer.callbacks if isinstance(c, FrameCallback)]  # type: ignore[attr-defined]
        for t, frame in enumerate(video):
            for observer in observers:
                observer.on_frame_start(self.trainer, self, video, t)
            labels = self.videos.scenes[video.index][2][t]
            for observer in observers:
                observer.on_frame_end(self.trainer, self, video, t, frame, labels)

    test_step = validation_step

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.weight * batch.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def quiet_trainer(folder: Path, callbacks: list[Callback], **options: Any) -> Trainer:
    settings = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
    }
    return Trainer(default_root_dir=folder, callbacks=callbacks, **{**settings, **options})


def loader(videos: Videos, **options: Any) -> DataLoader[Video]:
    return DataLoader(videos, batch_size=None, **options)


def expected_scores(
    videos: Videos, copied: bool = False, scored: Sequence[int] | None = None
) -> dict[str, tuple[float, ...]]:
    """``<video>_<id>`` -> mean, recall, decay of J and F, by plain loops."""
    result = {}
    for index in range(len(videos)) if scored is None else scored:
        _, truth, found = videos.scenes[index]
        last = len(truth) - 1
        for k, identity in enumerate(videos.object_ids[index], start=1):
            start = min(t for t, prompt in videos.prompts[index].items() if (prompt == k).any())
            j, f = [], []
            for t in range(start + 1, last if last > 1 else last + 1):
                target = videos.target(index, t)
                if target is None:
                    continue
                if copied:  # objects given later and on top of others hide them from then on
                    mask = videos.prompts[index][start] == k
                    for later, prompt in videos.prompts[index].items():
                        if start < later <= t:
                            mask = mask & (prompt == 0)
                else:
                    mask = found[t] == k
                void = target == 255
                j.append(reference.region_similarity(mask, target == k, void))
                f.append(reference.boundary_accuracy(mask, target == k, void))
            if j:
                name = f"{videos.names[index]}_{identity}"
                result[name] = (*reference.statistics(j), *reference.statistics(f))
    return result


def means(scores: dict[str, tuple[float, ...]]) -> dict[str, float]:
    names = ("J", "J_recall", "J_decay", "F", "F_recall", "F_decay")
    means = dict(zip(names, np.mean(list(scores.values()), axis=0).tolist(), strict=True))
    return {"J&F": (means["J"] + means["F"]) / 2, **means}


def csv_rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))
