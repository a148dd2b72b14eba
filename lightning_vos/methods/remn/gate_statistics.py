"""How often REMN's gate chose to keep how much."""

from __future__ import annotations

from lightning import LightningModule, Trainer

from lightning_vos.frame_callback import FrameCallback


class GateStatistics(FrameCallback):
    """Logs ``val/gate_keeps_all``, ``_half`` and ``_quarter``: how often that share of the removable frames was kept.

    Counted over all videos of an evaluation.
    """

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count anew."""
        pl_module.get_submodule("bank").decisions = [0, 0, 0]  # type: ignore[assignment]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the counts of all ranks."""
        counts = zip(("all", "half", "quarter"), pl_module.get_submodule("bank").decisions, strict=True)  # type: ignore[arg-type]
        values = {f"val/gate_keeps_{name}": float(count) for name, count in counts}
        pl_module.log_dict(values, reduce_fx="sum", sync_dist=True, batch_size=1)
