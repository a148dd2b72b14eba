"""AdamW and its learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

Schedule = Literal["constant", "step", "cosine"]


def adamw(
    groups: Iterable[tuple[list[nn.Parameter], float]], lr: float, weight_decay: float, fused: bool
) -> torch.optim.AdamW:
    """AdamW with decoupled weight decay of every matrix and filter; none on biases and gains.

    Args:
        groups: parameters, and the factor of their learning rate.
        lr: learning rate of factor 1.
        weight_decay: of matrices and filters.
        fused: one pass over the weights.
    """
    parts = []
    for parameters, factor in groups:
        for decay in (True, False):
            chosen = [p for p in parameters if (p.ndim > 1) == decay]
            if chosen:
                parts.append({"params": chosen, "lr": lr * factor, "weight_decay": weight_decay if decay else 0.0})
    optimizer = torch.optim.AdamW(parts, lr=lr, fused=fused)
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    optimizer.register_load_state_dict_post_hook(_lay_out_as_weights)
    optimizer.register_load_state_dict_post_hook(partial(_decay_as_set, decays))
    return optimizer


def steps_fused(precision: str, device: torch.device) -> bool:
    """Whether AdamW goes over the weights once instead of a dozen times.

    Not in mixed precision on a CPU, where it is no faster; nor in float16, where Lightning scales the loss.

    Args:
        precision: of the trainer.
        device: of the weights.
    """
    return precision.endswith("-true") or (precision == "bf16-mixed" and device.type == "cuda")


def has_stepped(optimizer: torch.optim.Optimizer) -> bool | Tensor:
    """Whether the last step has changed anything, or was left out, as ``callbacks.SkippedSteps`` does it.

    Args:
        optimizer: after a step, its gradients still there. One that was told by a tensor on its device answers by one.
    """
    told: Tensor | None = getattr(optimizer, "found_inf", None)
    if told is not None:
        return told == 0
    return any(weight.grad is not None for group in optimizer.param_groups for weight in group["params"])


class StepwiseLR(LambdaLR):
    """A schedule by the settings of the run that it belongs to, also where that run goes on with others than before.

    PyTorch goes on with the peak that was saved, whatever the command line says.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the step; peaks, and rates of the step to come, are those of this run."""
        peaks = self.base_lrs
        super().load_state_dict(state_dict)
        self.base_lrs = peaks
        rates = [peak * factor(self.last_epoch) for peak, factor in zip(peaks, self.lr_lambdas, strict=True)]
        for group, peak, rate in zip(self.optimizer.param_groups, peaks, rates, strict=True):
            group["initial_lr"], group["lr"] = peak, rate
        self._last_lr = rates


def lr_factor(progress: float, warmup: float, schedule: Schedule) -> float:
    """Learning rate at a share of the run, relative to its peak.

    Args:
        progress: share of the run, in [0, 1].
        warmup: share of linear warm-up.
        schedule: ``constant``; ``step``: times 0.1 from 80 % on; ``cosine``: to 1 %.
    """
    if progress < warmup:
        return max(progress, 1e-3) / warmup
    if schedule == "step":
        return 0.1 if progress >= 0.8 else 1.0
    if schedule == "cosine":
        share = (min(1.0, progress) - warmup) / (1 - warmup)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share))
    return 1.0


def _decay_as_set(decays: Sequence[float], optimizer: torch.optim.Optimizer) -> None:
    """The weight decay of this run, whatever the saved one had."""
    for group, decay in zip(optimizer.param_groups, decays, strict=True):
        group["weight_decay"] = decay


def _lay_out_as_weights(optimizer: torch.optim.Optimizer) -> None:
    """A fused step reads moments in the order of memory: saved in another memory format, they would be scrambled."""
    for weight, moments in optimizer.state.items():
        for name, moment in moments.items():
            if moment.shape == weight.shape:
                moments[name] = torch.empty_like(weight).copy_(moment)
