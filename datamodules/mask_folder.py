"""What a folder of masks means: masks of frames, pictures of objects, or one kind of folder in the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.annotations import MOST, PICTURES, Given, Key
from datamodules.frame_names import FrameNames
from datamodules.listing import visible


@dataclass
class MaskFolder:
    """The masks in a folder, none of them read.

    Attributes:
        given: frame number -> a picture of labels, or a picture of each object.
        strays: what belongs to no frame.
        by_object: each object has a folder with a picture for every frame, also for those that do not show it.
    """

    given: dict[int, Given] = field(default_factory=dict)
    strays: list[Path] = field(default_factory=list)
    by_object: bool = False


def find_masks_of_frames(folder: Path, frames: FrameNames, default: int | None) -> MaskFolder:
    """Look at the names in a folder of masks.

    A name is that of a frame or has its number. Pictures named otherwise show one object each, of the frame
    ``default``. In folders, frames may hold objects (``00000/2.png``) or objects frames (``002/00000.png``, as SAM 2
    writes them); whatever carries the very names of frames are frames.

    Args:
        folder: of masks (png, bmp).
        frames: of the video.
        default: the frame of masks that name none, if the user has said so; ``None``: nothing was said.

    Raises:
        ValueError: it can be understood in two ways, or something is there twice.
    """
    inside = visible(folder)
    pictures = [path for path in inside if path.suffix.lower() in PICTURES and not path.is_dir()]
    below = {path: _pictures(path) for path in inside if path.is_dir()}
    if below:
        found = _of_folders(folder, below, frames)
        for path in pictures:
            t = None if found.by_object else frames.find(path.stem)
            if t is None:
                found.strays.append(path)
            else:
                _add(found.given, t, path)
        return found
    if any(_is_frame(path.stem, frames) for path in pictures):
        return _of_frames(pictures, frames)
    # Numbers that could be ids are not taken for frames, nor the other way round.
    doubtful = [path for path in pictures if path.stem.isdecimal() and _looks_like_frame(path.stem, frames)]
    if doubtful and default is None:
        raise ValueError(
            f"{doubtful[0]}: a mask of frame {int(doubtful[0].stem)}, or of object {int(doubtful[0].stem)}? Name masks "
            f"as their frames are named ({frames.names[0]}.png); for objects, set --data.frame to the frame they are of"
        )
    return MaskFolder({default or 0: _by_key(pictures)} if pictures else {})


def _of_frames(pictures: Iterable[Path], frames: FrameNames) -> MaskFolder:
    """Pictures of labels, each named as its frame."""
    found = MaskFolder()
    for path in pictures:
        t = frames.find(path.stem)
        if t is None:
            found.strays.append(path)
        else:
            _add(found.given, t, path)
    return found


def _of_folders(folder: Path, below: dict[Path, list[Path]], frames: FrameNames) -> MaskFolder:
    """Folders of frames with pictures of objects, or the other way round."""
    outer = _likeness((path.name for path in below), frames)
    inner = _likeness((path.stem for paths in below.values() for path in paths), frames)
    if outer == inner > 0:
        one = next(path for paths in below.values() for path in paths)
        raise ValueError(
            f"{one}: object {one.stem} of frame {one.parent.name}, or frame {one.stem} of object {one.parent.name}? "
            f"Name frames as those of the video ({frames.names[0]}), and objects by their ids"
        )
    found = MaskFolder(by_object=inner > outer)
    if not found.by_object:
        for path, paths in below.items():
            t = frames.find(path.name)
            if t is None:
                found.strays.append(path)
            elif not paths:
                raise ValueError(f"{path}: no mask in it; put a picture of every object there, or remove the folder")
            else:
                _add(found.given, t, _by_key(paths))
        return found
    of_frames: dict[int, dict[Key, Path]] = {}
    keys = _keys([path.name for path in below])
    for key, path in zip(keys, below, strict=True):
        if not below[path]:
            found.strays.append(path)
        for picture in below[path]:
            t = frames.find(picture.stem)
            if t is None:
                found.strays.append(picture)
            elif of_frames.setdefault(t, {}).setdefault(key, picture) is not picture:
                raise ValueError(f"{picture}: another mask of object {key} on this frame; keep one of the two")
    found.given.update(of_frames)
    return found


def _pictures(folder: Path) -> list[Path]:
    return [path for path in visible(folder) if path.suffix.lower() in PICTURES]


def _add(given: dict[int, Given], t: int, mask: Path | dict[Key, Path]) -> None:
    if t in given:
        path = mask if isinstance(mask, Path) else next(iter(mask.values())).parent
        raise ValueError(f"{path}: another mask of frame {path.stem} lies beside it; keep one of the two")
    given[t] = mask


def _by_key(paths: list[Path]) -> dict[Key, Path]:
    """Pictures of one object each, by what the objects are called."""
    found: dict[Key, Path] = {}
    for key, path in zip(_keys([path.stem for path in paths]), paths, strict=True):
        if found.setdefault(key, path) is not path:
            raise ValueError(f"{path.parent}: two masks of object {key} on one frame; keep one of the two")
    return found


def _keys(names: list[str]) -> list[Key]:
    """Ids where the names are ids; where objects are counted from 0, no number is an id."""
    if any(name.isdecimal() and int(name) == 0 for name in names):
        return list(names)
    return [int(name) if _can_be_id(name) else name for name in names]


def _can_be_id(name: str) -> bool:
    return name.isdecimal() and 1 <= int(name) <= MOST


def _is_frame(name: str, frames: FrameNames) -> bool:
    """Whether the name can only be that of a frame."""
    return frames.has(name) or (frames.find(name) is not None and not _can_be_id(name))


def _looks_like_frame(number: str, frames: FrameNames) -> bool:
    return frames.find(number) is not None or number.startswith("0")


def _likeness(names: Iterable[str], frames: FrameNames) -> int:
    """2: there are very names of frames, 1: numbers of frames, 0: neither."""
    found = list(names)
    return 2 if any(map(frames.has, found)) else int(any(frames.find(name) is not None for name in found))
