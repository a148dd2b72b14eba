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
    SUFFIXES,
    Given,
    Key,
    check_suffix,
    read_annotation,
)
from datamodules.frame_names import FrameNames, frame_number, natural
from datamodules.mask_folder import MaskFolder, find_masks_of_frames

_NAMED = 6  # frames that a line tells of


class Prompts(dict[int, np.ndarray]):
    """Frame number -> ``(H, W)`` uint8 ids, 0 where nothing is given.

    Attributes:
        words: which objects start on which frames, from which files, in one line.
    """

    words = ""


def read_prompts(
    mask: Path,
    frame_names: Sequence[str],
    size: tuple[int, int],
    default: int = 0,
    asked: Sequence[str] | None = None,
    said: bool = False,
) -> Prompts:
    """Read the masks that were asked for, and no other file.

    ``mask`` is one of

    * a picture (png, bmp) of labels: palette indices or grey ids, 0 is background, 255 void; a picture of 0 and 255
      (or of one grey) shows one object; in an RGB picture every colour but black is an object, and where all colours
      are of the DAVIS palette they stand for its indices; what is transparent is background;
    * a folder of such pictures, each named as the frame that it belongs to, or with its number;
    * a folder of pictures of one object each (all that is not 0), named otherwise; or folders of such pictures, one for
      each frame (``00000/2.png``) or one for each object (``002/00000.png``). A name from 1 to 254 is the object's id,
      unless one of them is 0. Where objects overlap the smaller one is seen;
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
            a folder of all masks is usually ground truth; ``["all"]``: every one, also where objects have left.
        said: whether the user has named the frame ``default``.

    Returns:
        The masks by frame, and a line that says what they are.

    Raises:
        FileNotFoundError: there is no such mask.
        ValueError: it shows no object or too many, is of another size, belongs to no frame, or cannot be understood.
    """
    if not mask.exists():
        raise FileNotFoundError(f"{mask}: no such mask; give the mask of the first frame, or a folder of masks")
    folder = _found(mask, frame_names, default, said)
    found, is_all = folder.given, list(asked or ()) == ["all"]
    if folder.strays and (is_all or not found):
        raise ValueError(
            f"{folder.strays[0]}: the video has no such frame, only {frame_names[0]} to {frame_names[-1]}; name the "
            f"mask as its frame is named, or remove it ({len(folder.strays)} such)"
        )
    if not found:
        raise ValueError(f"{mask}: no mask in it; masks are {', '.join(SUFFIXES)} files")
    chosen = _chosen(mask, found, frame_names, asked)
    annotations = {t: read_annotation(mask, found[t], size, is_all or folder.by_object) for t in chosen}
    ids = _numbered(mask, {key for annotation in annotations.values() for key in annotation.keys})
    prompts = Prompts()
    for t, annotation in annotations.items():
        if annotation.labels.any():
            prompts[t] = np.array([0, *(ids[key] for key in annotation.keys)], dtype=np.uint8)[annotation.labels]
    if not prompts:
        raise ValueError(f"{mask}: the masks of {len(chosen)} frames are empty; mark every object to follow")
    prompts.words = _words(prompts, {t: _files(mask, found[t]) for t in prompts}, ids, frame_names)
    if asked is None and len(found) > 1:
        prompts.words += f"; {len(found) - 1} more frames have masks that are not read (--data.masks=all reads them)"
    if folder.strays:
        prompts.words += f"; {len(folder.strays)} files are of no frame, such as {folder.strays[0].name}"
    return prompts


def _words(prompts: Prompts, files: dict[int, str], ids: dict[Key, int], frame_names: Sequence[str]) -> str:
    """Which objects start on which frames, from which files."""
    names = {id_: key for key, id_ in ids.items() if key != id_}
    seen: set[int] = set()
    parts: list[str] = []
    for t in sorted(prompts):
        new = [int(id_) for id_ in np.unique(prompts[t]) if id_ and id_ not in seen]
        seen.update(new)
        if not new:
            continue
        called = ", ".join(f"{id_} ({_called(names[id_])})" if id_ in names else str(id_) for id_ in new)
        some, verb = ("object", "starts") if len(new) == 1 else ("objects", "start")
        parts.append(f"{some} {called} {verb} on frame {frame_names[t]} ({files[t]})")
    more = [f"and {len(parts) - _NAMED} more frames"] if len(parts) > _NAMED else []
    return "; ".join(parts[:_NAMED] + more)


def _files(mask: Path, given: Given) -> str:
    """The files of a frame, as seen from where the masks lie."""
    if isinstance(given, list):
        return mask.name
    paths = [given] if isinstance(given, Path) else list(given.values())
    names = [path.relative_to(mask.parent).as_posix() for path in paths[:_NAMED]]
    return ", ".join(names) + (f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else "")


def _called(key: Key) -> str:
    return key if isinstance(key, str) else f"#{key - COLOUR:06x}"


# ---------------------------------------------------------------- which frames have masks


def _found(mask: Path, frame_names: Sequence[str], default: int, said: bool) -> MaskFolder:
    """What lies where, none of it read (but a JSON file)."""
    if mask.is_file():
        if mask.suffix.lower() == ".json":
            return MaskFolder(_codes(mask, frame_names, default))
        check_suffix(mask)
        named = frame_number(mask.stem, frame_names)
        if named is None and mask.stem.isdecimal():
            raise ValueError(
                f"{mask}: the video has no frame {mask.stem}, only {frame_names[0]} to {frame_names[-1]}; name the "
                "mask as its frame is named, or without a number"
            )
        return MaskFolder({default if named is None else named: mask})
    return find_masks_of_frames(mask, FrameNames(frame_names), default if said else None)


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
    others = sorted(keys - ids.keys(), key=lambda key: (isinstance(key, str), natural(str(key))))
    if all(key in DAVIS_COLOURS for key in others):
        return ids | {key: DAVIS_COLOURS[key] for key in others if isinstance(key, int)}
    free = [id_ for id_ in range(1, MOST + 1) if id_ not in ids.values()]
    if len(others) > len(free):
        raise ValueError(f"{mask}: {len(keys)} objects, at most {MOST} are possible; leave some out")
    return ids | dict(zip(others, free, strict=False))
