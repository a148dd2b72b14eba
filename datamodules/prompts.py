"""Masks that a user gives: pictures of labels, of colours or of one object each, and COCO run-length codes."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.annotations import (
    COLOUR,
    DAVIS_COLOURS,
    MOST,
    PICTURES,
    SUFFIXES,
    Given,
    Key,
    check_suffix,
    read_annotation,
)


def read_prompts(
    mask: Path,
    frame_names: Sequence[str],
    size: tuple[int, int],
    default: int = 0,
    asked: Sequence[str] | None = None,
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
            a folder of all masks is usually ground truth; ``["all"]``: every one.

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
    annotations = {t: read_annotation(mask, found[t], size) for t in _chosen(mask, found, frame_names, asked)}
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
        check_suffix(mask)
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
    numbers = {name: t for t, name in enumerate(frame_names)}
    found: dict[int, Given] = defaultdict(list)
    for entry in entries:
        if not isinstance(entry, dict) or not {"counts", "segmentation"} & entry.keys():
            raise ValueError(f"{path}: an entry without segmentation or counts; give COCO run-length codes")
        if not isinstance(entry.get("track_id", 1), int):
            raise ValueError(f"{path}: track_id={entry['track_id']!r}; ids are whole numbers from 1 to {MOST}")
        name = str(entry.get("frame", images.get(entry.get("image_id"), "")))
        t = numbers[name] if name in numbers else frame_number(name, frame_names) if name else default
        if t is None:
            raise ValueError(
                f"{path}: the video has no frame {name!r}, only {frame_names[0]} to {frame_names[-1]}; correct it"
            )
        found[t].append(entry)  # type: ignore[union-attr, arg-type]
    return dict(found)


def _chosen(mask: Path, found: dict[int, Given], frame_names: Sequence[str], asked: Sequence[str] | None) -> list[int]:
    if asked is None:
        return [min(found)]
    if list(asked) == ["all"]:
        return sorted(found)
    chosen = {name: frame_number(name, frame_names) for name in asked}
    for name, t in chosen.items():
        if t not in found:
            have = ", ".join(frame_names[t] for t in sorted(found)[:5])
            raise ValueError(f"{mask}: no mask of frame {name}, which was asked for; there are those of {have}")
    return sorted({t for t in chosen.values() if t is not None})


def _numbered(mask: Path, keys: Iterable[Key]) -> dict[Key, int]:
    """The id of every object: its own where it has one."""
    keys = set(keys)
    ids: dict[Key, int] = {key: key for key in keys if isinstance(key, int) and key < COLOUR}
    if wrong := [key for key in ids.values() if not 1 <= key <= MOST]:
        raise ValueError(f"{mask}: id {wrong[0]}; ids are 1 to {MOST}, one for each object")
    others = sorted(keys - ids.keys(), key=lambda key: (isinstance(key, str), key))
    if all(key in DAVIS_COLOURS for key in others):
        return ids | {key: DAVIS_COLOURS[key] for key in others if isinstance(key, int)}
    free = [id_ for id_ in range(1, MOST + 1) if id_ not in ids.values()]
    if len(others) > len(free):
        raise ValueError(f"{mask}: {len(keys)} objects, at most {MOST} are possible; leave some out")
    return ids | dict(zip(others, free, strict=False))
