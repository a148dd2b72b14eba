"""A set of video sequences on disk; what all layouts share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from datamodules.frame_names import FrameNames
from datamodules.layouts.video_files import VideoFiles
from datamodules.listing import check_order, pictures
from lightning_vos.names import component

Readers = dict[str, Callable[[], VideoFiles]]


class SequenceSet(ABC):
    """Video sequences with masks.

    A layout is a subclass with the one method :meth:`find`, in any module; a configuration names it by ``class_path``.

    Args:
        root: folder of the set, relative to the data module's ``root``.
        split: which of its sequences.
        repeat: how often the set is seen in one pass over the training data.
        single_object: take every label above 0, 255 included, as one object.

    Raises:
        ValueError: the set would never be seen.
    """

    def __init__(self, root: str, split: str = "train", repeat: int = 1, single_object: bool = False) -> None:
        if repeat < 1:
            raise ValueError(f"videos {root!r}: repeat={repeat} must be at least 1; leave the set out instead")
        self.root = root
        self.split = split
        self.repeat = repeat
        self.single_object = single_object

    @abstractmethod
    def find(self, root: Path, dense: bool) -> Readers:
        """The names of the sequences of the split, and how to find the files of each.

        Only lists and folders are looked at here; no picture is opened, and what is wrong with one sequence is raised
        when its files are asked for.

        Args:
            root: folder of this set.
            dense: for training: every frame must have a mask, in a layout that promises one.

        Raises:
            FileNotFoundError: no data in any of the places tried, or a list is missing.
        """

    def readers(self, root: Path, dense: bool = False) -> Readers:
        """The names of the sequences, and how to find the files of each: what is wrong with one is raised there.

        Args:
            root: the data module's root.
            dense: see :meth:`find`.

        Raises:
            FileNotFoundError: no data in any of the places tried, or a list is missing.
            ValueError: the split is empty, or a name on its list is not that of a folder.
        """
        found = self.find(root / self.root, dense)
        if not found:
            raise ValueError(f"{root / self.root}: split {self.split!r} is empty; check its list or folder")
        for name in found:  # masks are written to folders of these names
            component(name, f"{root / self.root}, split {self.split!r}")
        return found

    def videos(self, root: Path, dense: bool = False) -> list[VideoFiles]:
        """The sequences of the split, in the order of the list or of their names.

        Args:
            root: the data module's root.
            dense: see :meth:`find`.

        Raises:
            FileNotFoundError: no data in any of the places tried; a list, folder or frame is missing.
            ValueError: frames and masks do not fit together, or the split is empty.
        """
        return [read() for read in self.readers(root, dense).values()]


def nowhere(tried: Iterable[Path], wanted: str) -> FileNotFoundError:
    """The error to raise where none of the places ``tried`` has the folder ``wanted``."""
    places = ", ".join(str(place) for place in tried)
    return FileNotFoundError(f"no folder {wanted} in any of {places}; set --data.root, or the set's root")


def find_frames(folder: Path) -> tuple[Path, ...]:
    """The frames of a sequence, in the order of their numbers.

    Raises:
        FileNotFoundError: no such folder, or no frame in it.
        ValueError: two files of one frame, names of different kinds, or pictures that are not read.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such sequence; add its frames or take it off the list")
    frames = tuple(pictures(folder))
    if not frames:
        raise FileNotFoundError(f"{folder}: no frame (jpg, png, bmp); add them or take the sequence off the list")
    check_order(frames)
    return frames


def find_masks(folder: Path, frames: Sequence[Path]) -> dict[int, Path]:
    """Frame number (0-based) -> the mask that is called as the frame is, or has its number, rising.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a mask without a frame, two masks of one, or pictures that are no masks.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of masks; add it or take the sequence off the list")
    names = FrameNames([frame.stem for frame in frames])
    files = pictures(folder, (".png",))
    if lone := [path for path in files if names.find(path.stem) is None]:
        raise ValueError(f"{lone[0]}: a mask without a frame ({len(lone)} of {len(files)}); remove it or add its frame")
    masks: dict[int, Path] = {}
    for path in files:
        t = names.find(path.stem)
        assert t is not None
        if masks.setdefault(t, path) is not path:
            raise ValueError(f"{path}: {masks[t].name} is a mask of the same frame; keep one of the two")
    return dict(sorted(masks.items()))
