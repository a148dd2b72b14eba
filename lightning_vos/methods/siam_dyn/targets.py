"""What the cells of a correlation map should say of a search window (FCOS: Tian et al., ICCV 2019)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_vos.methods.siam_dyn.network import STRIDE, cell_positions

RADIUS = 1.5 * STRIDE  # crop pixels on each axis around the centre of mass within which cells are positive


class CellTargets(NamedTuple):
    """Targets of n windows.

    Attributes:
        positive: ``(n, h, w)`` bool, cells that lie on the target.
        distances: ``(n, 4, h, w)`` to its left, top, right and bottom, crop pixels; valid where positive.
        centreness: ``(n, h, w)`` in [0, 1]; likewise.
    """

    positive: Tensor
    distances: Tensor
    centreness: Tensor


def cell_targets(boxes: Tensor, middle: Tensor, exists: Tensor, size: int) -> CellTargets:
    """Cells inside the box and near the middle are positive.

    Args:
        boxes: ``(n, 4)`` x0, y0, x1, y1, crop pixels.
        middle: ``(n, 2)`` centre of mass, crop pixels.
        exists: ``(n,)`` bool; without a target no cell is positive.
        size: cells on each axis.
    """
    cells = cell_positions(size, boxes)
    distances = box_distances(boxes, cells)
    near = (cells - middle.unsqueeze(1)).abs().amax(dim=2) <= RADIUS
    positive = near & (distances.amin(dim=2) > 0) & exists.unsqueeze(1)
    grid = (size, size)
    return CellTargets(
        positive.unflatten(1, grid),
        distances.transpose(1, 2).unflatten(2, grid),
        centreness(distances).unflatten(1, grid),
    )


def box_distances(boxes: Tensor, cells: Tensor) -> Tensor:
    """Boxes ``(n, 4)`` seen from cells ``(m, 2)``: ``(n, m, 4)`` to left, top, right, bottom; negative outside."""
    boxes = boxes.unsqueeze(1)
    return torch.cat([cells - boxes[..., :2], boxes[..., 2:] - cells], dim=-1)


def distances_to_box(distances: Tensor, cells: Tensor) -> Tensor:
    """The inverse: ``(..., 4)`` distances from cells ``(..., 2)`` to x0, y0, x1, y1."""
    return torch.cat([cells - distances[..., :2], cells + distances[..., 2:]], dim=-1)


def centreness(distances: Tensor) -> Tensor:
    """``sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))`` of ``(..., 4)``; 0 outside of the box."""
    near, far = distances[..., :2], distances[..., 2:]
    ratio = torch.minimum(near, far).clamp(min=0) / torch.maximum(near, far).clamp(min=1e-6)
    return ratio.prod(dim=-1).sqrt()


def centre_of_mass(masks: Tensor) -> Tensor:
    """``(..., H, W)`` bool to x, y ``(..., 2)``; 0 for an empty mask."""
    height, width = masks.shape[-2:]
    across, down = masks.sum(dim=-2).float(), masks.sum(dim=-1).float()
    x = (across * torch.arange(width, device=masks.device)).sum(dim=-1)
    y = (down * torch.arange(height, device=masks.device)).sum(dim=-1)
    return torch.stack([x, y], dim=-1) / across.sum(dim=-1, keepdim=True).clamp(min=1)
