"""How much a method remembers: size of the memory bank and how often it is written."""

from __future__ import annotations

from lightning import LightningModule, Trainer
from torch import Tensor

from lightning_vos.frame_callback import FrameCallback
from lightning_vos.memory import FrameBank
from lightning_vos.video import Video


class MemoryStatistics(FrameCallback):
    """Logs the size of the bank and the rate of writing, over the frames after the first of all videos.

    ``val/bank_mean`` and ``val/bank_peak``, stored frames after a frame has been segmented; ``val/writes_per_frame``,
    share of the frames that were written. Methods without a :class:`~lightning_vos.memory.FrameBank` log nothing.
    """

    def __init__(self) -> None:
        self._frames = self._stored = self._writes = self._peak = 0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting."""
        self._frames = self._stored = self._writes = self._peak = 0

    def on_frame_end(
        self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int, frame: Tensor, labels: Tensor
    ) -> None:
        """Count one frame."""
        bank = next((module for module in pl_module.modules() if isinstance(module, FrameBank)), None)
        if bank is None or t == 0:
            return
        self._frames += 1
        self._stored += len(bank)
        self._peak = max(self._peak, len(bank))
        self._writes += bool(bank.frame_ids) and bank.frame_ids[-1] == t

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what was counted."""
        if not self._frames:
            return
        means = {"val/bank_mean": self._stored / self._frames, "val/writes_per_frame": self._writes / self._frames}
        pl_module.log_dict(means, batch_size=self._frames, sync_dist=True)
        pl_module.log("val/bank_peak", float(self._peak), reduce_fx="max", sync_dist=True, batch_size=1)
