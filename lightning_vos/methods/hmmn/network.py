"""Layers of HMMN: key and value heads, decoder with branches for the fine reads."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_vos.blocks.decoder import ResBlock, conv3x3, upsample
from lightning_vos.blocks.objects import add_frame, conv_frame, conv_objects, per_object


class KeyValue(nn.Module):
    """Key and value of a feature: one 3x3 convolution each, computed as one, neither normalised nor activated."""

    def __init__(self, in_channels: int, key_dim: int, value_dim: int) -> None:
        """Channels of the feature, of the key and of the value; ``value_dim=0`` for a key alone."""
        super().__init__()
        self.dims = [key_dim, value_dim]
        self.project = conv3x3(in_channels, key_dim + value_dim)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, C, h, w)`` to ``(B, key_dim, h, w)`` and ``(B, value_dim, h, w)``."""
        key, value = self.project(feature).split(self.dims, dim=1)
        return key, value


class Skips(NamedTuple):
    """What the decoder takes of the query frame, for all objects: ``s16 (B, D, h, w)``; ``s8`` and ``s4`` likewise."""

    s16: Tensor
    s8: Tensor
    s4: Tensor


class FineFusion(nn.Module):
    """One scale of the decoder: query feature + fine read, refined, + the coarser scale, refined."""

    def __init__(self, skip_channels: int, value_dim: int, dim: int) -> None:
        """Channels of the query's feature, of the fine value, of the decoder."""
        super().__init__()
        self.query = conv3x3(skip_channels, dim)
        # Without bias: a branch that is left out equals a read of zeros.
        self.memory = nn.Conv2d(value_dim, dim, kernel_size=3, padding=1, bias=False)
        self.refine_skip = ResBlock(dim, dim)
        self.refine = ResBlock(dim, dim)

    def forward(self, skip: Tensor, read: Tensor | None, coarse: Tensor, objects: int) -> Tensor:
        """Fuse one scale.

        Args:
            skip: ``(B, D, h, w)`` query feature, one for all objects of a frame.
            read: ``(B * K, value_dim, h, w)`` fine read, or None where the branch is left out.
            coarse: ``(B * K, D, h/2, w/2)``.
            objects: K.

        Returns:
            ``(B * K, D, h, w)``.
        """
        fine = per_object(skip, objects) if read is None else add_frame(self.memory(read), skip)
        return self.refine(self.refine_skip(fine).add_(upsample(coarse, 2)))


class Decoder(nn.Module):
    """Coarse read and fine reads to two logits per object, background and object (STM's decoder with two more inputs).

    Args:
        value_dim: channels of the coarse value; the read is joined with the query's own value.
        skip_channels: channels of f8 and f4.
        fine_dims: channels of the fine values at strides 8 and 4.
        dim: width of the decoder, 256 in the paper.
    """

    def __init__(
        self, value_dim: int, skip_channels: tuple[int, int], fine_dims: tuple[int, int], dim: int = 256
    ) -> None:
        super().__init__()
        self.compress = conv3x3(2 * value_dim, dim)
        self.refine16 = ResBlock(dim, dim)
        self.fuse8 = FineFusion(skip_channels[0], fine_dims[0], dim)
        self.fuse4 = FineFusion(skip_channels[1], fine_dims[1], dim)
        self.predict = conv3x3(dim, 2)

    def skips(self, value16: Tensor, f8: Tensor, f4: Tensor) -> Skips:
        """The part that does not depend on the object, of the query's own value and features."""
        return Skips(conv_frame(self.compress, value16), self.fuse8.query(f8), self.fuse4.query(f4))

    def forward(self, coarse: Tensor, skips: Skips, read8: Tensor | None, read4: Tensor | None) -> Tensor:
        """Decode a batch of objects.

        Args:
            coarse: ``(B, K, value_dim, h, w)``, the read.
            skips: of the frame.
            read8: ``(B, K, C_8, 2h, 2w)``, or None where the branch is left out.
            read4: ``(B, K, C_4, 4h, 4w)``, or None.

        Returns:
            ``(B, K, 16h, 16w)`` log-odds of the object: the difference of the two logits.
        """
        batch, objects = coarse.shape[:2]
        read8, read4 = (None if read is None else read.flatten(0, 1) for read in (read8, read4))
        x = self.refine16(conv_objects(self.compress, coarse.flatten(0, 1), skips.s16))
        x = self.fuse8(skips.s8, read8, x, objects)
        x = self.fuse4(skips.s4, read4, x, objects)
        background, foreground = self.predict(F.relu(x)).unbind(dim=1)
        # The difference before the up-sampling: both are linear, and it is half the work.
        return upsample((foreground - background).unflatten(0, (batch, objects)), 4)
