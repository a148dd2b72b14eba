"""Boxes and masks: pasting a mask into a frame, features pooled from a box."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_vos.functional import to_float, without_autocast

SAMPLES = 28  # bilinear samples along each side of a box: 14 bins of 2


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Put the masks of boxes into frames, soft, as torchvision and the paper's code do, but all at once.

    A mask gets a border of one zero cell, its box grows accordingly and is cut to integers; the mask is resized
    bilinearly to the box, both end pixels included. Resizing is linear in rows and in columns, so it is a matrix
    product with the weights of rows on the left and those of columns on the right.

    Args:
        masks: ``(..., s, s)`` in [0, 1].
        boxes: ``(..., 4)`` x0, y0, x1, y1, pixels.
        size: ``(H, W)``.

    Returns:
        ``(..., H, W)``.
    """
    boxes, masks, side = to_float(boxes), to_float(masks), masks.shape[-1]
    centre, half = (boxes[..., 2:] + boxes[..., :2]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2
    half = half * ((side + 2) / side)
    first, last = (centre - half).trunc(), (centre + half).trunc()
    columns, rows = (_resize_weights(first[..., axis], last[..., axis], side + 2, size[1 - axis]) for axis in (0, 1))
    with without_autocast(masks):
        return rows @ F.pad(masks, (1, 1, 1, 1)).to(rows.dtype) @ columns.transpose(-1, -2)


def _resize_weights(first: Tensor, last: Tensor, cells: int, length: int) -> Tensor:
    """``(..., length, cells)``: weight of each cell in each pixel, 0 outside ``first..last``; ends are repeated."""
    pixels = torch.arange(length, device=first.device, dtype=first.dtype)
    first, last = first.unsqueeze(-1), last.unsqueeze(-1)
    span = (last - first + 1).clamp(min=1)
    position = ((pixels - first + 0.5) * cells / span - 0.5).clamp(0, cells - 1).unsqueeze(-1)
    hat = F.relu(1 - (position - torch.arange(cells, device=first.device, dtype=first.dtype)).abs())
    return hat * ((pixels >= first) & (pixels <= last)).unsqueeze(-1)


def pool(maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """Mean feature of boxes on every map: RoIAlign with 14x14 bins of 2x2 samples, averaged over the bins.

    That mean is over a grid of samples and a bilinear sample is separable, so it is a product: the map weighted along
    its columns and along its rows. RoIAlign itself would gather 784 samples a box.

    Args:
        maps: ``(B, C, H / s, W / s)``, the first one at stride 4 and each at twice the stride of the one before.
        boxes: ``(B, m, 4)`` x0, y0, x1, y1, pixels.

    Returns:
        ``(B, m, C * len(maps))``, float32 or float64.
    """
    pooled = []
    for level, feature in enumerate(maps):
        feature = to_float(feature)
        x0, y0, x1, y1 = (boxes.to(feature.dtype) / 2 ** (level + 2)).unbind(dim=-1)
        columns, rows = _mean_weights(x0, x1, feature.shape[-1]), _mean_weights(y0, y1, feature.shape[-2])
        with without_autocast(feature):
            by_column = feature.flatten(1, 2) @ columns.transpose(1, 2)  # (B, C * h, m)
            weighted = by_column.unflatten(1, feature.shape[1:3]) * rows.transpose(1, 2).unsqueeze(1)
        pooled.append(weighted.sum(dim=2).transpose(1, 2))
    return torch.cat(pooled, dim=2)


def pool_masks(maps: Sequence[Tensor], masks: Tensor) -> Tensor:
    """Mean feature under masks on every map, weighted by how much of a cell each covers (ours).

    Args:
        maps: as for :func:`pool`.
        masks: ``(B, m, H, W)`` in [0, 1].

    Returns:
        ``(B, m, C * len(maps))``, float32 or float64; zeros for an empty mask.
    """
    pooled = []
    for level, feature in enumerate(maps):
        weights = F.avg_pool2d(to_float(masks), 2 ** (level + 2)).flatten(2)
        weights = weights / weights.sum(dim=2, keepdim=True).clamp(min=1e-6)
        with without_autocast(feature):
            pooled.append(weights @ to_float(feature).flatten(2).transpose(1, 2))
    return torch.cat(pooled, dim=2)


def _mean_weights(first: Tensor, last: Tensor, length: int) -> Tensor:
    """``(..., length)``: weight of each cell in the mean of the samples between two ends, as RoIAlign takes them."""
    span = (last - first).clamp(min=1)
    steps = (torch.arange(SAMPLES, device=first.device, dtype=first.dtype) + 0.5) / SAMPLES
    position = first.unsqueeze(-1) + span.unsqueeze(-1) * steps
    inside = (position >= -1) & (position <= length)
    cells = torch.arange(length, device=first.device, dtype=first.dtype)
    hat = F.relu(1 - (position.clamp(0, length - 1).unsqueeze(-1) - cells).abs())
    return (hat * inside.unsqueeze(-1)).mean(dim=-2)
