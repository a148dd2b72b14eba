"""J&F during validation and test, by the official semi-supervised protocol of DAVIS 2017."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from lightning import LightningModule, Trainer
from rich.console import Console
from torch import Tensor

from callbacks.evaluation_loop import evaluation_set, stage_of
from callbacks.mask_png import labels_to_save, save_palette_png
from callbacks.score_table import score_table
from lightning_vos.atomic import unfinished
from lightning_vos.column import Column
from lightning_vos.frame_callback import FrameCallback
from lightning_vos.metrics import DavisScores, FrameScore, ObjectScores
from lightning_vos.results_folder import ResultsFolder
from lightning_vos.video import Video


class DavisEvaluation(FrameCallback):
    """Scores every frame as it is segmented and logs ``val/J&F`` (in a test ``test/J&F``) and its parts.

    The protocol is that of :class:`~lightning_vos.metrics.DavisScores`.

    Logged, equal on all ranks: ``J&F``, ``J``, ``F``, ``J_recall``, ``J_decay``, ``F_recall``, ``F_decay`` and, with
    ``baseline``, ``J&F_copied_first_mask``. Nothing is logged when no frame had ground truth.

    Written by rank zero to ``<output_dir>/results`` in the layout of davis2017-evaluation, with more digits:
    ``global_results-val.csv`` and ``per-sequence_results-val.csv`` (in a test ``-test.csv``). Beside them every rank
    writes ``per-frame_results-val/<video>.csv`` of its own videos: J and F of every object on every scored frame. Files
    of an earlier evaluation are removed when one starts, so what lies there is never older than the last one that
    finished.

    The evaluation set must offer ``len()``, ``names`` (of the videos) and ``object_ids`` (a tuple of ids per video).

    Args:
        output_dir: where results and masks go; ``None``: the trainer's ``default_root_dir``.
        save_masks: write every frame's labels to ``<output_dir>/masks/<video>/<frame>.png`` with the data set's own
            ids, ready for the evaluation servers; objects given on a frame as they were given.
        baseline: also score the copied first mask (every object keeps the mask it was given). It cannot change, so it
            is scored in the first complete evaluation only.
        table: print a table of the videos on rank zero: all of them up to 40, else the 10 worst.
    """

    columns: ClassVar[tuple[Column, ...]] = (
        Column("J&F", "J&F", "mean of J and F, per cent", 100),
        Column("J", "J", "region similarity, per cent", 100),
        Column("J_recall", "J recall", "share of frames with J above 0.5, per cent", 100),
        Column("J_decay", "J decay", "J of the first quarter minus that of the last, points", 100, better="lower"),
        Column("F", "F", "boundary accuracy, per cent", 100),
        Column("F_recall", "F recall", "share of frames with F above 0.5, per cent", 100),
        Column("F_decay", "F decay", "F of the first quarter minus that of the last, points", 100, better="lower"),
    )

    def __init__(
        self, output_dir: str | None = None, save_masks: bool = False, baseline: bool = True, table: bool = True
    ) -> None:
        self.output_dir = output_dir
        self.save_masks = save_masks
        self.baseline = baseline
        self.table = table
        self._scores: DavisScores | None = None
        self._baselines: dict[tuple[Any, ...], dict[str, Tensor]] = {}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start with empty sums on the model's device and without old results."""
        if trainer.sanity_checking:
            return
        dataset = evaluation_set(trainer)
        baseline = self.baseline and _baseline_key(trainer) not in self._baselines
        self._scores = DavisScores(dataset.names, dataset.object_ids, baseline, pl_module.device)
        if trainer.is_global_zero:
            files, stage = self._files(trainer), stage_of(trainer)
            files.global_csv(stage).unlink(missing_ok=True)
            files.sequences_csv(stage).unlink(missing_ok=True)
            shutil.rmtree(files.frames(stage), ignore_errors=True)
        trainer.strategy.barrier()  # or a fast rank's first video would be removed

    def on_frame_end(
        self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int, frame: Tensor, labels: Tensor
    ) -> None:
        """Score one frame; after the video's last one, write its frames' scores."""
        if trainer.sanity_checking or self._scores is None:
            return
        files = self._files(trainer)
        if self.save_masks:
            save_palette_png(files.mask(video.name, video.frame_names[t]), labels_to_save(video, t, labels))
        if t == 0:
            self._scores.start(video)
        self._scores.add(t, labels)
        if t == len(video) - 1:
            rows = self._scores.finish()
            if rows:
                _write_frames(files.frames_csv(stage_of(trainer), video.name), rows)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather over ranks, log, write the files, print the table."""
        scores, self._scores = self._scores, None
        if trainer.sanity_checking or scores is None:
            return
        objects = scores.per_object()
        if not objects:
            return
        stage, key, total = stage_of(trainer), _baseline_key(trainer), scores.compute()
        baseline = self._baselines.get(key, scores.baseline())
        logged = {f"{stage}/{name}": value for name, value in total.items()}
        if baseline is not None:
            self._baselines[key] = baseline
            logged[f"{stage}/J&F_copied_first_mask"] = baseline["J&F"].to(pl_module.device)
        # Every rank already holds the total. The maximum of equal values changes no digit, which a mean may.
        pl_module.log_dict(logged, sync_dist=True, reduce_fx="max", batch_size=1)
        if trainer.is_global_zero:
            dataset, files = evaluation_set(trainer), self._files(trainer)
            _write_total(files.global_csv(stage), total)
            _write_sequences(files.sequences_csv(stage), dataset, objects)
            if self.table:
                Console().print(score_table(dataset.names, stage, total, objects, baseline))

    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end

    def _files(self, trainer: Trainer) -> ResultsFolder:
        return ResultsFolder(self.output_folder(trainer))


def _baseline_key(trainer: Trainer) -> tuple[Any, ...]:
    """What the baseline depends on, and nothing that differs between ranks (or some would wait for the others)."""
    dataset = evaluation_set(trainer)
    limit = trainer.limit_test_batches if trainer.testing else trainer.limit_val_batches
    return stage_of(trainer), tuple(dataset.names), tuple(dataset.object_ids), limit


def _write_total(path: Path, total: dict[str, Tensor]) -> None:
    columns = ("J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")
    _write_csv(path, columns, [[_digits(float(value)) for value in total.values()]])


def _write_sequences(path: Path, dataset: Any, objects: Iterable[ObjectScores]) -> None:
    """A line an object, ``<video>_<id>`` as davis2017-evaluation calls it."""
    rows = []
    for scores in objects:
        name = f"{dataset.names[scores.video]}_{dataset.object_ids[scores.video][scores.object - 1]}"
        rows.append((name, _digits(scores.values["J"]), _digits(scores.values["F"])))
    _write_csv(path, ("Sequence", "J-Mean", "F-Mean"), rows)


def _write_frames(path: Path, rows: Iterable[FrameScore]) -> None:
    cells = [(str(row.number), row.frame, str(row.object), _digits(row.j), _digits(row.f)) for row in rows]
    _write_csv(path, ("Number", "Frame", "Object", "J", "F"), cells)


def _digits(score: float) -> str:
    return f"{score:.6f}"


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV in one stroke."""
    with unfinished(path) as beside, beside.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
