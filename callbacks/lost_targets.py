"""How often a method that follows targets did not find them."""

from __future__ import annotations

from lightning import LightningModule, Trainer
from torch import Tensor
from torchmetrics import MeanMetric

from lightning_vos.frame_callback import FrameCallback, TargetTracker
from lightning_vos.video import Video


class LostTargets(FrameCallback):
    """Logs ``val/lost_targets``: share of the objects that were not found, over all frames after their first.

    An object that is hidden or has left counts as well: nothing was there to be found. Methods that do not follow
    targets (:class:`~lightning_vos.frame_callback.TargetTracker`) log nothing.
    """

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start with an empty mean."""
        self._share = MeanMetric().to(pl_module.device)

    def on_frame_end(
        self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int, frame: Tensor, labels: Tensor
    ) -> None:
        """Count one frame."""
        if isinstance(pl_module, TargetTracker) and pl_module.lost_targets is not None and t not in video.prompts:
            self._share.update(pl_module.lost_targets)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the share over all ranks."""
        if isinstance(pl_module, TargetTracker):
            share = self._share.compute()  # gathers over ranks, so that it is equal on all
            if not share.isnan():
                pl_module.log("val/lost_targets", share, sync_dist=True, reduce_fx="max", batch_size=1)

    on_test_epoch_start = on_validation_epoch_start
