"""What J and F count, on masks of 64 pixels a word: a shift or an "or" of a word is one of 64 pixels."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

_WORD = 64  # pixels; the lowest bit is the leftmost


class Counts(NamedTuple):
    """Numbers of pixels of a pair of masks.

    Attributes:
        intersection: in both masks.
        pred_matched: on the boundary of ``pred`` and near that of ``target``.
        target_matched: on the boundary of ``target`` and near that of ``pred``.
        union: in one mask at least.
        pred_boundary: on the boundary of ``pred``.
        target_boundary: on the boundary of ``target``.
    """

    intersection: int
    pred_matched: int
    target_matched: int
    union: int
    pred_boundary: int
    target_boundary: int

    def scores(self) -> tuple[float, float]:
        """J and F of the pair, in [0, 1]."""
        region, precision, recall = (
            matched / present if present else 1.0 for matched, present in zip(self[:3], self[3:], strict=True)
        )
        return region, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


class _Box(NamedTuple):
    """Two masks in the box of their union, with the pixels left of and above it, where boundaries may lie.

    Right of every row and below either mask is a margin of zeros, so that shifts of the flattened words carry nothing
    into another row or mask.

    Attributes:
        words: ``(2, rows, words)`` uint64.
        height: rows without the margin.
        at_bottom: the last of them is the frame's last row.
        end: first bit of a row that is right of the frame; ``None``: the box does not reach so far.
    """

    words: np.ndarray
    height: int
    at_bottom: bool
    end: int | None


def count_pixels(pred: np.ndarray, target: np.ndarray, radius: float) -> Counts:
    """Everything J and F are made of.

    Args:
        pred: ``(H, W)`` bool.
        target: ``(H, W)`` bool, same shape.
        radius: what is near, in pixels, Euclidean, between pixel centres.
    """
    box = _union_box(pred, target, margin=int(radius) + 1)
    if box is None:
        return Counts(0, 0, 0, 0, 0, 0)
    stride = box.words.shape[2]
    pixels = np.empty((6, box.words[0].size), dtype=np.uint64)
    first, second = box.words.reshape(2, -1)
    np.bitwise_and(first, second, out=pixels[0])
    np.bitwise_or(first, second, out=pixels[3])
    on = _boundaries(box)
    near = _dilated(on, stride, radius).reshape(2, -1)
    pixels[4:] = on.reshape(2, -1)
    np.bitwise_and(pixels[4:], near[::-1], out=pixels[1:3])
    return Counts(*np.bitwise_count(pixels).sum(1).tolist())


def _union_box(pred: np.ndarray, target: np.ndarray, margin: int) -> _Box | None:
    """Pack two masks; ``None`` if both are empty."""
    height, width = pred.shape
    packed = [np.packbits(mask, axis=1, bitorder="little") for mask in (pred, target)]
    union = packed[0] | packed[1]
    found = (union != 0).tobytes()  # bytes have the fastest search from both ends
    bottom = found.rfind(1) // union.shape[1] + 1
    if not bottom:
        return None
    top = max(found.find(1) // union.shape[1] - 1, 0)
    columns = np.bitwise_or.reduce(union[top:bottom], axis=0).nonzero()[0]
    left, right = max(int(columns[0]) - 1, 0), int(columns[-1]) + 1  # in bytes
    box = np.zeros((2, bottom - top + margin, -(-(8 * (right - left) + margin) // _WORD) * 8), dtype=np.uint8)
    for to, mask in zip(box, packed, strict=True):
        to[: bottom - top, : right - left] = mask[top:bottom, left:right]
    return _Box(box.view(np.uint64), bottom - top, bottom == height, width - 8 * left if 8 * right >= width else None)


def _boundaries(box: _Box) -> np.ndarray:
    """Flat words of the pixels that differ from their right, lower or lower right neighbour: the four are not equal.

    At the frame's end the missing neighbour is taken as equal, which gives the official last row and column.
    """
    words, height, at_bottom, end = box
    if at_bottom:
        words[:, height] = words[:, height - 1]
    if end is not None:
        words[:, :, end // _WORD] |= (words[:, :, (end - 1) // _WORD] >> (end - 1) % _WORD & 1) << end % _WORD
    flat, stride = words.reshape(-1), words.shape[2]
    right = flat >> 1
    right[:-1] |= flat[1:] << _WORD - 1
    some, every = flat | right, flat & right
    some[:-stride] |= some[stride:]
    every[:-stride] &= every[stride:]
    on = some ^ every
    words = on.reshape(words.shape)
    words[:, height:] = 0
    words[:, :, -1] &= ~np.uint64(1 << _WORD - 1)  # a neighbour left of the next row's first pixel
    if end is not None:
        words[:, :, end // _WORD] &= ~np.uint64(1 << end % _WORD)
    return on


def _dilated(words: np.ndarray, stride: int, radius: float) -> np.ndarray:
    """Flat words dilated by a disk.

    A row of a disk is a line. From the poles inwards they grow, so the dilation by one is the start of the next one's.
    """
    wide, near, reach = words, np.zeros_like(words), 0
    for dy in range(int(radius), -1, -1):
        half_width = math.isqrt(int(radius**2 - dy**2))
        while reach < half_width:
            step = min(half_width - reach, 2 * reach + 1, _WORD - 1)  # further would leave gaps
            spread = wide >> step
            spread |= wide << step
            spread[:-1] |= wide[1:] << _WORD - step
            spread[1:] |= wide[:-1] >> _WORD - step
            if step > reach:  # else the two overlap
                spread |= wide
            wide = spread
            reach += step
        if dy:
            near[dy * stride :] |= wide[: -dy * stride]
            near[: -dy * stride] |= wide[dy * stride :]
    near |= wide
    return near
