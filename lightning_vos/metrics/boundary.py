"""Boundary accuracy F, equal to the official DAVIS 2017 code."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_vos.metrics import packed
from lightning_vos.metrics.masks import without_void

_CHUNK_BYTES = 1 << 26  # largest map dilated at once off the CPU


def boundary_accuracy(pred: Tensor, target: Tensor, void: Tensor | None = None, tolerance: float = 0.008) -> Tensor:
    """F measure of boundary precision and recall; a boundary pixel counts when one of the other mask is near it.

    A pixel is on the boundary when it differs from its right, lower or lower right neighbour. Precision is the share
    of ``pred``'s boundary within the tolerance (Euclidean, between pixel centres) of ``target``'s, recall the reverse.

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
    return region_and_boundary(pred, target, void, tolerance)[1]


def region_and_boundary(
    pred: Tensor, target: Tensor, void: Tensor | None = None, tolerance: float = 0.008
) -> tuple[Tensor, Tensor]:
    """:func:`~lightning_vos.metrics.region_similarity` and :func:`boundary_accuracy` in one pass over the masks.

    On a CPU every pair of masks is looked at in its own union box, 64 pixels a word. Elsewhere many pairs go through
    the same launches, a byte a pixel on full frames, and nothing waits for the device.

    Args, errors: as for :func:`boundary_accuracy`.

    Returns:
        J and F, each ``(...)`` float64.
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance={tolerance}: must not be negative; 0.008 is the value of DAVIS")
    pred, target = without_void(pred, target, void)
    height, width = pred.shape[-2:]
    radius = tolerance if tolerance >= 1 else math.ceil(tolerance * math.sqrt(height**2 + width**2))
    preds, targets = pred.reshape(-1, height, width), target.reshape(-1, height, width)
    if pred.device.type == "cpu":
        pairs = zip(preds.numpy(), targets.numpy(), strict=True)
        scores = torch.tensor([packed.count_pixels(p, t, radius).scores() for p, t in pairs], dtype=torch.float64)
        region, boundary = scores.view(*pred.shape[:-2], 2).unbind(-1)
        return region, boundary
    chunk = max(1, _CHUNK_BYTES // ((height + int(radius)) * (width + int(radius))))
    chunks = zip(preds.split(chunk), targets.split(chunk), strict=True)
    counts = torch.cat([_count_pixels(p, t, radius) for p, t in chunks]).double()
    matched, present = counts.view(*pred.shape[:-2], 2, 3).unbind(-2)
    region, precision, recall = (matched / present).nan_to_num(1.0).unbind(-1)  # 0 / 0: two empty masks, no boundary
    return region, (2 * precision * recall / (precision + recall)).nan_to_num(0.0)


def _count_pixels(pred: Tensor, target: Tensor, radius: float) -> Tensor:
    """What :func:`~lightning_vos.metrics.packed.count_pixels` counts, of many pairs at once, on any device.

    The two boundaries are bits 0 and 1 of one map, dilated together by shifts of its flattened rows.

    Args:
        pred: ``(N, H, W)`` bool.
        target: ``(N, H, W)`` bool.
        radius: tolerance in pixels.

    Returns:
        ``(N, 6)`` int64, the fields of :class:`~lightning_vos.metrics.packed.Counts`.
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
    near = _dilate(padded.view(-1), width + margin, radius).view(padded.shape)[:, :height, :width]
    matched = on & (near >> 1 | near << 1)  # pred's boundary near target's, and the reverse
    counted = (pred & target, matched & 1, matched & 2, pred | target, on & 1, on & 2)
    return torch.stack([torch.count_nonzero(pixels, dim=(1, 2)) for pixels in counted], dim=1)


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
