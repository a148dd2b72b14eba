"""The mask branch: features of a search window, shared by whoever's kernel is convolved with them (CondInst)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_vos.blocks.backbone import Pyramid
from lightning_vos.methods.siam_dyn.correlation import group_norm

LAYERS = 4  # convolutions after the levels have been joined


class MaskBranch(nn.Module):
    """Features of the search window at stride 4, without knowledge of the template.

    Args:
        in_channels: of the trunk's maps at stride 4, at stride 8, and of the dilated ones.
        dim: width.
        channels: of the result.
    """

    def __init__(self, in_channels: tuple[int, ...], dim: int, channels: int) -> None:
        super().__init__()
        self.refine = nn.ModuleList(_layer(width, dim) for width in in_channels)
        self.tower = nn.Sequential(*(_layer(dim, dim) for _ in range(LAYERS)))
        self.project = nn.Conv2d(dim, channels, 1)

    def forward(self, pyramid: Pyramid) -> Tensor:
        """``(n, C, 2g - 1, 2g - 1)``; g is the side of the stride-8 maps."""
        fine, *coarse = (refine(level) for refine, level in zip(self.refine, pyramid, strict=True))
        # Resizing is linear: the sum of the coarse maps needs it only once.
        size = fine.shape[-2:]
        fine = fine + F.interpolate(torch.stack(coarse).sum(dim=0), size=size, mode="bilinear", align_corners=True)
        return self.project(self.tower(fine))


def _layer(in_channels: int, dim: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, dim, 3, padding=1, bias=False)
    return nn.Sequential(conv, group_norm(dim), nn.ReLU(inplace=True))
