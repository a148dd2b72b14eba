"""Residual blocks and the refinement decoder of the space-time memory family."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_vos.blocks.objects import add_frame, conv_frame, conv_objects, per_object


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """3x3 convolution with bias that keeps the size."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)


def upsample(x: Tensor, factor: int) -> Tensor:
    """Bilinear, ``align_corners=False``."""
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


class ResBlock(nn.Module):
    """``x + conv3x3(relu(conv3x3(relu(x))))`` without normalisation; a 3x3 convolution adapts changed channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.skip = conv3x3(in_channels, out_channels) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, frame: Tensor | None = None) -> Tensor:
        """The block of every object's map, joined with one of the frame if there is one.

        Args:
            x: ``(B * K, C, h, w)``.
            frame: ``(B, C', h, w)``, what follows x in the channels; its convolutions are computed once a frame.

        Returns:
            ``(B * K, C_out, h, w)``.
        """
        if frame is not None:
            inner = conv_objects(self.conv1, F.relu(x), conv_frame(self.conv1, F.relu(frame)))
            if isinstance(self.skip, nn.Conv2d):
                skip = conv_objects(self.skip, x, conv_frame(self.skip, frame))
            else:
                skip = torch.cat([x, per_object(frame, x.shape[0] // frame.shape[0])], dim=1)
            return self.conv2(F.relu(inner, inplace=True)).add_(skip)
        # In place where no gradient needs what was there: a new map for every sum costs a tenth of a frame.
        return self.conv2(F.relu(self.conv1(F.relu(x)), inplace=True)).add_(self.skip(x))


class MaskDecoder(nn.Module):
    """Readout at stride 16 to one mask logit per object, with skips of the frame at strides 8 and 4 (STCN).

    Thin feature and skips belong to the frame, not to an object: they are convolved once and added to every object's.

    Args:
        in_channels: channels of the readout joined with the frame's thin feature.
        skip_channels: channels of f8 and f4.
        dim: width at strides 8 and 4; twice that at stride 16. 256 in STCN.
    """

    def __init__(self, in_channels: int, skip_channels: tuple[int, int], dim: int = 256) -> None:
        super().__init__()
        self.compress = ResBlock(in_channels, 2 * dim)
        self.skip8 = conv3x3(skip_channels[0], 2 * dim)
        self.refine8 = ResBlock(2 * dim, dim)
        self.skip4 = conv3x3(skip_channels[1], dim)
        self.refine4 = ResBlock(dim, dim)
        self.predict = conv3x3(dim, 1)

    def forward(self, readout: Tensor, thin: Tensor, f8: Tensor, f4: Tensor) -> Tensor:
        """Decode all objects in one batch.

        Args:
            readout: ``(B, K, C, h, w)``.
            thin: ``(B, C', h, w)`` feature of the frame, shared by the objects.
            f8: ``(B, C_8, 2h, 2w)``.
            f4: ``(B, C_4, 4h, 4w)``.

        Returns:
            ``(B, K, 16h, 16w)`` logits.
        """
        batch, objects = readout.shape[:2]
        x = self.compress(readout.flatten(0, 1), thin)
        x = self.refine8(add_frame(upsample(x, 2), self.skip8(f8)))
        x = self.refine4(add_frame(upsample(x, 2), self.skip4(f4)))
        return upsample(self.predict(F.relu(x)), 4).view(batch, objects, 4 * f4.shape[-2], 4 * f4.shape[-1])
