"""Sets of video sequences: where the folders are, and what lies in them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from datamodules.images import image_size, read_labels
from lightning_vos.types import VOID

FRAME_SUFFIXES = (".jpg", ".jpeg", ".png")

# Below the set's root: the official archive, beside it, the folders of the STCN family, those of AOT. DAVIS 2016 is
# often read from the 2017 archive, which carries its lists.
DAVIS_BASES = (
    "",
    "DAVIS",
    "DAVIS/{year}",
    "DAVIS/{year}/trainval",
    "DAVIS/{year}/test-dev",
    "{year}",
    "{year}/trainval",
    "{year}/test-dev",
    "datasets/DAVIS",
    "DAVIS/2017/trainval",
    "2017/trainval",
)
YOUTUBE_BASES = ("", "all_frames", "YouTube", "YouTube/all_frames", "YouTubeVOS", "YouTubeVOS/all_frames")


@dataclass(frozen=True)
class VideoFiles:
    """The files of one sequence.

    Attributes:
        name: name of the sequence, as its folder is called.
        frames: pictures in order of time.
        masks: frame number (0-based) -> mask file; frames without annotation are missing.
        single_object: every label above 0, 255 included, is object 1.
        starts: object id -> number of the frame where it starts, where ``meta.json`` says so; ``None`` elsewhere.
        prompt_first: all objects start on frame 0 (DAVIS).
        only: frame number -> the ids that count on its mask, all others are background; ``None``: all do.
    """

    name: str
    frames: tuple[Path, ...]
    masks: dict[int, Path]
    single_object: bool = False
    starts: dict[int, int] | None = None
    prompt_first: bool = False
    only: dict[int, list[int]] | None = None

    def labels(self, t: int) -> np.ndarray:
        """Labels of annotated frame ``t``: ``(H, W)`` uint8, 255 = void (never with ``single_object``)."""
        labels = read_labels(self.masks[t])
        if self.single_object:
            labels = (labels > 0).astype(np.uint8)
        if self.only is not None:
            labels = np.where(np.isin(labels, [*self.only[t], VOID]), labels, 0).astype(np.uint8)
        return labels

    def without_void(self, t: int) -> np.ndarray:
        """Labels of annotated frame ``t`` with void as background: ``(H, W)`` uint8."""
        labels = self.labels(t)
        labels[labels == VOID] = 0
        return labels

    def ids(self, t: int) -> list[int]:
        """Object ids on annotated frame ``t``, rising, without background and void."""
        return [int(label) for label in np.unique(self.labels(t)) if label not in (0, VOID)]

    def starting_ids(self) -> dict[int, list[int]]:
        """Frame number -> ids of the objects that start there: what is given of the video when it is evaluated.

        Raises:
            ValueError: an object starts on a frame without a mask, or there is no object at all.
        """
        starts: dict[int, list[int]] = defaultdict(list)
        if self.starts is not None:
            for id_, t in sorted(self.starts.items()):
                if t not in self.masks:
                    raise ValueError(
                        f"{self.frames[t]}: object {id_} of video {self.name!r} starts here, but the frame has no "
                        "mask; add the mask or correct meta.json"
                    )
                starts[t].append(id_)
        else:
            seen: set[int] = set()
            for t in [0] if self.prompt_first else sorted(self.masks):
                if new := [id_ for id_ in self.ids(t) if id_ not in seen]:
                    starts[t] = new
                    seen.update(new)
        if not starts:
            where = self.masks[0] if self.prompt_first else self.masks[min(self.masks)].parent
            raise ValueError(
                f"{where}: no object to follow in video {self.name!r} (0 is background, 255 void); take the video off "
                "the list, or set year: '2016' or single_object: true if 255 means the object"
            )
        return dict(starts)

    def given(self) -> VideoFiles:
        """The sequence with no more masks than an evaluation gives: objects on the frames where they start.

        Raises:
            ValueError: as for :meth:`starting_ids`.
        """
        starts = self.starting_ids()
        return replace(self, masks={t: self.masks[t] for t in sorted(starts)}, only=starts)

    def check(self) -> None:
        """Compare the sizes of all frames and masks, headers only.

        Raises:
            ValueError: they differ, or a file is not an image.
        """
        size = image_size(self.frames[0])
        for path in (*self.frames, *self.masks.values()):
            if (other := image_size(path)) != size:
                raise ValueError(
                    f"{path} is {other[0]}x{other[1]} but {self.frames[0]} is {size[0]}x{size[1]} (height x width); "
                    "frames and masks of a sequence must have one size"
                )


@dataclass
class SequenceSet:
    """Video sequences with masks, in one of the two layouts of the field.

    ``davis``: ``JPEGImages/<resolution>/<sequence>/<frame>.jpg``, ``Annotations/<resolution>/<sequence>/<frame>.png``,
    the names of the sequences in ``ImageSets/<year>/<split>.txt``. Found in ``root`` itself, in ``DAVIS``,
    ``DAVIS/<year>``, ``DAVIS/<year>/trainval``, ``DAVIS/<year>/test-dev`` or ``datasets/DAVIS`` below it. All objects
    start on the first frame; the other frames are all annotated, or none is (test-dev).

    ``youtube_vos``: ``<split>/JPEGImages/<video>/<frame>.jpg``, ``<split>/Annotations/<video>/<frame>.png`` and
    ``<split>/meta.json``. Objects start on the first frame listed for them; without ``meta.json`` (MOSE, LVOS) on the
    first annotated frame that shows them. Frames may lack annotation. A split ``valid_all_frames`` without masks of its
    own takes those of ``valid``.

    Args:
        root: folder of the set, relative to the data module's ``root``.
        split: ``train``, ``val``, ``test-dev`` (DAVIS); ``train``, ``valid``, ``valid_all_frames`` (YouTube-VOS).
        layout: layout of the folders.
        year: DAVIS only. 2016 has one object, every label above 0; in 2017 labels are ids and 255 is void.
        resolution: DAVIS only: ``480p``, ``Full-Resolution``, or any folder of that kind.
        repeat: how often the set is seen in one pass over the training data.
        single_object: take every label above 0, 255 included, as one object; always so for DAVIS 2016.
    """

    root: str
    split: str = "train"
    layout: Literal["davis", "youtube_vos"] = "davis"
    year: Literal["2016", "2017"] = "2017"
    resolution: str = "480p"
    repeat: int = 1
    single_object: bool = False

    def __post_init__(self) -> None:
        """Refuse a set that is never seen."""
        if self.repeat < 1:
            raise ValueError(
                f"videos {self.root!r}: repeat={self.repeat} must be at least 1; leave the set out instead"
            )

    def videos(self, root: Path, dense: bool = False) -> list[VideoFiles]:
        """The sequences of the split, in the order of the list or of their names.

        Args:
            root: the data module's root.
            dense: DAVIS only: every frame must have a mask, as training needs it.

        Raises:
            FileNotFoundError: no data in any of the places tried; a list, folder or frame is missing.
            ValueError: frames and masks do not fit together, or the split is empty.
        """
        return [read() for read in self.readers(root, dense).values()]

    def readers(self, root: Path, dense: bool = False) -> dict[str, Callable[[], VideoFiles]]:
        """The names of the sequences, and how to find the files of each: what is wrong with one is raised there.

        Args:
            root: the data module's root.
            dense: see :meth:`videos`.

        Raises:
            FileNotFoundError: no data in any of the places tried, or the list is missing.
            ValueError: the split is empty.
        """
        found = self._davis(root / self.root, dense) if self.layout == "davis" else self._youtube(root / self.root)
        if not found:
            raise ValueError(f"{root / self.root}: split {self.split!r} is empty; check its list or folder")
        return found

    def _davis(self, root: Path, dense: bool) -> dict[str, Callable[[], VideoFiles]]:
        tried = list(dict.fromkeys(root / base.format(year=self.year) for base in DAVIS_BASES))
        bases = [base for base in tried if (base / "JPEGImages" / self.resolution).is_dir()]
        if not bases:
            raise _nowhere(tried, f"JPEGImages/{self.resolution}")
        entry = f"ImageSets/{self.year}/{self.split}.txt"
        base = next((base for base in bases if (base / entry).is_file()), None)
        if base is None:
            there = sorted(path.stem for base in bases for path in (base / f"ImageSets/{self.year}").glob("*.txt"))
            raise FileNotFoundError(
                f"{bases[0] / entry}: no such list; lists for year {self.year}: {', '.join(there) or 'none'}; "
                "correct split or year"
            )
        names = (base / entry).read_text(encoding="utf-8").split()
        return {name: partial(self._davis_video, base, name, dense) for name in names}

    def _davis_video(self, base: Path, name: str, dense: bool) -> VideoFiles:
        frames = _frames(base / "JPEGImages" / self.resolution / name)
        annotations = base / "Annotations" / self.resolution / name
        masks = _masks(annotations, frames)
        if 0 not in masks or (len(masks) != len(frames) and (dense or len(masks) > 1)):
            lone = next(frame for t, frame in enumerate(frames) if t not in masks)
            raise ValueError(
                f"{annotations}: {len(masks)} masks for {len(frames)} frames (none for {lone.stem}); "
                "add the missing masks or take the sequence off the list"
            )
        return VideoFiles(name, frames, masks, self.single_object or self.year == "2016", None, prompt_first=True)

    def _youtube(self, root: Path) -> dict[str, Callable[[], VideoFiles]]:
        tried = [root / base / self.split for base in YOUTUBE_BASES]
        base = next((base for base in tried if (base / "JPEGImages").is_dir()), None)
        if base is None:
            raise _nowhere(tried, "JPEGImages")
        source = base
        if not (base / "Annotations").is_dir():
            split = self.split.removesuffix("_all_frames")
            places = [base, base.with_name(split), base.parent.parent / split]
            source = next((place for place in places if (place / "Annotations").is_dir()), base)
            if source is base:
                raise _nowhere(places, "Annotations")
        meta = None
        if (source / "meta.json").is_file():
            meta = json.loads((source / "meta.json").read_text(encoding="utf-8"))["videos"]
        names = sorted(meta) if meta else sorted(p.name for p in (base / "JPEGImages").iterdir() if p.is_dir())
        objects = {} if meta is None or self.single_object else meta
        return {name: partial(self._youtube_video, base, source, name, objects.get(name)) for name in names}

    def _youtube_video(self, base: Path, source: Path, name: str, meta: dict | None) -> VideoFiles:
        frames = _frames(base / "JPEGImages" / name)
        masks = _masks(source / "Annotations" / name, frames)
        if not masks:
            raise ValueError(f"{source / 'Annotations' / name}: no mask; add the masks or remove the video")
        starts = None if meta is None else _starts(meta, frames, source / "meta.json")
        return VideoFiles(name, frames, masks, self.single_object, starts)


def _nowhere(tried: Iterable[Path], wanted: str) -> FileNotFoundError:
    places = ", ".join(str(place) for place in tried)
    return FileNotFoundError(f"no folder {wanted} in any of {places}; set DATA_ROOT or --data.root, or the set's root")


def _order(path: Path) -> tuple[int, str]:
    return (int(path.stem) if path.stem.isdigit() else 0, path.stem)


def _frames(folder: Path) -> tuple[Path, ...]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such sequence; add its frames or take it off the list")
    frames = tuple(sorted((p for p in folder.iterdir() if p.suffix.lower() in FRAME_SUFFIXES), key=_order))
    if not frames:
        raise FileNotFoundError(f"{folder}: no frame (jpg, png); add them or take the sequence off the list")
    return frames


def _masks(folder: Path, frames: Sequence[Path]) -> dict[int, Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of masks; add it or take the sequence off the list")
    number = {frame.stem: t for t, frame in enumerate(frames)}
    files = sorted((path for path in folder.iterdir() if path.suffix.lower() == ".png"), key=_order)
    if lone := [path for path in files if path.stem not in number]:
        raise ValueError(f"{lone[0]}: a mask without a frame ({len(lone)} of {len(files)}); remove it or add its frame")
    return {number[path.stem]: path for path in files}


def _starts(video: dict, frames: Sequence[Path], meta: Path) -> dict[int, int]:
    number = {frame.stem: t for t, frame in enumerate(frames)}
    starts = {}
    for key in sorted(video["objects"], key=int):
        first = min(video["objects"][key]["frames"])
        if first not in number:
            raise ValueError(f"{meta}: object {key} starts on {first}, not a frame of {frames[0].parent}; correct it")
        starts[int(key)] = number[first]
    return starts
