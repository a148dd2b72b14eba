"""``python -m datamodules.check --root DIR CONFIG ...``: every file of the data sets opened, every fault named."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentError, ArgumentParser
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar

import jsonargparse
import numpy as np
import yaml
from rich.console import Console
from rich.progress import track
from rich.table import Table

from datamodules.frame_names import frame_numbers
from datamodules.image_sets import ImageSet, Still
from datamodules.images import read_image
from datamodules.layouts import SequenceSet, VideoFiles
from datamodules.listing import check_order
from datamodules.sequences import EvaluationSet
from datamodules.video import VideoDataModule
from lightning_vos.command_line import at_home, print_any_letter
from lightning_vos.types import VOID

_FAULTS = 10  # of one sequence that are listed
_ROWS = 40  # of the table; where there are more sequences, it shows those with faults only

Given = TypeVar("Given")
Size = tuple[int, int]


@dataclass
class Report:
    """What was found in one sequence, or in one set of still images.

    Attributes:
        place: the set and its split.
        name: of the sequence.
        frames: number of frames; of stills the pictures.
        masks: number of masks.
        sizes: heights and widths of the frames.
        ids: object ids on the masks.
        empty: masks on which nothing is: no fault, objects leave.
        void: masks with void (255) pixels: no fault after the first one.
        faults: one line each: the file, what is wrong, what to do.
    """

    place: str
    name: str
    frames: int = 0
    masks: int = 0
    sizes: set[Size] = field(default_factory=set)
    ids: set[int] = field(default_factory=set)
    empty: int = 0
    void: int = 0
    faults: list[str] = field(default_factory=list)


class _Mask(NamedTuple):
    size: Size
    values: set[int]


def checks_of(
    images: Iterable[ImageSet], videos: Iterable[SequenceSet], val: SequenceSet | None, root: Path
) -> Iterator[Callable[[], Report]]:
    """One check for each set of stills and for each sequence; none has run yet.

    Args:
        images: still images for training.
        videos: sequences for training: every frame of a DAVIS set must have a mask.
        val: sequences for evaluation.
        root: folder that holds the sets.
    """
    for stills in images:
        yield partial(check_images, stills, root)
    for sequences, dense in [*((videos_, True) for videos_ in videos), *([(val, False)] if val else [])]:
        place = f"{sequences.root} {sequences.split}"
        try:
            readers = sequences.readers(root, dense)
        except (OSError, ValueError) as error:
            yield partial(Report, place, "", faults=[str(error)])
            continue
        for name, read in readers.items():
            yield partial(check_sequence, place, name, read)


def check_images(images: ImageSet, root: Path) -> Report:
    """Open every picture and mask of a set of still images."""
    report = Report(images.root, "still images")
    stills = _tried(partial(images.stills, root))
    if isinstance(stills, str):
        report.faults.append(stills)
        return report
    report.frames = report.masks = len(stills)
    report.faults += [fault for fault in _in_threads(Still.read, stills) if isinstance(fault, str)]
    return report


def check_sequence(place: str, name: str, read: Callable[[], VideoFiles]) -> Report:
    """Find the files of a sequence and open every one of them.

    Args:
        place: the set and its split, for the report.
        name: of the sequence.
        read: finds the files, see :meth:`SequenceSet.readers`.
    """
    report = Report(place, name)
    video = _tried(read)
    if isinstance(video, str):
        report.faults.append(video)
        return report
    report.frames, report.masks = len(video.frames), len(video.masks)
    report.faults += _numbering_faults(video.frames)
    size = _check_frames(report, video.frames)
    _check_masks(report, video, size)
    return report


def _numbering_faults(frames: Sequence[Path]) -> Iterator[str]:
    """An unclear order, which a layout of one's own may not look at, and numbers left out at one distance."""
    folder, stems = frames[0].parent, [frame.stem for frame in frames]
    if isinstance(unclear := _tried(partial(check_order, frames)), str):
        yield unclear
        return
    steps = [after - before for before, after in pairwise(frame_numbers(stems) or [])]
    if min(steps, default=1) < 1:
        t = next(t for t, step in enumerate(steps) if step < 1)
        yield f"{folder}: {stems[t + 1]} comes after {stems[t]}; put the frames in the order of their numbers"
    elif gaps := [t for t, step in enumerate(steps) if step != min(steps)]:
        yield (
            f"{folder}: {len(gaps)} gaps in the numbers of the frames, the first between {stems[gaps[0]]} and "
            f"{stems[gaps[0] + 1]}; add the missing frames"
        )


def _check_frames(report: Report, frames: Sequence[Path]) -> Size | None:
    """Read all frames to their end; the size that most of them have."""
    results = _in_threads(lambda path: read_image(path).shape[:2], frames)
    sizes = [result for result in results if not isinstance(result, str)]
    common: Size | None = Counter(sizes).most_common(1)[0][0] if sizes else None
    report.sizes |= set(sizes)
    for path, result in zip(frames, results, strict=True):
        if isinstance(result, str):
            report.faults.append(result)
        elif common is not None and result != common:
            report.faults.append(f"{path}: is {_text(result)}, the other frames are {_text(common)}; make them equal")
    return common


