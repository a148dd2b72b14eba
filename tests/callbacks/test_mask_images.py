"""Strips of pictures: what they show, and at which step loggers get them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import Logger
from PIL import Image
from scored_videos import SIZE, Model, Videos, loader, quiet_trainer
from torch.utils.data import DataLoader

from callbacks import DavisEvaluation, MaskImages, overlay


class _Pictures(Logger):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[str, list[str], int | None]] = []

    name = "pictures"
    version = 0

    def log_metrics(self, *args: Any, **kwargs: Any) -> None: ...

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_image(self, key: str, images: list[str], step: int | None = None) -> None:
        self.sent.append((key, images, step))


def test_mask_images(tmp_path: Path) -> None:
    videos = Videos([9, 2, 5, 5], [2, 1, 1, 1])
    logger = _Pictures()
    trainer = quiet_trainer(tmp_path, [MaskImages(videos=3, frames=3)], logger=logger)
    trainer.validate(Model(videos), loader(videos), verbose=False)
    folder = tmp_path / "pictures"
    assert sorted(path.name for path in folder.iterdir()) == ["clip-0.png", "clip-1.png", "clip-2.png"]
    assert logger.sent == [(f"val/clip-{i}", [str(folder / f"clip-{i}.png")], 0) for i in range(3)]
    height, width = SIZE
    strip = torch.from_numpy(np.array(Image.open(folder / "clip-0.png"))).permute(2, 0, 1)
    assert strip.shape == (3, 2 * height + 4, 3 * width + 8)
    pictures, truth, found = videos.scenes[0]
    for column, t in enumerate((0, 4, 8)):
        x = column * (width + 4)
        assert torch.equal(strip[:, :height, x : x + width], overlay(pictures[t], found[t]))
        assert torch.equal(strip[:, height + 4 :, x : x + width], overlay(pictures[t], truth[t]))
    assert Image.open(folder / "clip-1.png").size == (2 * width + 4, 2 * height + 4)  # it has two frames only

    videos.target = lambda index, t: None  # type: ignore[method-assign]
    trainer.validate(Model(videos), loader(videos), verbose=False)
    assert Image.open(folder / "clip-0.png").size == (3 * width + 8, height)
    with pytest.raises(ValueError, match="frames=0"):
        MaskImages(frames=0)


def test_pictures_come_at_the_step_of_the_figures(tmp_path: Path) -> None:
    """W&B drops what is logged at a step behind the last one: pictures must not run ahead of J&F."""
    videos = Videos([6, 5], [1, 1])
    logged: list[tuple[int | None, bool]] = []

    class Record(_Pictures):
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            logged.append((step, "val/J&F" in metrics))

        def log_image(self, key: str, images: list[str], step: int | None = None) -> None:
            logged.append((step, False))

    callbacks = [DavisEvaluation(table=False), MaskImages(videos=2)]
    trainer = quiet_trainer(
        tmp_path, callbacks, logger=Record(), max_steps=4, val_check_interval=2, num_sanity_val_steps=0
    )
    trainer.fit(Model(videos), DataLoader(torch.ones(4, 1)), loader(videos))
    assert logged == [(1, False), (1, False), (1, True), (3, False), (3, False), (3, True)]
