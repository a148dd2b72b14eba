"""How often targets were lost, counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from scored_videos import Model, Videos, loader, quiet_trainer
from torch import Tensor

from callbacks import LostTargets
from lightning_vos.frame_callback import FrameCallback
from lightning_vos.video import Video


class Follower(Model):
    """Loses every third pair of an object and a frame."""

    lost_targets: Tensor | None = None

    def validation_step(self, video: Video, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(video, batch_idx)
        self.lost_targets = None

    def lost(self, video: Video, t: int) -> Tensor:
        followed = sum(len(prompt.unique()) - 1 for start, prompt in video.prompts.items() if start <= t)
        return (torch.arange(followed) + t + video.index).remainder(3).unsqueeze(0) == 0


class Follows(FrameCallback):
    """Sets what the model lost, as segmenting the frame would."""

    def on_frame_start(self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int) -> None:
        assert isinstance(pl_module, Follower)
        pl_module.lost_targets = pl_module.lost(video, t)


def test_lost_targets_is_the_share_over_all_frames_without_a_prompt(tmp_path: Path) -> None:
    videos = Videos([6, 5, 4], [2, 1, 3], late=True)
    model = Follower(videos)
    trainer = quiet_trainer(tmp_path, [Follows(), LostTargets()])
    trainer.validate(model, loader(videos), verbose=False)
    pairs = [
        lost
        for video in (videos[i] for i in range(3))
        for t in range(len(video))
        if t not in video.prompts
        for lost in model.lost(video, t).flatten().tolist()
    ]
    assert 0 < sum(pairs) < len(pairs)
    assert trainer.callback_metrics["val/lost_targets"].item() == pytest.approx(sum(pairs) / len(pairs))

    trainer = quiet_trainer(tmp_path, [LostTargets()])
    trainer.validate(Model(videos), loader(videos), verbose=False)
    assert "val/lost_targets" not in trainer.callback_metrics
