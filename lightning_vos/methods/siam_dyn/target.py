"""Where a target is and how large: boxes of masks, and what becomes of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_vos.functional import tight_boxes

MIN_SIZE = 10.0  # pixels; a window around less would show next to nothing


class Jitter(NamedTuple):
    """Largest shift on each axis, in shares of a target's side, and largest change of its scale."""

    shift: float
    scale: float


class Target(NamedTuple):
    """Where a target is and how large, in pixels of the frame; pixel centres lie at integer coordinates.

    Attributes:
        centre: ``(..., 2)`` x, y.
        size: ``(..., 2)`` width, height of its box.
    """

    centre: Tensor
    size: Tensor

    @property
    def side(self) -> Tensor:
        """``s = sqrt((w + q) (h + q))`` with the context ``q = (w + h) / 2``, ``(...)`` pixels (SiamFC)."""
        size = self.size.clamp(min=MIN_SIZE)
        return (size + size.mean(dim=-1, keepdim=True)).prod(dim=-1).sqrt()

    def clamped(self, frame: tuple[int, int]) -> Target:
        """Centre inside the frame ``(H, W)``, size from 10 pixels to the frame's."""
        limits = (frame[1], frame[0])  # numbers, not a tensor: sending one to a GPU would wait for it
        centre = [self.centre[..., axis].clamp(0, limit - 1) for axis, limit in enumerate(limits)]
        size = [self.size[..., axis].clamp(max=limit).clamp(min=MIN_SIZE) for axis, limit in enumerate(limits)]
        return Target(torch.stack(centre, dim=-1), torch.stack(size, dim=-1))

    def jittered(self, draws: Tensor, limits: Jitter, factor: float) -> Target:
        """Shifted and scaled by up to ``limits`` times ``factor``; ``draws (..., 3)`` in [0, 1): x, y and scale."""
        way = factor * (2 * draws - 1)
        centre = self.centre + way[..., :2] * limits.shift * self.side.unsqueeze(-1)
        return Target(centre, self.size * (1 + limits.scale * way[..., 2:]))

    def where(self, chosen: Tensor, other: Target) -> Target:
        """This one where ``chosen (...)`` bool, the other elsewhere."""
        chosen = chosen.unsqueeze(-1)
        return Target(*(torch.where(chosen, ours, theirs) for ours, theirs in zip(self, other, strict=True)))

    def to(self, dtype: torch.dtype) -> Target:
        """The same in another type of numbers."""
        return Target(self.centre.to(dtype), self.size.to(dtype))

    def flattened(self) -> Target:
        """``(B, K)`` targets as ``(B * K,)``."""
        return Target(self.centre.flatten(0, 1), self.size.flatten(0, 1))

    def unflattened(self, shape: torch.Size) -> Target:
        """``(B * K,)`` targets as ``(B, K)``."""
        return Target(self.centre.unflatten(0, shape), self.size.unflatten(0, shape))

    def one_each(self) -> Target:
        """``(n,)`` targets as ``(n, 1)``: one for each of n frames."""
        return Target(self.centre.unsqueeze(1), self.size.unsqueeze(1))


def target_of(masks: Tensor) -> tuple[Target, Tensor]:
    """Tight boxes of masks.

    Args:
        masks: ``(..., H, W)`` bool.

    Returns:
        Targets ``(...)``, the whole frame for an empty mask; ``(...)`` bool, whether there is any pixel.
    """
    boxes, seen = tight_boxes(masks)
    return Target((boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2] + 1), seen


def centre_of_mass(masks: Tensor) -> Tensor:
    """``(..., H, W)`` bool to x, y ``(..., 2)``; 0 for an empty mask."""
    height, width = masks.shape[-2:]
    across, down = masks.sum(dim=-2).float(), masks.sum(dim=-1).float()
    x = (across * torch.arange(width, device=masks.device)).sum(dim=-1)
    y = (down * torch.arange(height, device=masks.device)).sum(dim=-1)
    return torch.stack([x, y], dim=-1) / across.sum(dim=-1, keepdim=True).clamp(min=1)
