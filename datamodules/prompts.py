"""Masks that a user gives: pictures of labels, of colours or of one object each, and COCO run-length codes."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pycocotools import mask as run_length

from datamodules.images import opened
from lightning_vos.types import PALETTE, VOID

PICTURES = (".png", ".bmp")
SUFFIXES = (*PICTURES, ".json")
MOST = VOID - 1
_COLOUR = 1 << 24  # added to the 24 bits of a colour, so that it cannot be taken for an id
_DAVIS = {_COLOUR + int(colour): id_ for id_, colour in enumerate(PALETTE.astype(np.int64) @ (1 << 16, 1 << 8, 1))}
_COLOURS = 32  # more of them, not of that palette, are soft edges

Key = int | str  # an id, a colour, or the name of an object
Given = Path | list[Path] | list[dict[str, Any]]  # labels; one picture per object; run-length codes


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


def read_prompts(
    mask: Path,
    frame_names: Sequence[str],
    size: tuple[int, int],
    default: int = 0,
    asked: Sequence[str] | Literal["all"] | None = None,
) -> dict[int, np.ndarray]:
    """Read the masks that were asked for, and no other file.

    ``mask`` is one of

    * a picture (png, bmp) of labels: palette indices or grey ids, 0 is background, 255 void; a picture of 0 and 255
      (or of one grey) shows one object; in an RGB picture every colour but black is an object, and where all colours
      are of the DAVIS palette they stand for its indices; what is transparent is background;
    * a folder of such pictures, each named as the frame that it belongs to;
    * a folder of pictures of one object each (all that is not 0), or a folder of such folders, named as their frames.
      A file name from 1 to 254 is the object's id. Where objects overlap the smaller one is seen;
    * a JSON file of COCO run-length codes (or polygons): one, a list, or a COCO data set. ``frame`` of an entry, or
      the file name of its image, says the frame, ``track_id`` the id of the object.

    Objects without an id are numbered from 1 in the order of their names or colours. The same id on a later frame
    corrects an object, a new one adds it.

    Args:
        mask: file or folder.
        frame_names: of the video.
        size: ``(H, W)`` of the video.
        default: frame of a mask that names none.
        asked: names of the frames whose masks are read where there are several; ``None``: the first one alone, since
            a folder of all masks is usually ground truth; ``all``: every one.

    Returns:
        Frame number -> ``(H, W)`` uint8 ids, 0 where nothing is given.

    Raises:
        FileNotFoundError: there is no such mask.
        ValueError: it shows no object or too many, is of another size, or cannot be understood.
    """
    if not mask.exists():
        raise FileNotFoundError(f"{mask}: no such mask; give the mask of the first frame, or a folder of masks")
    found = _found(mask, frame_names, default)
    if not found:
        raise ValueError(f"{mask}: no mask in it; masks are {', '.join(SUFFIXES)} files")
    annotations = {t: _read(mask, found[t], size) for t in _chosen(mask, found, frame_names, asked)}
    ids = _numbered(mask, {key for annotation in annotations.values() for key in annotation.keys})
    return {
        t: np.array([0, *(ids[key] for key in annotation.keys)], dtype=np.uint8)[annotation.labels]
        for t, annotation in annotations.items()
    }


def frame_number(name: str, frame_names: Sequence[str]) -> int | None:
    """Number of the frame called ``name``: the very name, or else the same number (7 for 00007); ``None``: no such."""
    if name in frame_names:
        return frame_names.index(name)
    if not name.isdecimal():
        return None
    same = [t for t, other in enumerate(frame_names) if other.isdecimal() and int(other) == int(name)]
    return same[0] if len(same) == 1 else None


# ---------------------------------------------------------------- which frames have masks


def _found(mask: Path, frame_names: Sequence[str], default: int) -> dict[int, Given]:
    """What lies where: frame number -> what is given there, none of it read (but a JSON file)."""
    if mask.is_file():
        if mask.suffix.lower() == ".json":
            return _codes(mask, frame_names, default)
        _check_suffix(mask)
        named = frame_number(mask.stem, frame_names)
        if named is None and mask.stem.isdecimal():
            raise ValueError(
                f"{mask}: the video has no frame {mask.stem}, only {frame_names[0]} to {frame_names[-1]}; name the "
                "mask as its frame is named, or without a number"
            )
        return {default if named is None else named: mask}
    numbers = {name: t for t, name in enumerate(frame_names)}
    found: dict[int, Given] = {}
    objects: list[Path] = []
    for path in sorted(mask.iterdir()):
        if path.name.startswith(".") or (path.is_file() and path.suffix.lower() not in PICTURES):
            continue
        t = numbers.get(path.name if path.is_dir() else path.stem)
        if t is None:
            objects += [path] if path.is_file() else []
        elif t in found:
            raise ValueError(f"{path}: another mask of frame {path.stem} lies beside it; keep one of the two")
        else:
            found[t] = path if path.is_file() else _pictures(path)
    return found or ({default: objects} if objects else {})


def _pictures(folder: Path) -> list[Path]:
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith("."))
    if not paths:
        raise ValueError(f"{folder}: no mask in it; put a picture of every object there, or remove the folder")
    return paths


def _codes(path: Path, frame_names: Sequence[str], default: int) -> dict[int, Given]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON file ({error}); give COCO run-length codes") from error
    entries = content if isinstance(content, list) else [content]
    images: dict[Any, str] = {}
    if isinstance(content, dict) and "annotations" in content:
        entries = content["annotations"]
        images = {image["id"]: Path(image["file_name"]).stem for image in content.get("images", [])}
    found: dict[int, Given] = defaultdict(list)
    for entry in entries:
        if not isinstance(entry, dict) or not {"counts", "segmentation"} & entry.keys():
            raise ValueError(f"{path}: an entry without segmentation or counts; give COCO run-length codes")
        if not isinstance(entry.get("track_id", 1), int):
            raise ValueError(f"{path}: track_id={entry['track_id']!r}; ids are whole numbers from 1 to {MOST}")
        name = str(entry.get("frame", images.get(entry.get("image_id"), "")))
        t = frame_number(name, frame_names) if name else default
        if t is None:
            raise ValueError(
                f"{path}: the video has no frame {name!r}, only {frame_names[0]} to {frame_names[-1]}; correct it"
            )
        found[t].append(entry)  # type: ignore[union-attr, arg-type]
    return dict(found)


def _chosen(
    mask: Path, found: dict[int, Given], frame_names: Sequence[str], asked: Sequence[str] | Literal["all"] | None
) -> list[int]:
    if asked is None:
        return [min(found)]
    if asked == "all":
        return sorted(found)
    chosen = {name: frame_number(name, frame_names) for name in asked}
    for name, t in chosen.items():
        if t not in found:
            have = ", ".join(frame_names[t] for t in sorted(found)[:5])
            raise ValueError(f"{mask}: no mask of frame {name}, which was asked for; there are those of {have}")
    return sorted({t for t in chosen.values() if t is not None})


# ---------------------------------------------------------------- reading one frame's masks


def _read(mask: Path, given: Given, size: tuple[int, int]) -> Annotation:
    if isinstance(given, Path):
        where, annotation = given, _labels(given, size)
    else:
        where = mask if isinstance(given[0], dict) else given[0].parent
        annotation = _stacked(where, given, size)
    if not annotation.keys:
        raise ValueError(f"{where}: the mask is empty; mark every object to follow with an id from 1 to {MOST}")
    return annotation


def _labels(path: Path, size: tuple[int, int]) -> Annotation:
    """A picture of labels or colours."""
    values, is_palette = _values(path, size)
    keys, labels = np.unique(values, return_inverse=True)
    if len(keys) > _COLOURS and keys[-1] > _COLOUR and not {int(key) for key in keys[1:]} <= _DAVIS.keys():
        raise ValueError(
            f"{path}: {len(keys)} colours; more than {_COLOURS} are taken for soft edges: save the mask without, or as "
            "a palette PNG of ids"
        )
    if VOID < keys[-1] < _COLOUR:
        raise ValueError(f"{path}: ids up to {keys[-1]}; ids are 1 to {MOST}, one for each object")
    ids = [int(key) for key in keys if key not in (0, VOID)]
    if VOID in keys and not ids:
        ids, values = [1], values // VOID  # 0 and 255: one object
        keys, labels = np.unique(values, return_inverse=True)
    elif VOID in keys and not is_palette:
        raise ValueError(
            f"{path}: grey values {ids[0]} to {VOID}: ids beside void, or soft edges? Save ids as a palette PNG, or "
            "one object as 0 and 255 without soft edges"
        )
    lookup = np.zeros(len(keys), dtype=np.uint8)
    lookup[np.isin(keys, ids)] = np.arange(1, len(ids) + 1)
    return Annotation(path, lookup[labels.reshape(values.shape)], list(ids))


def _values(path: Path, size: tuple[int, int]) -> tuple[np.ndarray, bool]:
    """``(H, W)`` integers: ids, or colours plus ``_COLOUR``; and whether they are palette indices."""
    _check_suffix(path)
    with opened(path) as image:
        _check_size(path, (image.height, image.width), size)
        if image.mode in ("P", "L", "1") or image.mode.startswith("I"):
            return np.asarray(image).astype(np.int64), image.mode == "P"
        picture = np.asarray(image.convert("RGBA")).astype(np.int64)
    colours = picture[..., :3] * (picture[..., 3:] > 127)
    red, green, blue = np.moveaxis(colours, -1, 0)
    if (red == green).all() and (red == blue).all():  # grey, stored as colours
        return red, False
    values = (red << 16) + (green << 8) + blue
    return np.where(values > 0, values + _COLOUR, 0), False


def _stacked(where: Path, given: Sequence[Path | dict[str, Any]], size: tuple[int, int]) -> Annotation:
    """One picture or code per object; where they overlap, the smaller one is seen."""
    keys = [_key(entry, place) for place, entry in enumerate(given, 1)]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{where}: two masks of object {twice} on one frame; keep one of the two")
    if len(keys) > MOST:
        raise ValueError(f"{where}: {len(keys)} objects, at most {MOST} are possible; leave some out")
    areas: dict[int, int] = {}
    for label, entry in enumerate(given, 1):
        areas[label] = int(np.count_nonzero(_object(where, entry, size)))
        if not areas[label]:
            name = entry if isinstance(entry, Path) else f"{where}, object {keys[label - 1]}"
            raise ValueError(f"{name}: the mask is empty; mark the object or leave it out")
    labels = np.zeros(size, dtype=np.uint8)
    for label in sorted(areas, key=lambda label: -areas[label]):  # read again: never are all in memory
        labels[_object(where, given[label - 1], size)] = label
    return Annotation(where, labels, keys)


def _check_size(path: Path, size: tuple[int, int], wanted: tuple[int, int]) -> None:
    if size != wanted:
        turned = ", as it is when it is turned upright" if size == wanted[::-1] else ""
        raise ValueError(
            f"{path}: the mask is {size[0]}x{size[1]}, the video {wanted[0]}x{wanted[1]} (height x width){turned}; "
            "draw it on a frame of the video at full size"
        )


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"{path}: masks are {', '.join(SUFFIXES)} files; JPEG and others do not keep ids, save it as PNG"
        )


def _key(entry: Path | dict[str, Any], place: int) -> Key:
    if isinstance(entry, dict):
        return int(entry.get("track_id", place))
    return int(entry.stem) if entry.stem.isdecimal() and 1 <= int(entry.stem) <= MOST else entry.stem


def _object(where: Path, entry: Path | dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """``(H, W)`` bool."""
    if isinstance(entry, Path):
        values, is_palette = _values(entry, size)
        if not is_palette and values.max() == VOID:
            return values > VOID // 2  # soft edges
        return values > 0
    code = entry.get("segmentation", entry)
    try:
        if isinstance(code, list):
            code = run_length.merge(run_length.frPyObjects(code, *size))
        elif isinstance(code["counts"], list):
            code = run_length.frPyObjects(code, *code["size"])
        height, width = (int(side) for side in code["size"])
        decoded: np.ndarray = run_length.decode(code) > 0
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{where}: not a COCO run-length code ({error!r}); give size and counts") from error
    except ValueError as error:
        raise ValueError(f"{where}: a damaged run-length code ({error}); write it anew") from error
    _check_size(where, (height, width), size)
    return decoded


def _numbered(mask: Path, keys: Iterable[Key]) -> dict[Key, int]:
    """The id of every object: its own where it has one."""
    keys = set(keys)
    ids: dict[Key, int] = {key: key for key in keys if isinstance(key, int) and key < _COLOUR}
    if wrong := [key for key in ids.values() if not 1 <= key <= MOST]:
        raise ValueError(f"{mask}: id {wrong[0]}; ids are 1 to {MOST}, one for each object")
    others = sorted(keys - ids.keys(), key=lambda key: (isinstance(key, str), key))
    if all(key in _DAVIS for key in others):
        return ids | {key: _DAVIS[key] for key in others if isinstance(key, int)}
    free = [id_ for id_ in range(1, MOST + 1) if id_ not in ids.values()]
    if len(others) > len(free):
        raise ValueError(f"{mask}: {len(keys)} objects, at most {MOST} are possible; leave some out")
    return ids | dict(zip(others, free, strict=False))
