"""The cross-correlation of a template with a search window, channel by channel (SiamMask)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_vos.blocks.normalization import GroupNorm, Norm
from lightning_vos.functional import to_float, without_autocast


class Template(NamedTuple):
    """What is kept of a target's template: the kernels that its search windows are correlated with.

    Attributes:
        locate: ``(..., D, 5, 5)``, for which cell lies on the target.
        describe: ``(..., D, 5, 5)``, for its box and its mask.
    """

    locate: Tensor
    describe: Tensor

    def flattened(self) -> Template:
        """Those of ``(B, K)`` targets as ``(B * K,)``."""
        return Template(self.locate.flatten(0, 1), self.describe.flatten(0, 1))

    def unflattened(self, shape: torch.Size) -> Template:
        """Those of ``(B * K,)`` targets as ``(B, K)``."""
        return Template(self.locate.unflatten(0, shape), self.describe.unflatten(0, shape))

    def of(self, chosen: Tensor) -> Template:
        """Those with the given numbers ``(n,)``."""
        return Template(self.locate[chosen], self.describe[chosen])


class Correlation(nn.Module):
    """Template and search features, one 3x3 convolution each, and their cross-correlation channel by channel."""

    def __init__(self, dim: int, norm: Norm) -> None:
        """Channels; normalisation as for :func:`neck_norm`."""
        super().__init__()
        self.template = _unpadded(dim, norm)
        self.search = _unpadded(dim, norm)

    def forward(self, search: Tensor, kernels: Tensor) -> Tensor:
        """``(n, D, g, g)`` and kernels ``(n, D, 5, 5)``, of ``self.template``, to ``(n, D, g - 6, g - 6)``."""
        return depthwise_correlation(self.search(search), kernels)


def depthwise_correlation(maps: Tensor, kernels: Tensor) -> Tensor:
    """Slide every kernel over its own map: ``(n, D, h, w)``, ``(n, D, k, k)`` to ``(n, D, h - k + 1, w - k + 1)``.

    In float32 at least: it is little work, and grouped convolutions in half precision are slow where they exist.
    """
    count, channels = maps.shape[:2]
    maps, kernels = to_float(maps), to_float(kernels)
    if torch.compiler.is_exporting():  # the groups of an exported convolution are a fixed number, not that of targets
        size, (height, width) = kernels.shape[-1], (side - kernels.shape[-1] + 1 for side in maps.shape[-2:])
        parts = (
            maps[..., y : y + height, x : x + width] * kernels[..., y, x, None, None]
            for y in range(size)
            for x in range(size)
        )
        return torch.stack(list(parts)).sum(dim=0)
    with without_autocast(maps):
        out = F.conv2d(
            maps.reshape(1, -1, *maps.shape[2:]), kernels.reshape(-1, 1, *kernels.shape[2:]), groups=count * channels
        )
    return out.unflatten(1, (count, channels)).squeeze(0)


def neck_norm(norm: Norm, channels: int) -> nn.Module:
    """Batch norm that learns its statistics where the trunk is pretrained, group norm where it is not."""
    return nn.BatchNorm2d(channels) if norm == "frozen_batch" else group_norm(channels)


def group_norm(channels: int) -> GroupNorm:
    """At most 32 groups."""
    return GroupNorm(min(32, channels), channels)


def _unpadded(dim: int, norm: Norm) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(dim, dim, 3, bias=False), neck_norm(norm, dim), nn.ReLU(inplace=True))
