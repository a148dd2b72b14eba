"""How often SiamDyn did not find its targets."""

from __future__ import annotations

from lightning import LightningModule, Trainer
from torch import Tensor
from torchmetrics import MeanMetric

from lightning_vos.frame_callback import FrameCallback
from lightning_vos.video import Video


class LostTargets(FrameCallback):
    """Logs ``val/lost_targets``: share of the objects that were not found, over all frames after their first.

    An object that is hidden or has left counts as well: nothing was there to be found. In a test or a prediction it
    does nothing.
    """

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start with an empty mean."""
        self._share = MeanMetric().to(pl_module.device)

    def on_frame_end(
        self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int, frame: Tensor, labels: Tensor
    ) -> None:
        """Count one frame."""
        if trainer.testing or trainer.predicting:
            return
        lost = pl_module.lost_targets
        if lost is not None and t not in video.prompts:
            self._share.update(lost)  # type: ignore[arg-type]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the share over all ranks."""
        share = self._share.compute()  # gathers over ranks, so that it is equal on all
        if not share.isnan():
            pl_module.log("val/lost_targets", share, sync_dist=True, reduce_fx="max", batch_size=1)
