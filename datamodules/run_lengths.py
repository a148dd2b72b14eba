"""Masks in JSON of strangers: COCO run-length codes, compressed or not, and polygons.

Native code is given only what was checked, as it trusts every number; and nothing larger than the picture is allocated.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as native

from datamodules.foreign_json import shown, whole
from datamodules.images import MOST_PIXELS

Size = tuple[int, int]
Segmentation = dict[str, Any] | list[Any]

_LONGEST_SIDE = 2**16 - 1
_LONGEST_GROUP = 6  # letters of 5 bits: more than the pixels of any picture
_OUTLINE = 32  # longest outline of an object, in sums of height and width


def is_missing(segmentation: object) -> bool:
    """Whether an annotation has no mask: ``null``, ``[]``, ``{}`` or ``[[]]``."""
    return not segmentation or (isinstance(segmentation, list) and all(polygon == [] for polygon in segmentation))


def size_of(code: object, where: str) -> Size:
    """``(H, W)`` of a run-length code.

    Raises:
        ValueError: it names none.
    """
    if not isinstance(code, dict) or not {"size", "counts"} <= code.keys():
        raise ValueError(f"{where}: not a COCO run-length code ({shown(code)}); give size and counts, or polygons")
    size = code["size"]
    if not isinstance(size, list | tuple) or len(size) != 2:
        raise ValueError(f"{where}: a damaged run-length code (size {shown(size)}); write it anew")
    return sides(size[0], size[1], where)


def sides(height: object, width: object, where: str) -> Size:
    """``(H, W)`` that a picture can have.

    Raises:
        ValueError: they are no whole numbers, or not those of a picture that can be read.
    """
    size = whole(height, f"{where}, height", 1, _LONGEST_SIDE), whole(width, f"{where}, width", 1, _LONGEST_SIDE)
    if size[0] * size[1] > MOST_PIXELS:
        raise ValueError(f"{where}: a size of {size[0]}x{size[1]}; pictures have at most {MOST_PIXELS} pixels")
    return size


def encoded(segmentation: object, size: Size, where: str) -> dict[str, Any]:
    """A mask as a compressed run-length code, which is small and known to be sound.

    Args:
        segmentation: a run-length code or a list of polygons.
        size: ``(H, W)`` of its picture.
        where: the file and the entry, for messages.

    Raises:
        ValueError: it is something else, damaged, or of another size.
    """
    if isinstance(segmentation, list):
        code = native.merge(native.frPyObjects(_polygons(segmentation, size, where), *size))
        return {"size": list(size), "counts": code["counts"]}
    runs = _runs(segmentation, size, where)
    counts = segmentation["counts"]  # type: ignore[index]
    if isinstance(counts, list):
        counts = native.frPyObjects({"size": list(size), "counts": runs.tolist()}, *size)["counts"]
    return {"size": list(size), "counts": counts.encode() if isinstance(counts, str) else counts}


def decoded(segmentation: object, size: Size, where: str) -> np.ndarray:
    """A mask, ``(H, W)`` bool; arguments and errors as for :func:`encoded`."""
    code = encoded(segmentation, size, where) if isinstance(segmentation, list) else segmentation
    runs = _runs(code, size, where)
    pixels: np.ndarray = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return pixels.reshape(size[::-1]).T  # column by column


def _runs(code: object, size: Size, where: str) -> np.ndarray:
    """Lengths of the runs, int64, of background and object in turn."""
    own = size_of(code, where)
    if own != size:
        raise ValueError(
            f"{where}: the mask is {own[0]}x{own[1]}, its picture {size[0]}x{size[1]} (height x width); make them equal"
        )
    counts, pixels = code["counts"], size[0] * size[1]  # type: ignore[index]
    if isinstance(counts, str):
        counts = counts.encode(errors="replace")
    if isinstance(counts, bytes):
        runs = _decompressed(counts, where)
    elif isinstance(counts, list) and all(type(run) is int and 0 <= run <= pixels for run in counts):
        runs = np.array(counts, dtype=np.int64)
    else:
        raise ValueError(f"{where}: a damaged run-length code (counts {shown(counts)}); write it anew")
    if runs.min(initial=0) < 0 or runs.max(initial=0) > pixels or runs.sum() != pixels:
        raise ValueError(f"{where}: a damaged run-length code (its runs do not fill the picture); write it anew")
    return runs


def _decompressed(counts: bytes, where: str) -> np.ndarray:
    """The runs of a compressed code, which may be wrong but for their form.

    A letter carries five bits, lowest first, and says whether more follow; the highest bit of the last is the sign.
    From the fourth run on, the difference to the run before the last one is written.
    """
    letters = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(letters & 32 == 0)
    groups = np.diff(ends, prepend=-1)
    if not len(letters) or letters.min() < 0 or letters.max() > 63 or letters[-1] & 32 or groups.max() > _LONGEST_GROUP:
        raise ValueError(f"{where}: a damaged run-length code (counts {shown(counts)}); write it anew")
    place = np.arange(len(letters)) - np.repeat(ends - groups + 1, groups)
    values = np.add.reduceat((letters & 31) << 5 * place, ends - groups + 1)
    values -= np.where(letters[ends] & 16, 1 << 5 * groups, 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _polygons(polygons: list[Any], size: Size, where: str) -> list[list[float]]:
    """Those that are not empty.

    Raises:
        ValueError: one of them is none, or leads far out of its picture, or their outlines are too long.
    """
    height, width = size
    outline = 0.0
    for polygon in polygons:
        if not isinstance(polygon, list) or not {type(value) for value in polygon} <= {int, float}:
            raise ValueError(f"{where}: {shown(polygon)} is no polygon; give lists of numbers x, y, x, y, ...")
        if polygon and (len(polygon) % 2 or len(polygon) < 6):
            raise ValueError(f"{where}: a polygon of {len(polygon)} numbers; it has 6 at least, x and y of each corner")
        if not all(-width <= x <= 2 * width for x in polygon[::2]) or not all(
            -height <= y <= 2 * height for y in polygon[1::2]
        ):
            raise ValueError(f"{where}: a polygon leaves its picture of {height}x{width} by far; correct its corners")
        corners = np.array(polygon, dtype=np.float64).reshape(-1, 2)
        outline += float(np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1, initial=0).sum())
    if outline > _OUTLINE * (height + width):
        raise ValueError(f"{where}: polygons with an outline of {outline:.0f} pixels; draw them as a run-length code")
    return [polygon for polygon in polygons if polygon]
