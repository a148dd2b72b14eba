"""The normalisation that small batches need."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

Norm = Literal["frozen_batch", "group"]


class FrozenStatsBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that always uses its stored statistics; gamma and beta stay trainable.

    A batch of a few clips has no statistics worth using, and eval mode makes training and testing the same function.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.eval()  # a module starts in training mode, and Lightning calls train() only after a validation

    def train(self, mode: bool = True) -> FrozenStatsBatchNorm2d:
        """Stay in eval mode whatever is asked."""
        return super().train(False)


class GroupNorm(nn.GroupNorm):
    """``nn.GroupNorm``, in training on contiguous tensors: its channels-last backward is ten times as slow on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` to the same shape and memory format."""
        if x.device.type != "cpu" or x.is_contiguous() or not torch.is_grad_enabled():
            return super().forward(x)
        return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)


def norm_layer(norm: Norm, groups: int = 32) -> Callable[[int], nn.Module]:
    """What makes the normalisation of a layer out of its number of channels; at most ``groups`` groups."""
    return FrozenStatsBatchNorm2d if norm == "frozen_batch" else partial(_group_norm, groups)


def _group_norm(groups: int, channels: int) -> GroupNorm:
    return GroupNorm(math.gcd(groups, channels), channels)
