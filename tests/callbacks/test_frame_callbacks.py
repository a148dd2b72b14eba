"""Streaming evaluation through a real trainer: what the frame callbacks are handed, and how much is held at a time."""

from __future__ import annotations

import weakref

import pytest
import torch
from conftest import METHODS, small, squares
from lightning import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_vos.frame_callback import FrameCallback
from lightning_vos.video import Video


class OneVideo(Dataset[Video]):
    """A single procedural video; the frames are half the size of the annotations."""

    def __init__(self, frames: int, prompts: dict[int, Tensor], labels: Tensor) -> None:
        self.alive = self.most_alive = 0
        self.labels = labels
        self.video = Video(
            0,
            "squares",
            (labels.shape[1], labels.shape[2]),
            tuple(range(1, int(labels.max()) + 1)),
            prompts,
            [f"{t:05d}" for t in range(frames)],
            self.read,
            lambda t: labels[t],
        )

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Video:
        return self.video

    def read(self, t: int) -> Tensor:
        frame = torch.full((3, self.labels.shape[1] // 2, self.labels.shape[2] // 2), t % 256, dtype=torch.uint8)
        self.alive += 1
        self.most_alive = max(self.most_alive, self.alive)
        weakref.finalize(frame, self.forget)
        return frame

    def forget(self) -> None:
        self.alive -= 1


class Recorder(FrameCallback):
    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.labels: list[Tensor] = []
        self.values: list[int] = []

    def on_frame_start(self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int) -> None:
        self.events.append(("start", t))

    def on_frame_end(
        self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int, frame: Tensor, labels: Tensor
    ) -> None:
        self.events.append(("end", t))
        self.labels.append(labels.clone())
        self.values.append(int(frame[0, 0, 0]))


def evaluate(method: str, data: OneVideo) -> Recorder:
    recorder = Recorder()
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, callbacks=[recorder]
    )
    trainer.validate(small(method), DataLoader(data, batch_size=None), verbose=False)
    return recorder


@pytest.mark.parametrize("method", METHODS)
def test_frames_come_in_order_and_few_are_held(method: str) -> None:
    frames, length = 60, 60
    labels = squares(1, length, 2)[1][0]
    data = OneVideo(frames, {0: labels[0]}, labels)
    recorder = evaluate(method, data)
    assert recorder.events == [(event, t) for t in range(frames) for event in ("start", "end")]
    assert recorder.values == list(range(frames))
    assert all(out.shape == labels.shape[1:] and out.dtype == torch.uint8 for out in recorder.labels)
    assert data.most_alive <= data.video.read_ahead + 4  # decoded ahead, the two in work, and the current one


@pytest.mark.parametrize("method", METHODS)
def test_prompt_of_a_later_frame_starts_its_object_there(method: str) -> None:
    labels = squares(1, 10, 2)[1][0]
    first, second = torch.where(labels[2] == 1, 1, 0).to(torch.uint8), torch.where(labels[5] == 2, 2, 0).to(torch.uint8)
    data = OneVideo(10, {2: first, 5: second}, labels)
    recorder = evaluate(method, data)
    for t in range(2):
        assert not recorder.labels[t].any()  # nothing to follow yet
    assert all(2 not in out for out in recorder.labels[:5])
    # At half the size, a given mask comes back up to its outline.
    agreement = (recorder.labels[5] == 2)[second == 2].float().mean()
    assert agreement > 0.8
