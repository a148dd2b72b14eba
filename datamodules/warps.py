"""Geometry of augmentation: every step is a matrix, and all steps of a frame are one warp.

A matrix is ``(3, 3)`` float64 and maps a point (x, y, 1) of the picture to one of the result. Pixel centres have whole
coordinates, as in OpenCV and albumentations.
"""

from __future__ import annotations

import cv2
import numpy as np

MEAN_COLOUR = (124, 116, 104)
MARGIN = 2  # pixels beside what is seen that interpolation may read, at the finer of both resolutions

Size = tuple[int, int]


def shift(x: float, y: float) -> np.ndarray:
    """Everything moves by (x, y) pixels."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], dtype=np.float64)


def stretch(x: float, y: float) -> np.ndarray:
    """What resizing does: factors of width and height; the outer edges of the corner pixels stay the corners."""
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]], dtype=np.float64)


def mirror(width: int) -> np.ndarray:
    """Left and right of a picture change places."""
    return np.array([[-1, 0, width - 1], [0, 1, 0], [0, 0, 1]], dtype=np.float64)


def placed(size: Size, canvas: Size, factor: float) -> np.ndarray:
    """A picture of ``(H, W)`` pixels, ``factor`` times as large, in the middle of a canvas of ``(H', W')`` pixels."""
    x, y = ((outer - factor * inner) / 2 for outer, inner in zip(canvas[::-1], size[::-1], strict=True))
    return shift(x, y) @ stretch(factor, factor)


def seen(picture: np.ndarray, matrix: np.ndarray, canvas: Size, margin: float = 0) -> tuple[np.ndarray, np.ndarray]:
    """The part of a picture that a warp shows.

    Args:
        picture: ``(H, W)`` or ``(H, W, 3)``.
        matrix: the warp.
        canvas: ``(H', W')`` of its result.
        margin: pixels of the picture that are kept beside the part.

    Returns:
        The smallest rectangle of whole pixels, a view of the picture, and the same warp of it.
    """
    height, width = canvas
    corners = np.array([[-0.5, width - 0.5, -0.5, width - 0.5], [-0.5, -0.5, height - 0.5, height - 0.5], [1, 1, 1, 1]])
    corners = np.linalg.solve(matrix, corners)[:2]
    sides = np.array(picture.shape[1::-1])
    low = np.clip(np.floor(corners.min(axis=1) + 0.5 - margin + 1e-6), 0, sides - 1).astype(int)
    high = np.clip(np.ceil(corners.max(axis=1) + 0.5 + margin - 1e-6), low + 1, sides).astype(int)
    return picture[low[1] : high[1], low[0] : high[0]], matrix @ shift(*low)


def shrunk(picture: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shrink a picture as far as a warp would, by averaging, so that the rest of the warp can be interpolated.

    Args:
        picture: ``(H, W, 3)`` uint8.
        matrix: the warp. Where it enlarges a side, that side stays as it is.

    Returns:
        The smaller picture and what remains of the warp.
    """
    height, width = picture.shape[:2]
    x, y = np.minimum(1, np.hypot(*matrix[:2, :2]))
    size = max(1, round(width * x)), max(1, round(height * y))
    if size == (width, height):
        return picture, matrix
    smaller = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return smaller, matrix @ stretch(width / size[0], height / size[1])


def warp_picture(picture: np.ndarray, matrix: np.ndarray, canvas: Size) -> np.ndarray:
    """Warp a picture, antialiased where it shrinks; what it does not cover has the mean colour of ImageNet.

    Args:
        picture: ``(H, W, 3)`` uint8 RGB.
        matrix: the warp.
        canvas: ``(H', W')``.

    Returns:
        ``(H', W', 3)`` uint8.
    """
    margin = MARGIN / min(1, *np.hypot(*matrix[:2, :2]))
    part, rest = shrunk(*seen(picture, matrix, canvas, margin))
    return cv2.warpAffine(part, rest[:2], canvas[::-1], flags=cv2.INTER_LINEAR, borderValue=MEAN_COLOUR)


def warp_mask(mask: np.ndarray, matrix: np.ndarray, canvas: Size) -> np.ndarray:
    """Warp a mask ``(H, W)`` uint8: nearest neighbour, 0 where it does not cover the canvas ``(H', W')``."""
    return cv2.warpAffine(mask, matrix[:2], canvas[::-1], flags=cv2.INTER_NEAREST)
