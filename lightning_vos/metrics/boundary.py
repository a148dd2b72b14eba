"""Boundary accuracy F, equal to the official DAVIS 2017 code."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_vos.metrics.masks import without_void

# Of the 16 codes of _match_table: matched pixels of pred's and of target's boundary, then all of pred's and target's.
_COUNTS = torch.tensor(
    [[on & 1 and near & 2, on & 2 and near & 1, on & 1, on & 2] for on in range(4) for near in range(4)],
    dtype=torch.bool,
).double()
_CHUNK_BYTES = 1 << 26  # largest map dilated at once off the CPU


def boundary_accuracy(pred: Tensor, target: Tensor, void: Tensor | None = None, tolerance: float = 0.008) -> Tensor:
    """F measure of boundary precision and recall; a boundary pixel counts when one of the other mask is near it.

    A pixel is on the boundary when it differs from its right, lower or lower right neighbour. Precision is the share
    of ``pred``'s boundary within the tolerance (Euclidean, between pixel centres) of ``target``'s, recall the reverse.

    Only the union box of the two masks is looked at: a boundary lies in it, so nothing outside can match. The two
    boundaries are bits 0 and 1 of one map, dilated together by shifts of its flattened rows.

    Args:
        pred: ``(..., H, W)`` bool.
        target: ``(..., H, W)`` bool, same shape.
        void: bool, broadcastable to ``pred``; its pixels are removed from both masks.
        tolerance: below 1 a share of the image diagonal, rounded up to whole pixels; from 1 on, pixels.

    Returns:
        ``(...)`` float64 in [0, 1]; 1 where neither mask has a boundary, 0 where only one has.

    Raises:
        ValueError: if a mask is not bool, the shapes differ or the tolerance is negative.
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance={tolerance}: must not be negative; 0.008 is the value of DAVIS")
    pred, target = without_void(pred, target, void)
    height, width = pred.shape[-2:]
    radius = tolerance if tolerance >= 1 else math.ceil(tolerance * math.sqrt(height**2 + width**2))
    preds, targets = pred.reshape(-1, height, width), target.reshape(-1, height, width)
    tables = [preds.new_zeros((0, 16), dtype=torch.int64)]
    if pred.device.type == "cpu" or not len(preds):
        for p, t in zip(preds, targets, strict=True):
            rows, columns = _union_box(p, t)
            tables.append(_match_table(p[None, rows, columns], t[None, rows, columns], radius))
    else:  # launches cost more than pixels: no boxes, which would have to be waited for
        chunk = max(1, _CHUNK_BYTES // ((height + int(radius)) * (width + int(radius))))
        for p, t in zip(preds.split(chunk), targets.split(chunk), strict=True):
            tables.append(_match_table(p, t, radius))
    counts = (torch.cat(tables).double() @ _COUNTS.to(pred.device)).view(*pred.shape[:-2], 2, 2)
    precision, recall = (counts[..., 0, :] / counts[..., 1, :]).nan_to_num(1.0).unbind(-1)  # 0 / 0: no boundary
    return (2 * precision * recall / (precision + recall)).nan_to_num(0.0)


def _union_box(pred: Tensor, target: Tensor) -> tuple[slice, slice]:
    """Rows and columns of the ``(H, W)`` masks' union, grown by one pixel inside the frame; one pixel if empty."""
    union = (pred | target).view(torch.uint8)  # amax of bytes is several times faster than any of bools
    rows = union.amax(1).nonzero()
    if not len(rows):
        return slice(0, 1), slice(0, 1)
    top, bottom = int(rows[0]), int(rows[-1])
    columns = union[top : bottom + 1].amax(0).nonzero()
    left, right = int(columns[0]), int(columns[-1])
    return slice(max(top - 1, 0), bottom + 2), slice(max(left - 1, 0), right + 2)


def _match_table(pred: Tensor, target: Tensor, radius: float) -> Tensor:
    """How many pixels lie on which boundary and near which.

    Args:
        pred: ``(N, H, W)`` bool.
        target: ``(N, H, W)`` bool.
        radius: tolerance in pixels.

    Returns:
        ``(N, 16)`` int64, pixels by ``4 * on + near``; each is 1 for pred's boundary, 2 for target's, 3 for both.
    """
    num, height, width = pred.shape
    margin = int(radius)
    both = torch.add(pred.view(torch.uint8), target.view(torch.uint8), alpha=2)
    # The margin right of and below each map is what keeps a shift of the flattened whole inside its row and its map.
    padded = both.new_zeros(num, height + margin, width + margin)
    on = padded[:, :height, :width]
    # At the frame's end the missing neighbour is taken as equal, which gives the official last row and column.
    torch.bitwise_xor(both[:, :, 1:], both[:, :, :-1], out=on[:, :, :-1])
    on[:, :-1] |= both[:, 1:] ^ both[:, :-1]
    on[:, :-1, :-1] |= both[:, 1:, 1:] ^ both[:, :-1, :-1]
    near = _dilate(padded.view(-1), width + margin, radius)
    codes = near.add_(padded.view(-1), alpha=4).view(num, -1)
    return torch.stack([torch.bincount(code, minlength=16) for code in codes])


def _dilate(flat: Tensor, stride: int, radius: float) -> Tensor:
    """Bitwise dilation of a flattened map of row length ``stride`` by a disk, row by row from its poles inwards.

    The half-width of the disk only grows on the way to its equator, so the horizontal dilation of one row is the start
    of the next one's.
    """
    wide, near, reach = flat.clone(), torch.zeros_like(flat), 0
    for dy in range(int(radius), -1, -1):
        half_width = math.isqrt(int(radius**2 - dy**2))
        for dx in range(reach + 1, half_width + 1):
            wide[dx:] |= flat[:-dx]
            wide[:-dx] |= flat[dx:]
        reach = half_width
        if dy == 0:
            return near.bitwise_or_(wide)
        near[dy * stride :] |= wide[: -dy * stride]
        near[: -dy * stride] |= wide[dy * stride :]
    return near
