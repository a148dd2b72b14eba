"""Objects as a batch dimension: what belongs to the frame meets what belongs to an object."""

from __future__ import annotations

import torch
from torch import Tensor


def per_object(x: Tensor, objects: int) -> Tensor:
    """Repeat a tensor of the frame ``(B, C, h, w)`` for every object: ``(B * K, C, h, w)``."""
    return x if objects == 1 else x.repeat_interleave(objects, dim=0)


def add_frame(x: Tensor, frame: Tensor) -> Tensor:
    """Add a tensor of the frame ``(B, C, h, w)`` to that of every object, ``x (B * K, C, h, w)``, in place."""
    x.unflatten(0, (len(frame), -1)).add_(frame.unsqueeze(1))
    return x


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
