"""DMM-Net's image encoder: skips for the decoder and maps for matching, on four levels."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from lightning_vos.blocks.backbone import Backbone, FrozenStatsBatchNorm2d, GroupNorm, Norm, Trunk
from lightning_vos.blocks.decoder import conv3x3


class Encoding(NamedTuple):
    """Maps of frames, each list at strides 32, 16, 8 and 4.

    Attributes:
        skips: ``(B, C, H / s, W / s)`` for the decoder.
        matching: ``(B, D, H / s, W / s)`` to pool features of boxes from.
    """

    skips: tuple[Tensor, ...]
    matching: tuple[Tensor, ...]


class Encoder(nn.Module):
    """ResNet conv1..layer4 with two branches on each level: skips for the decoder and maps for matching.

    Args:
        trunk: ResNet.
        norm: as for :class:`~lightning_vos.blocks.backbone.Backbone`; in the branches 8 groups.
        weights: likewise.
        dim: h, width of the skips at strides 32 and 16; half and a quarter of it at strides 8 and 4.
        matching_dim: D, width of the matching maps.
    """

    def __init__(self, trunk: Trunk, norm: Norm, weights: str | None, dim: int = 128, matching_dim: int = 128) -> None:
        super().__init__()
        self.trunk = Backbone(trunk, norm, weights, stride=32)
        widths = (dim, dim, dim // 2, dim // 4)
        inner = (matching_dim, matching_dim, matching_dim // 2, matching_dim // 4)
        self.skips = nn.ModuleList()
        self.matching = nn.ModuleList()
        for channels, width, middle in zip(reversed(self.trunk.channels), widths, inner, strict=True):
            self.skips.append(nn.Sequential(conv3x3(channels, width), _norm(norm, width)))
            self.matching.append(
                nn.Sequential(
                    conv3x3(channels, middle),
                    _norm(norm, middle),
                    nn.ReLU(inplace=True),
                    conv3x3(middle, matching_dim),
                    _norm(norm, matching_dim),
                )
            )

    def forward(self, image: Tensor) -> Encoding:
        """``(B, 3, H, W)`` normalised, sides multiples of 32."""
        levels = self.trunk(image)[::-1]
        return Encoding(
            tuple(branch(level) for branch, level in zip(self.skips, levels, strict=True)),
            tuple(branch(level) for branch, level in zip(self.matching, levels, strict=True)),
        )


def _norm(norm: Norm, channels: int) -> nn.Module:
    return FrozenStatsBatchNorm2d(channels) if norm == "frozen_batch" else GroupNorm(min(8, channels), channels)
