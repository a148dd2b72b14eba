"""What is drawn on one frame: a picture of labels or colours, a picture of each object, or COCO run-length codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.images import MASK_FORMATS, check_depth, has_16_bits, has_ids, load, opened
from datamodules.run_lengths import decoded
from lightning_vos.palette import PALETTE
from lightning_vos.types import VOID

PICTURES = (".png", ".bmp")
SUFFIXES = (*PICTURES, ".json")
MOST = VOID - 1
COLOUR = 1 << 24  # added to the 24 bits of a colour, so that it cannot be taken for an id
DAVIS_COLOURS = {
    COLOUR + int(colour): id_ for id_, colour in enumerate(PALETTE.astype(np.int64) @ (1 << 16, 1 << 8, 1))
}
_MANY = 32  # more of them, not of that palette, are soft edges

Key = int | str  # an id, a colour, or the name of an object


class Code(NamedTuple):
    """A mask in a JSON file.

    Attributes:
        where: the file and the entry, for messages.
        track_id: id of the object; ``None``: its place among those of the frame.
        segmentation: run-length code or polygons, not yet checked.
    """

    where: str
    track_id: int | None
    segmentation: object


Given = Path | dict[Key, Path] | list[Code]  # labels; a picture of each object; run-length codes


@dataclass(frozen=True)
class Annotation:
    """What is given on a frame, as it was drawn.

    Attributes:
        where: file or folder, for messages.
        labels: ``(H, W)`` uint8; 0 nothing, k is ``keys[k - 1]``.
        keys: what the objects are called there: an id, a colour, a name.
    """

    where: Path
    labels: np.ndarray
    keys: list[Key]


def read_annotation(mask: Path, given: Given, size: tuple[int, int], may_be_empty: bool = False) -> Annotation:
    """Read what is given on a frame; the rules are those of :func:`~datamodules.prompts.read_prompts`.

    Args:
        mask: file or folder that it was found in.
        given: a picture of labels, pictures of one object each, or run-length codes.
        size: ``(H, W)`` of the video.
        may_be_empty: nothing needs to be on the mask, or on that of an object: in ground truth, objects leave.

    Raises:
        FileNotFoundError: a file is gone.
        ValueError: it is damaged, shows no object or too many, is of another size, or cannot be understood.
    """
    if isinstance(given, Path):
        where, annotation = given, _labels(given, size)
    elif isinstance(given, dict):
        first, *_, last = (*given.values(), *given.values())
        where = first.parent if first.parent == last.parent else mask
        annotation = _stacked(where, list(given.values()), list(given), size, may_be_empty)
    else:
        keys: list[Key] = [place if code.track_id is None else code.track_id for place, code in enumerate(given, 1)]
        where, annotation = mask, _stacked(mask, given, keys, size, may_be_empty)
    if not annotation.keys and not may_be_empty:
        raise ValueError(f"{where}: the mask is empty; mark every object to follow with an id from 1 to {MOST}")
    return annotation


def _labels(path: Path, size: tuple[int, int]) -> Annotation:
    """A picture of labels or colours."""
    values, is_palette = _values(path, size)
    keys = np.unique(values)
    if len(keys) > _MANY and keys[-1] > COLOUR and not {int(key) for key in keys[1:]} <= DAVIS_COLOURS.keys():
        raise ValueError(
            f"{path}: {len(keys)} colours; more than {_MANY} are taken for soft edges: save the mask without, or as "
            "a palette PNG of ids"
        )
    if VOID < keys[-1] < COLOUR:
        raise ValueError(f"{path}: ids up to {keys[-1]}; ids are 1 to {MOST}, one for each object")
    ids = [int(key) for key in keys if key not in (0, VOID)]
    if VOID in keys and not ids:
        ids, values = [1], values // VOID  # 0 and 255: one object
        keys = np.unique(values)
    elif VOID in keys and not is_palette:
        raise ValueError(
            f"{path}: grey values {ids[0]} to {VOID}: ids beside void, or soft edges? Save ids as a palette PNG, or "
            "one object as 0 and 255 without soft edges"
        )
    lookup = np.zeros(len(keys), dtype=np.uint8)
    lookup[np.isin(keys, ids)] = np.arange(1, len(ids) + 1)
    return Annotation(path, lookup[np.searchsorted(keys, values)], list(ids))


def _values(path: Path, size: tuple[int, int]) -> tuple[np.ndarray, bool]:
    """``(H, W)`` integers: ids, or colours plus ``COLOUR``; and whether they are palette indices."""
    check_suffix(path)
    with opened(path, MASK_FORMATS) as image:
        _check_size(path, (image.height, image.width), size)
        check_depth(image, path)
        if image.mode[0] != "I" and has_16_bits(image):
            raise ValueError(f"{path}: colours of 16 bits; save the mask with 8")
        load(image, path)
        if image.mode in ("L", "1") or image.mode.startswith("I") or (image.mode == "P" and has_ids(image)):
            return np.asarray(image).astype(np.int64), image.mode == "P"
        picture = np.asarray(image.convert("RGBA")).astype(np.int64)
    colours = picture[..., :3] * (picture[..., 3:] > 127)
    red, green, blue = np.moveaxis(colours, -1, 0)
    if (red == green).all() and (red == blue).all():  # grey, stored as colours
        return red, False
    values = (red << 16) + (green << 8) + blue
    return np.where(values > 0, values + COLOUR, 0), False


def _stacked(
    where: Path, given: Sequence[Path | Code], keys: list[Key], size: tuple[int, int], may_be_empty: bool
) -> Annotation:
    """One picture or code per object; where they overlap, the smaller one is seen."""
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{where}: two masks of object {twice} on one frame; keep one of the two")
    if len(keys) > MOST:
        raise ValueError(f"{where}: {len(keys)} objects, at most {MOST} are possible; leave some out")
    areas: dict[int, int] = {}
    for label, entry in enumerate(given, 1):
        areas[label] = int(np.count_nonzero(_object(entry, size)))
        if not areas[label] and not may_be_empty:
            name = entry if isinstance(entry, Path) else entry.where
            raise ValueError(f"{name}: the mask is empty; mark the object or leave it out")
    labels = np.zeros(size, dtype=np.uint8)
    for label in sorted(areas, key=lambda label: -areas[label]):  # read again: never are all in memory
        labels[_object(given[label - 1], size)] = label
    return Annotation(where, labels, keys)


def _check_size(path: Path, size: tuple[int, int], wanted: tuple[int, int]) -> None:
    if size != wanted:
        turned = ", as it is when it is turned upright" if size == wanted[::-1] else ""
        raise ValueError(
            f"{path}: the mask is {size[0]}x{size[1]}, the video {wanted[0]}x{wanted[1]} (height x width){turned}; "
            "draw it on a frame of the video at full size"
        )


def check_suffix(path: Path) -> None:
    """Refuse a file that cannot be a mask.

    Raises:
        ValueError: such as a JPEG, which does not keep ids.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"{path}: masks are {', '.join(SUFFIXES)} files; JPEG and others do not keep ids, save it as PNG"
        )


def _object(entry: Path | Code, size: tuple[int, int]) -> np.ndarray:
    """``(H, W)`` bool."""
    if isinstance(entry, Code):
        return decoded(entry.segmentation, size, entry.where)
    values, is_palette = _values(entry, size)
    if not is_palette and values.max() == VOID:
        return values > VOID // 2  # soft edges
    return values > 0
