"""The data modules under a real trainer: what comes when, before and after an interruption, and their errors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from data_files import block, save, write_davis, write_static
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules import DavisSet, ImageSet, StaticDataModule, VideoDataModule, YouTubeVOSSet
from lightning_vos.types import ClipBatch
from lightning_vos.video import Video


class Recorder(LightningModule):
    """Remembers what it is shown, and has a weight that depends on it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))
        self.batches: list[str] = []
        self.videos: list[str] = []

    def training_step(self, batch: ClipBatch, batch_idx: int) -> torch.Tensor:
        content = batch.frames.numpy().tobytes() + batch.masks.numpy().tobytes() + batch.num_objects.numpy().tobytes()
        self.batches.append(hashlib.sha256(content).hexdigest())
        return (self.weight * batch.frames.float().mean((0, 1, 3, 4)) / 255).sum() + self.weight.square().sum()

    def validation_step(self, video: Video, batch_idx: int) -> None:
        self.videos.append(video.name)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1)


class Crash(Callback):
    """Ends the run in the middle of an accumulation."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: ClipBatch, batch_idx: int
    ) -> None:
        if batch_idx == self.batch:
            raise RuntimeError("power cut")


def trainer(tmp_path: Path, *callbacks: Callback, max_steps: int = 6, **arguments: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=max_steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        default_root_dir=tmp_path,
        callbacks=list(callbacks),
        **arguments,
    )


@pytest.fixture
def video_data(tmp_path: Path) -> Callable[..., VideoDataModule]:
    write_davis(tmp_path / "DAVIS", {"train": ["cow", "ant", "bee"], "val": ["elk", "fox"]})

    def make(**arguments: Any) -> VideoDataModule:
        arguments = {"clip_length": 2, "batch_size": 4, "crop": 32, "num_workers": 0, "seed": 5} | arguments
        return VideoDataModule(
            str(tmp_path),
            videos=[DavisSet("DAVIS", repeat=2)],
            val=DavisSet("DAVIS", split="val"),
            max_skip=[(0.0, 1), (0.5, 4)],
            **arguments,
        )

    return make


def run(
    tmp_path: Path, data: VideoDataModule, *callbacks: Callback, ckpt: Path | None = None, **arguments: Any
) -> Recorder:
    torch.manual_seed(0)
    model = Recorder()
    trainer(tmp_path, *callbacks, **arguments).fit(model, data, ckpt_path=ckpt)
    return model


@pytest.mark.filterwarnings("error:.*not resumable")
@pytest.mark.parametrize(("accumulate", "workers"), [(1, 0), (2, 2)])
def test_an_interrupted_run_continues_bit_for_bit(
    tmp_path: Path, video_data: Callable[..., VideoDataModule], accumulate: int, workers: int
) -> None:
    arguments = {"accumulate_grad_batches": accumulate, "limit_val_batches": 0}
    whole = run(tmp_path, video_data(num_workers=workers), **arguments)
    assert len(whole.batches) == len(set(whole.batches)) == 6 * accumulate
    checkpoint = ModelCheckpoint(tmp_path / "ckpt", every_n_train_steps=2, save_top_k=-1, filename="{step}")
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path, video_data(num_workers=workers), checkpoint, Crash(5 * accumulate - 1), **arguments)
    resumed = run(tmp_path, video_data(num_workers=workers), ckpt=tmp_path / "ckpt/step=4.ckpt", **arguments)
    assert resumed.batches == whole.batches[4 * accumulate :]
    assert torch.equal(resumed.weight, whole.weight)


def test_workers_make_no_difference(tmp_path: Path, video_data: Callable[..., VideoDataModule]) -> None:
    plain, parallel = (
        run(tmp_path, video_data(num_workers=workers), max_steps=3, limit_val_batches=0) for workers in (0, 2)
    )
    assert plain.batches == parallel.batches
    assert run(tmp_path, video_data(seed=6), max_steps=3, limit_val_batches=0).batches != plain.batches


def test_short_epochs_do_not_repeat_clips(tmp_path: Path, video_data: Callable[..., VideoDataModule]) -> None:
    whole = run(tmp_path, video_data(), limit_val_batches=0)
    pieces = run(tmp_path, video_data(num_workers=1), limit_val_batches=0, limit_train_batches=2)
    assert pieces.batches == whole.batches


def test_validation_inside_the_run(tmp_path: Path, video_data: Callable[..., VideoDataModule]) -> None:
    model = run(tmp_path, video_data(), val_check_interval=3, num_sanity_val_steps=0)
    assert model.videos == ["elk", "fox"] * 2
    assert len(set(model.batches)) == 6


@pytest.mark.parametrize("call", ["validate", "predict"])
def test_evaluation_loaders(tmp_path: Path, video_data: Callable[..., VideoDataModule], call: str) -> None:
    model = Recorder()
    model.predict_step = lambda footage, batch_idx: model.validation_step(footage.video, batch_idx)  # type: ignore[method-assign]
    getattr(trainer(tmp_path), call)(model, video_data())
    assert model.videos == ["elk", "fox"]


def test_both_stages_take_the_same_description(tmp_path: Path) -> None:
    write_davis(tmp_path / "DAVIS", {"train": ["cow"]})
    write_static(tmp_path / "s")
    description = {"images": [ImageSet("s")], "videos": [DavisSet("DAVIS")], "val": None}
    for kind in (StaticDataModule, VideoDataModule):
        data = kind(str(tmp_path), **description, crop=32, clip_length=2, batch_size=2, num_workers=0)
        model = run(tmp_path, data, max_steps=2)  # type: ignore[arg-type]
        assert len(set(model.batches)) == 2
        assert data.val_dataloader() == []
    del description["images"]
    with pytest.raises(ValueError, match=r"data\.images is empty: there are no still images"):
        StaticDataModule(str(tmp_path), **description).setup("fit")
    with pytest.raises(ValueError, match=r"data\.videos is empty: the video stage"):
        VideoDataModule(str(tmp_path)).setup("fit")
    with pytest.raises(ValueError, match=r"data\.val is not set: there is nothing to validate"):
        VideoDataModule(str(tmp_path)).setup("validate")


def test_errors_before_training(tmp_path: Path, video_data: Callable[..., VideoDataModule]) -> None:
    with pytest.raises(FileNotFoundError, match=r"data\.root=.*lost: no such folder; set --data\.root"):
        VideoDataModule(str(tmp_path / "lost"), videos=[DavisSet("")]).setup("fit")
    with pytest.raises(ValueError, match=r"data\.crop=0 must be at least 1"):
        VideoDataModule(str(tmp_path), crop=0)
    with pytest.raises(ValueError, match=r"data\.max_objects=255 must be from 1 to 254"):
        VideoDataModule(str(tmp_path), max_objects=255)
    with pytest.raises(ValueError, match=r"needs a trainer"):
        video_data().train_dataloader()
    with pytest.raises(ValueError, match=r"trainer\.max_steps=-1: a run is counted in steps"):
        run(tmp_path, video_data(), max_steps=-1, max_epochs=1)
    with pytest.raises(ValueError, match=r"overfit_batches would replace the sampler"):
        run(tmp_path, video_data(), overfit_batches=2)
    with pytest.raises(ValueError, match=r"batch_size=4 .* 1 devices x accumulate_grad_batches=3; use a multiple of 3"):
        run(tmp_path, video_data(), accumulate_grad_batches=3)


def test_sizes_are_checked_in_every_file(tmp_path: Path) -> None:
    base = write_davis(tmp_path, {"train": ["cow"]})
    save(base / "Annotations/480p/cow/00003.png", block({1: (0, 0)}, (24, 40)))
    data = VideoDataModule(str(tmp_path), videos=[DavisSet("")])
    with pytest.raises(ValueError, match=r"00003\.png is 24x40 but .*00000\.jpg is 24x36 \(height x width\)"):
        data.setup("fit")


def test_from_the_command_line(tmp_path: Path) -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(VideoDataModule, "data")
    config = tmp_path / "data.yaml"
    config.write_text(
        """
data:
  class_path: datamodules.VideoDataModule
  init_args:
    images: [{root: s, repeat: 5}]
    videos:
      - {class_path: datamodules.DavisSet, init_args: {root: DAVIS}}
      - {class_path: datamodules.YouTubeVOSSet, init_args: {root: YouTube, split: train_480p}}
    val: {class_path: datamodules.DavisSet, init_args: {root: DAVIS, split: val, year: "2016"}}
    max_skip: [[0.0, 5], [0.5, 10]]
""",
        encoding="utf-8",
    )
    parser.add_argument("--config", action="config")
    data = parser.instantiate(parser.parse_args([f"--config={config}", "--data.crop=96"])).data
    assert data.images == [ImageSet("s", repeat=5)]
    assert [type(videos) for videos in (*data.videos, data.val)] == [DavisSet, YouTubeVOSSet, DavisSet]
    assert vars(data.videos[1]) == vars(YouTubeVOSSet("YouTube", split="train_480p"))
    assert vars(data.val) == vars(DavisSet("DAVIS", split="val", year="2016"))
    assert data.max_skip == [(0.0, 5), (0.5, 10)]
    assert data.crop == 96
