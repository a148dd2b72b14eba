"""The dynamic mask head: a target's own small network, whose weights are predicted, on features that all targets share.

Three layers on features and relative coordinates are the head of CondInst (Tian et al., ECCV 2020); one layer without
coordinates is that of SOLOv2 (Wang et al., NeurIPS 2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_vos.settings import Checked

STRIDE = 4  # crop pixels between cells of the mask features
HIDDEN = 8  # width of the layers before the last


@dataclass(frozen=True)
class HeadSettings(Checked):
    """How a target's mask is made.

    Args:
        kernel: ``dynamic``: predicted on every cell. ``static``: one learned kernel for all targets, to see what the
            prediction is worth.
        layers: of the predicted network: 3 (CondInst), or 1 (SOLOv2).
        coordinates: whether it sees where the pixel lies relative to the cell (CondInst), or not (SOLOv2).
        mask_dim: width of the branch that makes the mask features.
        mask_channels: mask features: 8, or 256 in the form of SOLOv2.

    Raises:
        ValueError: an unknown kernel, or no layer.
    """

    kernel: Literal["dynamic", "static"] = "dynamic"
    layers: int = 3
    coordinates: bool = True
    mask_dim: int = 128
    mask_channels: int = 8

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        super().__post_init__()
        if self.layers < 1:
            raise ValueError(f"head.layers={self.layers}: must be at least 1")


class DynamicHead(nn.Module):
    """1x1 convolutions with ReLU between them, a set of weights for every target; it has no parameters of its own.

    ``theta`` lists all weights first, layer by layer and each row by row (out, in), then all biases.

    Args:
        settings: see there. With coordinates, the position of theta's cell minus that of the pixel goes before the
            features.
        reach: crop pixels, the unit of these coordinates; the nominal size of a target.

    Attributes:
        numbers: length of ``theta``.
    """

    def __init__(self, settings: HeadSettings = HeadSettings(), reach: int = 64) -> None:
        super().__init__()
        self.settings = settings
        self.reach = reach
        first = settings.mask_channels + (2 if settings.coordinates else 0)
        self.widths = [first, *[HIDDEN] * (settings.layers - 1), 1]
        self.weights = [a * b for a, b in zip(self.widths, self.widths[1:], strict=False)]
        self.numbers = sum(self.weights) + sum(self.widths[1:])

    def split(self, theta: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """``(n, numbers)`` to the weights ``(n, out, in)`` and the biases ``(n, out)`` of each layer, as views."""
        parts = theta.split([*self.weights, *self.widths[1:]], dim=1)
        layers = len(self.weights)
        shapes = zip(self.widths[1:], self.widths[:-1], strict=True)
        weights = [part.unflatten(1, shape) for part, shape in zip(parts[:layers], shapes, strict=True)]
        return weights, list(parts[layers:])

    def forward(self, features: Tensor, theta: Tensor, cells: Tensor) -> Tensor:
        """Masks of n targets, a product of matrices for each layer of each.

        Args:
            features: ``(n, C, h, w)``.
            theta: ``(n, numbers)``.
            cells: ``(n, 2)`` x, y in crop pixels: where theta was predicted.

        Returns:
            ``(n, h, w)`` logits.
        """
        height, width = features.shape[-2:]
        x = features
        if self.settings.coordinates:
            x = torch.cat([self.relative(cells, height, width).to(x.dtype), x], dim=1)
        x = x.flatten(2)
        for layer, (weight, bias) in enumerate(zip(*self.split(theta), strict=True)):
            x = F.relu(x) if layer else x
            x = torch.baddbmm(bias.unsqueeze(2), weight, x)
        return x.view(-1, height, width)

    def relative(self, cells: Tensor, height: int, width: int) -> Tensor:
        """``(p - q) / reach`` for cell positions p ``(n, 2)`` and pixels q of the grid: ``(n, 2, h, w)``, x first."""
        x = (cells[:, 0, None] - STRIDE * torch.arange(width, device=cells.device)) / self.reach
        y = (cells[:, 1, None] - STRIDE * torch.arange(height, device=cells.device)) / self.reach
        shape = (cells.shape[0], height, width)
        return torch.stack([x.unsqueeze(1).expand(shape), y.unsqueeze(2).expand(shape)], dim=1)


def upsample_masks(logits: Tensor, factor: int) -> Tensor:
    """``(n, h, w)`` to ``(n, factor (h - 1) + 1, ...)``: bilinear between aligned corners, so cells stay on pixels."""
    size = [factor * (side - 1) + 1 for side in logits.shape[-2:]]
    return F.interpolate(logits.unsqueeze(1), size=size, mode="bilinear", align_corners=True).squeeze(1)
