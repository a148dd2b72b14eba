"""DMM-Net's image encoder: skips for the decoder and maps for matching, on four levels."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_vos.blocks.backbone import Stride, build_backbone
from lightning_vos.blocks.decoder import conv3x3
from lightning_vos.blocks.normalization import Norm, norm_layer


class Encoding(NamedTuple):
    """Maps of frames, each list at strides 32, 16, 8 and 4.

    Attributes:
        skips: ``(B, C, H / s, W / s)`` for the decoder.
        matching: ``(B, D, H / s, W / s)`` to pool features of boxes from.
    """

    skips: tuple[Tensor, ...]
    matching: tuple[Tensor, ...]


class Encoder(nn.Module):
    """A trunk with two branches on each level: skips for the decoder and maps for matching.

    Args:
        trunk: see :func:`~lightning_vos.blocks.backbone.build_backbone`.
        norm: of the trunk.
        weights: likewise.
        dim: h, width of the skips at strides 32 and 16; half and a quarter of it at strides 8 and 4.
        matching_dim: D, width of the matching maps.
        branch_norm: of the branches, 8 groups; ``None``: as the trunk.
        trunk_stride: of the trunk's deepest features: 32, or 16, and then each at 32 is the mean of four of these
            (three quarters of the weights of an EfficientNet-Lite lie behind stride 16).

    Raises:
        ValueError: another stride.
    """

    def __init__(
        self,
        trunk: str,
        norm: Norm,
        weights: str | None,
        dim: int = 128,
        matching_dim: int = 128,
        branch_norm: Norm | None = None,
        trunk_stride: Stride = 32,
    ) -> None:
        super().__init__()
        if trunk_stride not in (16, 32):
            raise ValueError(f"trunk_stride={trunk_stride}: the deepest features are at stride 16 or 32")
        self.trunk = build_backbone(trunk, norm, weights, stride=trunk_stride)
        channels = self.trunk.channels if trunk_stride == 32 else (*self.trunk.channels, self.trunk.channels[-1])
        normed = norm_layer(branch_norm or norm, groups=8)
        widths = (dim, dim, dim // 2, dim // 4)
        inner = (matching_dim, matching_dim, matching_dim // 2, matching_dim // 4)
        self.skips = nn.ModuleList()
        self.matching = nn.ModuleList()
        for inputs, width, middle in zip(reversed(channels), widths, inner, strict=True):
            self.skips.append(nn.Sequential(conv3x3(inputs, width), normed(width)))
            self.matching.append(
                nn.Sequential(
                    conv3x3(inputs, middle),
                    normed(middle),
                    nn.ReLU(inplace=True),
                    conv3x3(middle, matching_dim),
                    normed(matching_dim),
                )
            )

    def forward(self, image: Tensor) -> Encoding:
        """``(B, 3, H, W)`` normalised, sides multiples of 32."""
        levels = list(self.trunk(image)[::-1])
        if len(levels) < len(self.skips):
            levels.insert(0, F.avg_pool2d(levels[0], 2))
        return Encoding(
            tuple(branch(level) for branch, level in zip(self.skips, levels, strict=True)),
            tuple(branch(level) for branch, level in zip(self.matching, levels, strict=True)),
        )
