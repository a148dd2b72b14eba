"""What the cells of a correlation map should say of a search window (FCOS: Tian et al., ICCV 2019)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_vos.methods.siam_dyn.cells import STRIDE, box_distances, cell_positions

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


def centreness(distances: Tensor) -> Tensor:
    """``sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))`` of ``(..., 4)``; 0 outside of the box."""
    near, far = distances[..., :2], distances[..., 2:]
    ratio = torch.minimum(near, far).clamp(min=0) / torch.maximum(near, far).clamp(min=1e-6)
    return ratio.prod(dim=-1).sqrt()
