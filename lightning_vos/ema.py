"""An exponential moving average of the weights: what a run is scored by and hands on, beside what it trains."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lightning_vos.checkpoint import CURRENT
from lightning_vos.optimizer import has_stepped


class WeightEMA(WeightAveraging):
    """Lightning's averaging of weights, as ``model.ema`` switches it on.

    After every optimiser step::

        average <- d * average + (1 - d) * weights,     d = min(decay, (1 + n) / (10 + n))

    with n the steps averaged so far. The warm-up of d is that of TensorFlow's ``ExponentialMovingAverage``
    (``num_updates``); without it a short run is dominated by the weights that it started from. A step that
    ``SkippedSteps`` has left out does not count.

    A validation sees the average; a checkpoint has it as ``state_dict``, and the weights in training beside it. Once
    the fit has ended, the model's weights are the average.

    What differs from Lightning's: the average is in float32, as bfloat16 would lose a thousandth of a step; weights
    come out of a validation as they went in, also where their precision is another; the average is where the weights
    are; a GPU is not waited for; and the last checkpoint of a run, too, holds the weights that were trained.

    Args:
        decay: share of the average that a step leaves, in (0, 1).
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self._trained: list[Tensor] = []  # amid a validation: the weights in training

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start from the weights that the model starts from, in its memory format."""
        if stage == "fit":
            pl_module.configure_model()
            self._average_model = AveragedModel(pl_module).float().requires_grad_(False)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the model to its device."""
        self._average.to(pl_module.device)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What was done before is averaged, or never will be."""
        self._latest_update_step = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take a step into the average."""
        if trainer.global_step == self._latest_update_step:  # amid the passes of a step
            return
        self._latest_update_step = trainer.global_step
        count, counts = self._average.n_averaged, has_stepped(trainer.optimizers[0])
        weight = (1 - ((1 + count) / (10 + count)).clamp(max=self.decay)) * counts
        for average, current in self._pairs(pl_module):
            if average.is_floating_point():
                average.lerp_(current.to(average.dtype), weight)
            else:
                average.copy_(current)
        count += counts

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the average; the copy of the weights lasts as long as the validation."""
        if self._average_model is not None:
            self._trained = [current.clone() for _, current in self._pairs(pl_module)]
            self._show(pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go back to the weights in training."""
        if self._average_model is not None:
            for (_, current), trained in zip(self._pairs(pl_module), self._trained, strict=True):
                current.copy_(trained)
            self._trained = []

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Not Lightning's, which shows the average: the last checkpoint is still to be saved."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average as the model's weights."""
        self._show(pl_module)
        self._average_model = None

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on with both; an evaluation needs nothing but the average, which is the ``state_dict``."""
        if self._average_model is not None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    @property
    def _average(self) -> AveragedModel:
        assert self._average_model is not None, "there is one from setup to the end of the fit"
        return self._average_model

    @torch.no_grad()
    def _show(self, pl_module: LightningModule) -> None:
        for average, current in self._pairs(pl_module):
            current.copy_(average)

    def _pairs(self, pl_module: LightningModule) -> Iterator[tuple[Tensor, Tensor]]:
        """What a checkpoint holds of the average and of the model, tensor by tensor."""
        averages = _saved(self._average.module)
        return ((averages[name], current) for name, current in _saved(pl_module).items())


def without_average(checkpoint: dict[str, Any]) -> None:
    """Make of a checkpoint with an average one of the weights in training, for a run that goes on without."""
    checkpoint["state_dict"] = checkpoint.pop(CURRENT, checkpoint["state_dict"])


def _saved(module: nn.Module) -> dict[str, Tensor]:
    """Each tensor of the state dict once, also where two layers share it."""
    names = module.state_dict().keys()
    tensors = chain(module.named_parameters(), module.named_buffers())
    return {name: tensor for name, tensor in tensors if name in names}
