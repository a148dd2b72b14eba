"""Masks that a user gives: pictures of labels, of colours or of one object each, and COCO run-length codes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.annotations import (
    COLOUR,
    DAVIS_COLOURS,
    MOST,
    SUFFIXES,
    Code,
    Given,
    Key,
    check_suffix,
    read_annotation,
)
from datamodules.foreign_json import array, identifier, read_json, shown, table
from datamodules.frame_names import FrameNames, frame_number, natural
from datamodules.mask_folder import MaskFolder, find_masks_of_frames
from datamodules.run_lengths import is_missing
from lightning_vos.names import below

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
      are of the DAVIS palette they stand for its indices; what is transparent is background. A palette PNG whose
      background is not index 0 is read by its colours, too;
    * a folder of such pictures, each named as the frame that it belongs to, or with its number;
    * a folder of pictures of one object each (all that is not 0), named otherwise; or folders of such pictures, one for
      each frame (``00000/2.png``) or one for each object (``002/00000.png``). A name from 1 to 254 is the object's id,
      unless one of them is 0. Where objects overlap the smaller one is seen;
    * a JSON file of COCO run-length codes (or polygons): one, a list, or a COCO data set. ``frame`` of an entry, or
      the file name of its image, says the frame, ``track_id`` the id of the object. Entries without a mask are left
      out, with a warning.

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
    content = read_json(path)
    is_set = isinstance(content, dict) and "annotations" in content
    entries = array(content["annotations"], f"{path}, annotations") if is_set else content
    images = _images(path, content) if is_set and content.get("images") is not None else None
    numbers = {name: t for t, name in enumerate(frame_names)}
    found: dict[int, Given] = defaultdict(list)
    unknown: set[int | str] = set()
    without = 0
    for place, entry in enumerate(entries if isinstance(entries, list) else [entries], 1):
        where = f"{path}, entry {place}"
        if not is_set and not {"counts", "segmentation"} & table(entry, where).keys():
            raise ValueError(f"{where}: an entry without segmentation or counts; give COCO run-length codes")
        segmentation = table(entry, where).get("segmentation", entry if "counts" in entry else None)
        if is_missing(segmentation):
            without += 1
            continue
        track = entry.get("track_id")
        if type(track) not in (int, NoneType):
            raise ValueError(f"{where}: track_id={shown(track)}; ids are whole numbers from 1 to {MOST}")
        name = _frame_of(entry, images, where, unknown)
        t = numbers[name] if name in numbers else frame_number(name, frame_names) if name else default
        if t is None:
            raise ValueError(
                f"{where}: the video has no frame {shown(name)}, only {frame_names[0]} to {frame_names[-1]}; correct it"
            )
        found[t].append(Code(where, track, segmentation))  # type: ignore[union-attr, arg-type]
    if len(unknown) > 1:
        raise ValueError(f"{path}: masks of {len(unknown)} images, but no list of images; add it, or a frame to each")
    if without:
        rank_zero_warn(f"{path}: {without} entries have no mask; they are left out")
    return dict(found)


def _images(path: Path, content: dict[str, Any]) -> dict[int | str, str]:
    """Id -> name of the frame, of the images of a COCO data set."""
    names: dict[int | str, str] = {}
    for place, entry in enumerate(array(content["images"], f"{path}, images"), 1):
        where = f"{path}, image number {place}"
        id_ = identifier(table(entry, where).get("id"), f"{where}, id")
        if id_ in names:
            raise ValueError(f"{where}: the id {shown(id_)} is that of another image; give each its own")
        names[id_] = below("", entry.get("file_name"), where).stem
    return names


def _frame_of(entry: dict[str, Any], images: dict[int | str, str] | None, where: str, unknown: set[int | str]) -> str:
    """Name of the frame of an entry; empty if it says none. An image that is on no list becomes ``unknown``."""
    if entry.get("frame") is not None:
        return str(identifier(entry["frame"], f"{where}, frame"))
    if entry.get("image_id") is None:
        return ""
    image = identifier(entry["image_id"], f"{where}, image_id")
    if images is None:
        unknown.add(image)
        return ""
    if image not in images:
        raise ValueError(f"{where}: there is no image {shown(image)}; correct image_id or add the image")
    return images[image]


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
