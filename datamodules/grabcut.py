"""Objects cut out of a picture by its colours: GrabCut, from a box or from scribbles. Rough, but no network is needed.

C. Rother, V. Kolmogorov, A. Blake: "GrabCut" -- Interactive Foreground Extraction using Iterated Graph Cuts, 2004.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

ITERATIONS = 5
AREA = 160_000  # pixels that a cut is computed on: larger windows are shrunk, which the edges of the mask show
MARGIN = 24  # pixels of background around what is cut, at least

Stroke = Sequence[tuple[float, float]]


class Box(NamedTuple):
    """``x0 <= x < x1``, ``y0 <= y < y1``, pixels."""

    x0: int
    y0: int
    x1: int
    y1: int


def object_in_box(frame: np.ndarray, box: Box) -> np.ndarray:
    """The object that a box encloses.

    Args:
        frame: ``(H, W, 3)`` uint8 RGB.
        box: inside of the frame.

    Returns:
        ``(H, W)`` bool; empty where all colours of the box are outside of it, too.
    """
    seeds = np.full(frame.shape[:2], cv2.GC_BGD, dtype=np.uint8)
    seeds[box.y0 : box.y1, box.x0 : box.x1] = cv2.GC_PR_FGD
    return _cut(frame, seeds, _around(box, seeds.shape))


def grow(
    frame: np.ndarray,
    labels: np.ndarray,
    id_: int,
    inside: Sequence[Stroke],
    outside: Sequence[Stroke],
    width: int,
) -> np.ndarray:
    """Let an object fill what is like the strokes inside of it, and leave what is like those outside.

    Of what is found, the parts stay that touch a stroke or the object as it was. Other objects lose nothing.

    Args:
        frame: ``(H, W, 3)`` uint8 RGB.
        labels: ``(H, W)`` uint8 ids.
        id_: the object.
        inside: strokes in it, each a list of points ``(x, y)`` in pixels.
        outside: strokes that are not in it.
        width: of the strokes, pixels.

    Returns:
        The labels with the object as it is now.
    """
    seeds = np.full(labels.shape, cv2.GC_PR_BGD, dtype=np.uint8)
    before = labels == id_
    seeds[before] = cv2.GC_PR_FGD
    seeds[(labels > 0) & ~before] = cv2.GC_BGD
    for strokes, value in ((inside, cv2.GC_FGD), (outside, cv2.GC_BGD)):
        for stroke in strokes:
            points = np.rint(np.asarray(stroke, dtype=np.float64).reshape(-1, 1, 2)).astype(np.int32)
            cv2.polylines(seeds, [points], isClosed=False, color=int(value), thickness=max(1, width))
    begun = (seeds == cv2.GC_FGD) | (before & (seeds != cv2.GC_BGD))
    if not begun.any():
        return np.where(before, 0, labels).astype(np.uint8)
    ys, xs = np.nonzero(begun)
    box = Box(int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
    found = _cut(frame, seeds, _around(box, labels.shape)) | (seeds == cv2.GC_FGD)
    _, parts = cv2.connectedComponents(found.astype(np.uint8))
    found &= np.isin(parts, np.unique(parts[begun & found]))
    rest = np.where(before, 0, labels)
    return np.where(found & (rest == 0), id_, rest).astype(np.uint8)


def _around(box: Box, size: tuple[int, ...]) -> Box:
    """The box with its own size of background on each side."""
    dx, dy = (max(MARGIN, side) for side in (box.x1 - box.x0, box.y1 - box.y0))
    return Box(max(0, box.x0 - dx), max(0, box.y0 - dy), min(size[1], box.x1 + dx), min(size[0], box.y1 + dy))


def _cut(frame: np.ndarray, seeds: np.ndarray, window: Box) -> np.ndarray:
    """``(H, W)`` bool; nothing is found outside of the window."""
    result = np.zeros(seeds.shape, dtype=bool)
    place = np.s_[window.y0 : window.y1, window.x0 : window.x1]
    picture, inside = np.ascontiguousarray(frame[place]), seeds[place].copy()
    height, width = inside.shape
    scale = min(1.0, (AREA / (height * width)) ** 0.5)
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    if scale < 1:
        picture = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
        inside = cv2.resize(inside, small, interpolation=cv2.INTER_NEAREST)
    foreground = np.isin(inside, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if foreground.any() and not foreground.all():
        cv2.setRNGSeed(0)  # the clusters that it begins with are drawn: the same picture gives the same mask
        models = np.zeros((2, 1, 65))
        cv2.grabCut(picture, inside, (0, 0, 1, 1), models[0], models[1], ITERATIONS, cv2.GC_INIT_WITH_MASK)
        foreground = np.isin(inside, (cv2.GC_FGD, cv2.GC_PR_FGD))
    large = cv2.resize(foreground.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    result[place] = large > 0.5
    return result
