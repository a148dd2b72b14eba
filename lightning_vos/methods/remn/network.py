"""Layers of REMN: local attention, value encoder, and the projections of the key encoder.

Section numbers refer to ``docs/remn.md``, where every constant is marked as published, taken from a relative, or ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_vos.blocks.backbone import build_backbone
from lightning_vos.blocks.decoder import ResBlock, conv3x3
from lightning_vos.blocks.normalization import Norm
from lightning_vos.blocks.objects import with_masks

STRIDE = 16
MIN_PIXELS = 10  # a previous mask with fewer confident pixels is lost: do not attend to it (RMNet's rule)


class LocalAttention(nn.Module):
    """Suppress features far from the previous mask by a learned, content-dependent factor (our design).

    ``m`` is the previous union mask averaged over 16x16 blocks and ``A`` its 9x9 maximum (a margin of 64 px, RMNet's).
    ``a = sigmoid(conv1x1(relu(conv3x3([relu(conv1x1(f)); m; A]))))``, ``e = A + (1 - A) a``, output ``f * e``:
    untouched near the old mask, scaled by ``a`` elsewhere. With fewer than 10 px above 0.5, ``e = 1``: a lost object
    must be able to come back. The last layer starts at weight 0 and bias 4, ``a = 0.982``: almost the identity.
    """

    def __init__(self, channels: int, hidden: int = 64) -> None:
        """``channels`` of the feature."""
        super().__init__()
        self.reduce = nn.Conv2d(channels, hidden, kernel_size=1)
        self.mix = conv3x3(hidden + 2, hidden)
        self.score = nn.Conv2d(hidden, 1, kernel_size=1)
        for conv in (self.reduce, self.mix):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.score.weight)
        nn.init.constant_(self.score.bias, 4.0)  # type: ignore[arg-type]

    def envelope(self, feature: Tensor, union: Tensor) -> Tensor:
        """The factor e.

        Args:
            feature: ``(B, C, h, w)``.
            union: ``(B, 1, 16h, 16w)`` previous foreground in [0, 1].

        Returns:
            ``(B, 1, h, w)`` in (0, 1].
        """
        union = union.detach()
        pooled = F.avg_pool2d(union, STRIDE)
        near = F.max_pool2d(pooled, kernel_size=9, stride=1, padding=4)
        x = F.relu(self.reduce(feature))
        x = torch.cat([x, pooled.to(x.dtype), near.to(x.dtype)], dim=1)
        attention = torch.sigmoid(self.score(F.relu(self.mix(x)))).to(near.dtype)
        envelope = near + (1 - near) * attention
        lost = (union > 0.5).sum(dim=(1, 2, 3), keepdim=True) < MIN_PIXELS
        return torch.where(lost, torch.ones_like(envelope), envelope)

    def forward(self, feature: Tensor, union: Tensor) -> Tensor:
        """``feature * e``; arguments as :meth:`envelope`."""
        return feature * self.envelope(feature, union).to(feature.dtype)


class ChannelSpatialGate(nn.Module):
    """CBAM (Woo et al. 2018): a channel gate from global mean and maximum, then a 7x7 spatial gate."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        """``channels`` of the feature."""
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(channels, channels // reduction), nn.ReLU(), nn.Linear(channels // reduction, channels)
        )
        self.spatial = nn.Conv2d(2, 1, kernel_size=7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` to the same shape."""
        gate = torch.sigmoid(self.mlp(x.mean(dim=(2, 3))) + self.mlp(x.amax(dim=(2, 3))))
        x = x * gate[:, :, None, None]
        summary = torch.cat([x.amax(dim=1, keepdim=True), x.mean(dim=1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.spatial(summary))


class ValueEncoder(nn.Module):
    """What to remember of a frame, per object: image and masks through a ResNet, fused with the frame's f16 (STCN).

    The input has 5 channels: RGB, the object's mask, the sum of the other objects' masks. The fifth is there from the
    first stage on (STCN adds it later), so that both stages share one network.
    """

    def __init__(self, f16_channels: int, dim: int, trunk: str, norm: Norm, weights: str | None) -> None:
        """``dim`` is the number of value channels; the rest as :func:`build_backbone`."""
        super().__init__()
        self.backbone = build_backbone(trunk, norm, weights, in_channels=5)
        self.fuse = ResBlock(self.backbone.channels[2] + f16_channels, dim)
        self.gate = ChannelSpatialGate(dim)
        self.refine = ResBlock(dim, dim)

    def forward(self, image: Tensor, f16: Tensor, masks: Tensor) -> Tensor:
        """Encode all objects in one batch.

        Args:
            image: ``(B, 3, H, W)`` normalised.
            f16: ``(B, C, h, w)`` ungated feature of the frame.
            masks: ``(B, K, H, W)`` probabilities of the objects.

        Returns:
            ``(B, K, dim, h, w)``.
        """
        batch, objects = masks.shape[:2]
        x = self.backbone(with_masks(image, masks)).f16
        x = self.fuse(x, f16)
        return self.refine(x + self.gate(x)).unflatten(0, (batch, objects))


class KeyProjection(nn.Module):
    """Two 3x3 convolutions of the (gated) f16: the matching key and the thin feature for the decoder (STCN)."""

    def __init__(self, in_channels: int, key_dim: int, thin_dim: int) -> None:
        """Channels of f16, of the key (64 in STCN) and of the thin feature (512)."""
        super().__init__()
        self.key = conv3x3(in_channels, key_dim)
        self.thin = conv3x3(in_channels, thin_dim)
        nn.init.orthogonal_(self.key.weight)
        nn.init.zeros_(self.key.bias)  # type: ignore[arg-type]

    def forward(self, f16: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, C, h, w)`` to the key ``(B, key_dim, h, w)`` and the thin feature ``(B, thin_dim, h, w)``."""
        return self.key(f16), self.thin(f16)
