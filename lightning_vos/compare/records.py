"""What an evaluation left behind, read back: figures, scores of sequences and frames, small pictures."""

from __future__ import annotations

import csv
import json
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_vos.column import Column
from lightning_vos.metrics import FrameScore
from lightning_vos.names import component
from lightning_vos.networks import locate
from lightning_vos.results_folder import ResultsFolder


@dataclass(frozen=True)
class Record:
    """One evaluated checkpoint.

    Attributes:
        name: what it is called in the tables.
        checkpoint: the file.
        step: optimiser steps of its training.
        method: class of the method.
        parameters: number of parameters, frozen ones included.
        device: what it ran on.
        precision: as the trainer calls it.
        frames: frames that were segmented.
        metrics: everything that was logged: ``J&F``, ``J``, ``FPS``, ...; scores in [0, 1].
        sequences: J&F of every sequence, the mean over its objects, in [0, 1].
        objects: number of objects of every sequence.
        columns: the figures that tables show, in order.
        folder: where the evaluation wrote.
    """

    name: str
    checkpoint: Path
    step: int
    method: str
    parameters: int
    device: str
    precision: str
    frames: int
    metrics: dict[str, float]
    sequences: dict[str, float]
    objects: dict[str, int]
    columns: tuple[Column, ...]
    folder: ResultsFolder

    @property
    def figures(self) -> dict[str, float]:
        """What columns may show, by their keys: what was logged, and ``parameters``."""
        return {**self.metrics, "parameters": self.parameters}

    def frame_scores(self, sequence: str) -> list[FrameScore]:
        """J and F of every object on every scored frame of a sequence, in order of time."""
        with self.folder.frames_csv("val", sequence).open(newline="") as file:
            return [
                FrameScore(int(row["Number"]), row["Frame"], int(row["Object"]), float(row["J"]), float(row["F"]))
                for row in csv.DictReader(file)
            ]


def read_record(folder: Path, name: str, checkpoint: Path, step: int) -> Record:
    """Read what ``callbacks.EvaluationRecord`` and ``callbacks.DavisEvaluation`` wrote to ``folder``.

    Raises:
        FileNotFoundError: the evaluation has not run to its end.
        ValueError: nothing was scored.
    """
    files = ResultsFolder(folder)
    if not files.record.is_file():
        raise FileNotFoundError(
            f"{files.record}: no record of an evaluation; add callbacks.EvaluationRecord to its callbacks"
        )
    record = json.loads(files.record.read_text(encoding="utf-8"))
    if "J&F" not in record["metrics"]:
        raise ValueError(f"{folder}: no frame had ground truth, there is nothing to compare; choose a set with masks")
    scores = read_sequences(files)
    sequences = {sequence: sum(values) / len(values) for sequence, values in scores.items()}
    objects = {sequence: len(values) for sequence, values in scores.items()}
    record["columns"] = tuple(Column(**column) for column in record["columns"])
    return Record(name, checkpoint, step, **record, sequences=sequences, objects=objects, folder=files)


def read_sequences(files: ResultsFolder) -> dict[str, list[float]]:
    """J&F of every object of every sequence, in [0, 1]."""
    scores: dict[str, list[float]] = defaultdict(list)
    with files.sequences_csv("val").open(newline="") as file:
        for row in csv.DictReader(file):
            scores[row["Sequence"].rpartition("_")[0]].append((float(row["J-Mean"]) + float(row["F-Mean"])) / 2)
    return dict(scores)


def run_names(words: Sequence[str]) -> dict[str, Path]:
    """Names for checkpoints: given as ``NAME=PATH``, else as little of the path as tells them apart.

    ``runs/a/video/checkpoints/last.ckpt`` is ``a``; beside ``runs/a/static/checkpoints/last.ckpt`` it is ``a/video``.
    Instead of a path the name of a released network may be given, and is its name here.

    Raises:
        ValueError: no checkpoint, two of one name, or a name that is not that of a folder.
        FileNotFoundError: there is no such checkpoint, or no released network of this name.
    """
    if not words:
        raise ValueError(
            "no checkpoint given; name the files to compare, as in runs/a/video/checkpoints/last.ckpt other=b.ckpt"
        )
    given: list[tuple[str | None, Path]] = []
    advice = "give PATH or NAME=PATH"
    for word in words:
        name, equals, path = word.partition("=")
        if Path(word).is_file() or not equals:  # a file may have = in its name, as Lightning's own do
            given.append((None, Path(locate(word, advice=advice))))
        else:
            given.append((component(name, word), Path(locate(path, advice=advice))))
    shortenings: tuple[Callable[[Path], str], ...] = (_run, _stage, _file, str)
    for shorten in shortenings:
        names = [name or shorten(Path(os.path.abspath(path)) if ".." in path.parts else path) for name, path in given]
        if len(set(map(folder_name, names))) == len(names):
            return dict(zip(names, (path for _, path in given), strict=True))
    folders = [folder_name(name) for name in names]
    twice = next(name for name, folder in zip(names, folders, strict=True) if folders.count(folder) > 1)
    raise ValueError(f"{twice}: given twice; give each checkpoint once, or names of their own as NAME=PATH")


def folder_name(name: str) -> str:
    """The folder below ``out`` of a checkpoint's results.

    Raises:
        ValueError: the name cannot be that of a folder.
    """
    return component(name.replace("/", "-"), f"checkpoint {name}")


def _run(path: Path) -> str:
    return path.parts[-4] if len(path.parts) > 3 and path.parent.name == "checkpoints" else path.stem


def _stage(path: Path) -> str:
    return "/".join(path.parts[-4:-2]) if len(path.parts) > 3 else path.stem


def _file(path: Path) -> str:
    return "/".join([*path.parts[-4:-2], path.stem])
