"""Objects as a batch dimension: what belongs to the frame meets what belongs to an object."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def per_object(x: Tensor, objects: int) -> Tensor:
    """Repeat a tensor of the frame ``(B, C, h, w)`` for every object: ``(B * K, C, h, w)``."""
    return x if objects == 1 else x.repeat_interleave(objects, dim=0)


def add_frame(x: Tensor, frame: Tensor) -> Tensor:
    """Add a tensor of the frame ``(B, C, h, w)`` to that of every object, ``x (B * K, C, h, w)``, in place."""
    x.unflatten(0, (len(frame), -1)).add_(frame.unsqueeze(1))
    return x


def conv_frame(conv: nn.Conv2d, frame: Tensor) -> Tensor:
    """What the frame contributes to a convolution of ``[object; frame]``, once for all objects; bias included.

    A convolution is linear in its input: that of joined channels is the sum of those of the parts.

    Args:
        conv: of ``C + C'`` channels.
        frame: ``(B, C', h, w)``.

    Returns:
        ``(B, C_out, h, w)``, for :func:`conv_objects`.
    """
    shared = conv.weight[:, -frame.shape[1] :]
    return F.conv2d(frame, shared, conv.bias, conv.stride, conv.padding, conv.dilation)


def conv_objects(conv: nn.Conv2d, x: Tensor, of_frame: Tensor) -> Tensor:
    """The convolution of ``[object; frame]``: the objects' part is added to that of :func:`conv_frame`.

    Args:
        conv: of ``C + C'`` channels.
        x: ``(B * K, C, h, w)``.
        of_frame: ``(B, C_out, h, w)``.

    Returns:
        ``(B * K, C_out, h, w)``.
    """
    own = conv.weight[:, : x.shape[1]]
    return add_frame(F.conv2d(x, own, None, conv.stride, conv.padding, conv.dilation), of_frame)


def with_masks(image: Tensor, masks: Tensor, objects: slice | None = None) -> Tensor:
    """Input of an encoder that sees a frame and one of its objects (STM): RGB, the object, the other objects.

    Args:
        image: ``(B, 3, H, W)`` normalised.
        masks: ``(B, K, H, W)`` probabilities of all objects.
        objects: which of them; all by default.

    Returns:
        ``(B * K', 5, H, W)``.
    """
    chosen = masks if objects is None else masks[:, objects]
    others = (masks.sum(dim=1, keepdim=True) - chosen).clamp(0, 1)
    planes = torch.stack([chosen, others], dim=2).flatten(0, 1).to(image.dtype)
    return torch.cat([per_object(image, chosen.shape[1]), planes], dim=1)