def _check_masks(report: Report, video: VideoFiles, size: Size | None) -> None:
    """Read all masks; their sizes, the ids on them, and what evaluation asks of those that start objects."""

    def read(t: int) -> _Mask:
        labels = video.labels(t)
        return _Mask((labels.shape[0], labels.shape[1]), set(np.unique(labels).tolist()))

    times = sorted(video.masks)
    results = _in_threads(read, times)
    masks = {t: mask for t, mask in zip(times, results, strict=True) if not isinstance(mask, str)}
    report.faults += [result for result in results if isinstance(result, str)]
    if not results or isinstance(results[0], str):
        return
    if len(masks) == len(times) and isinstance(fault := _tried(lambda: EvaluationSet([video])[0]), str):
        report.faults.append(fault)
    # An object is known from the list of starts, or from the masks on which it may start.
    known: set[int] = set()
    for t, named in video.starts.items():
        if named is not None or t in masks:
            known |= masks[t].values if named is None else set(named)
    for t, mask in masks.items():
        path, objects = video.masks[t], mask.values - {0, VOID}
        report.ids |= objects
        report.empty += not objects
        report.void += VOID in mask.values
        if size is not None and mask.size != size:
            report.faults.append(f"{path}: is {_text(mask.size)}, the frames are {_text(size)}; make them equal")
        if t == times[0] and objects and VOID in mask.values:
            report.faults.append(f"{path}: 255 (void) on a first mask; make it part of an object or background (0)")
        if stray := objects - known:
            report.faults.append(
                f"{path}: stray values {_some(stray)}, the objects are {_some(known - {0, VOID})}; correct the mask"
            )


def _tried(read: Callable[[], Given]) -> Given | str:
    """What ``read`` returns, or the line it complains with."""
    try:
        return read()
    except (OSError, ValueError) as error:
        return str(error)


def _in_threads(read: Callable[[Given], object], items: Sequence[Given]) -> list:
    """``read`` of every item, or the line it complains with; decoding runs on all cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda item: _tried(partial(read, item)), items))


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _some(values: Iterable[int]) -> str:
    ordered = sorted(values)
    return ", ".join(map(str, ordered[:8])) + (f" and {len(ordered) - 8} more" if len(ordered) > 8 else "")


def show(reports: Sequence[Report], console: Console) -> None:
    """Print a table of what was found and the faults below it."""
    bad = [report for report in reports if report.faults]
    shown = reports if len(reports) <= _ROWS else bad
    table = Table(title=f"{len(reports)} sequences and image sets, {len(bad)} with faults")
    for name in ("set", "sequence", "frames", "masks", "size", "objects", "empty masks", "with void", "faults"):
        table.add_column(name, justify="left" if name in ("set", "sequence", "size") else "right")
    for r in shown:
        cells = [r.frames, r.masks, ", ".join(map(_text, sorted(r.sizes))), len(r.ids), r.empty, r.void, len(r.faults)]
        table.add_row(r.place, r.name, *map(str, cells), style="red" if r.faults else None)
    table.add_section()
    totals = [sum(r.frames for r in reports), sum(r.masks for r in reports), "", sum(len(r.ids) for r in reports)]
    totals += [sum(r.empty for r in reports), sum(r.void for r in reports), sum(len(r.faults) for r in reports)]
    table.add_row("all", "", *map(str, totals), style="bold")
    console.print(table)
    for report in bad:
        more = len(report.faults) - _FAULTS
        lines = report.faults[:_FAULTS] + ([f"{report.place} {report.name}: {more} more"] if more > 0 else [])
        console.print(*lines, sep="\n", markup=False)


def main(args: Sequence[str] | None = None) -> int:
    """Check the data of configuration files.

    Args:
        args: command line without the program; ``sys.argv`` by default.

    Returns:
        Exit status: 0 without faults, 1 with, 2 if a configuration cannot be read or there is no such folder.
    """
    parser = ArgumentParser("datamodules.check", description=__doc__)
    parser.add_argument("configs", nargs="+", type=Path, help="files with a section data, as experiments/data/*.yaml")
    parser.add_argument("--root", default="data", help="folder that holds the data sets")
    given = parser.parse_args([at_home(word) for word in (sys.argv[1:] if args is None else args)])
    print_any_letter()
    checks: list[Callable[[], Report]] = []
    try:
        for path in given.configs:
            data = _data_of(path, given.root)
            data.prepare_data()
            if not data.root.is_dir():
                raise FileNotFoundError(f"{data.root}: no such folder; set --root to where the data sets are")
            checks += checks_of(data.images, data.videos, data.val, data.root)
    except (OSError, ValueError, ArgumentError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    quiet = not sys.stdout.isatty()
    console = Console(soft_wrap=quiet, highlight=False, width=140 if quiet else None)  # names must not be cut in a log
    reports = [check() for check in track(checks, "opening every file", console=console, disable=quiet)]
    show(reports, console)
    return int(any(report.faults for report in reports))


def _data_of(path: Path, root: str) -> VideoDataModule:
    """The data module that a configuration file describes, whatever else it says."""
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))["data"]["init_args"]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: no data.init_args in it ({error}); give a file like experiments/data/*.yaml"
        ) from error
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(VideoDataModule, "data")
    try:
        module = parser.instantiate(parser.parse_object({"data": {**settings, "root": root}})).data
    except ArgumentError as error:
        raise ValueError(f"{path}: {error}") from error
    assert isinstance(module, VideoDataModule)
    return module


if __name__ == "__main__":
    sys.exit(main())
