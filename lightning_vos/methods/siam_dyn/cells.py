"""The cells of a correlation map: where they lie in a search window, and boxes as they see them."""

from __future__ import annotations

import torch
from torch import Tensor

STRIDE = 8  # of the deepest features, crop pixels
KEPT = 7  # central cells of a template on each axis: about the target
FIRST = STRIDE * (KEPT // 2)  # crop pixel of the first cell of the correlation map


def map_size(search_size: int) -> int:
    """Cells of the correlation map on each axis, for a search window of this side."""
    return (search_size - 1) // STRIDE + 1 - 2 * (FIRST // STRIDE)


def cell_positions(size: int, like: Tensor) -> Tensor:
    """Crop pixels of the cells of a square correlation map: ``(size * size, 2)``, x and y, row by row."""
    steps = FIRST + STRIDE * torch.arange(size, device=like.device, dtype=like.dtype)
    return torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).flatten(0, 1)


def box_distances(boxes: Tensor, cells: Tensor) -> Tensor:
    """Boxes ``(n, 4)`` seen from cells ``(m, 2)``: ``(n, m, 4)`` to left, top, right, bottom; negative outside."""
    boxes = boxes.unsqueeze(1)
    return torch.cat([cells - boxes[..., :2], boxes[..., 2:] - cells], dim=-1)


def distances_to_box(distances: Tensor, cells: Tensor) -> Tensor:
    """The inverse: ``(..., 4)`` distances from cells ``(..., 2)`` to x0, y0, x1, y1."""
    return torch.cat([cells - distances[..., :2], cells + distances[..., 2:]], dim=-1)
