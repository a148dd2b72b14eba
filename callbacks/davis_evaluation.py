"""J&F during validation and test, by the official semi-supervised protocol of DAVIS 2017."""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from callbacks.palette import labels_to_save, save_palette_png
from lightning_vos.atomic import unfinished
from lightning_vos.frame_callback import FrameCallback
from lightning_vos.metrics import JAndF, ObjectScores, boundary_accuracy, region_similarity
from lightning_vos.types import VOID
from lightning_vos.video import Video

_WORST = 10
_MANY_VIDEOS = 40


class DavisEvaluation(FrameCallback):
    """Scores every frame as it is segmented and logs ``val/J&F`` (in a test ``test/J&F``) and its parts.

    Protocol: the first frame of a video is given, so it is not scored, and neither is the last; a video of two frames
    is scored on its second, one of a single frame not at all. An object that starts later than frame 0 is scored from
    the frame after its prompt on. Frames without ground truth are not scored. Void pixels (255) are taken out of both
    masks. The score of an object is the mean over its frames, the total the mean over all objects of all videos.

    Logged, equal on all ranks: ``J&F``, ``J``, ``F``, ``J_recall``, ``J_decay``, ``F_recall``, ``F_decay`` and, with
    ``baseline``, ``J&F_copied_first_mask``. Nothing is logged when no frame had ground truth.

    Written by rank zero to ``<output_dir>/results`` in the layout of davis2017-evaluation, with more digits:
    ``global_results-val.csv`` and ``per-sequence_results-val.csv`` (in a test ``-test.csv``). Beside them every rank
    writes ``per-frame_results-val/<video>.csv`` of its own videos: J and F of every object on every scored frame. Files
    of an earlier evaluation are removed when one starts, so what lies there is never older than the last one that
    finished.

    The evaluation set must offer ``len()``, ``names`` (of the videos), ``object_ids`` (a tuple of ids per video) and
    ``max_objects``.

    Args:
        output_dir: where results and masks go; ``None``: the trainer's ``default_root_dir``.
        save_masks: write every frame's labels to ``<output_dir>/masks/<video>/<frame>.png`` with the data set's own
            ids, ready for the evaluation servers; objects given on a frame as they were given.
        baseline: also score the copied first mask (every object keeps the mask it was given). It cannot change, so it
            is scored in the first complete evaluation only.
        table: print a table of the videos on rank zero: all of them up to 40, else the 10 worst.
    """

    def __init__(
        self, output_dir: str | None = None, save_masks: bool = False, baseline: bool = True, table: bool = True
    ) -> None:
        self.output_dir = output_dir
        self.save_masks = save_masks
        self.baseline = baseline
        self.table = table
        self._metric: JAndF | None = None
        self._baseline_metric: JAndF | None = None
        self._baselines: dict[tuple[Any, ...], dict[str, Tensor]] = {}
        self._video: _VideoScores | None = None

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start with empty metrics on the model's device and without old results."""
        if trainer.sanity_checking:
            return
        dataset = evaluation_set(trainer)
        self._metric = JAndF(len(dataset), max(1, dataset.max_objects)).to(pl_module.device)
        self._baseline_metric = self._video = None
        if self.baseline and _baseline_key(trainer) not in self._baselines:
            self._baseline_metric = JAndF(len(dataset), max(1, dataset.max_objects)).to(pl_module.device)
        if trainer.is_global_zero:
            for path in self._csv_paths(trainer):
                path.unlink(missing_ok=True)
            shutil.rmtree(self._frames_folder(trainer), ignore_errors=True)
        trainer.strategy.barrier()  # or a fast rank's first video would be removed

    def on_frame_end(
        self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int, frame: Tensor, labels: Tensor
    ) -> None:
        """Score one frame; on the video's last one, hand its values to the metric."""
        if trainer.sanity_checking or self._metric is None:
            return
        if self.save_masks:
            path = self.output_folder(trainer) / "masks" / video.name / f"{video.frame_names[t]}.png"
            save_palette_png(path, labels_to_save(video, t, labels))
        if t == 0:  # also drops what an interrupted video has left
            names = evaluation_set(trainer).names
            if video.index >= len(names) or names[video.index] != video.name:
                raise ValueError(f"{video}: is not number {video.index} of the evaluation set; check its Video.index")
            self._video = _VideoScores(video, self._baseline_metric is not None)
        if self._video is None:
            raise ValueError(f"{video}: frame {t} came without frame 0; hand over every frame of a video in order")
        self._video.add(t, labels)
        if t == len(video) - 1:
            self._video.finish(self._metric, self._baseline_metric)
            if self._video.times:
                path = self._frames_folder(trainer) / f"{video.name}.csv"
                _write_csv(path, ("Number", "Frame", "Object", "J", "F"), self._video.rows())
            self._video = None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather over ranks, log, write the files, print the table."""
        if trainer.sanity_checking or self._metric is None:
            return
        stage, key = _stage(trainer), _baseline_key(trainer)
        objects = self._metric.per_object()
        if objects:
            total = self._metric.compute()
            if self._baseline_metric is not None:
                self._baselines[key] = self._baseline_metric.compute()
            baseline = self._baselines.get(key)
            logged = {f"{stage}/{name}": value for name, value in total.items()}
            if baseline is not None:
                logged[f"{stage}/J&F_copied_first_mask"] = baseline["J&F"].to(pl_module.device)
            # Every rank already holds the total. The maximum of equal values changes no digit, which a mean may.
            pl_module.log_dict(logged, sync_dist=True, reduce_fx="max", batch_size=1)
            if trainer.is_global_zero:
                self._write(trainer, total, objects)
                if self.table:
                    Console().print(_table(evaluation_set(trainer), stage, total, objects, baseline))
        self._metric = self._baseline_metric = self._video = None

    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end

    def _csv_paths(self, trainer: Trainer) -> tuple[Path, Path]:
        folder, stage = self.output_folder(trainer) / "results", _stage(trainer)
        return folder / f"global_results-{stage}.csv", folder / f"per-sequence_results-{stage}.csv"

    def _frames_folder(self, trainer: Trainer) -> Path:
        return self.output_folder(trainer) / "results" / f"per-frame_results-{_stage(trainer)}"

    def _write(self, trainer: Trainer, total: dict[str, Tensor], objects: list[ObjectScores]) -> None:
        global_path, sequence_path = self._csv_paths(trainer)
        columns = ("J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")
        _write_csv(global_path, columns, [[f"{float(value):.6f}" for value in total.values()]])
        dataset = evaluation_set(trainer)
        rows = [
            (
                f"{dataset.names[o.video]}_{dataset.object_ids[o.video][o.object - 1]}",
                f"{o.values['J']:.6f}",
                f"{o.values['F']:.6f}",
            )
            for o in objects
        ]
        _write_csv(sequence_path, ("Sequence", "J-Mean", "F-Mean"), rows)


class _VideoScores:
    """The values of one video so far; holds no frame, and one label map for the baseline.

    Args:
        video: the video.
        baseline: score the copied first masks as well.
    """

    def __init__(self, video: Video, baseline: bool) -> None:
        self.video = video
        self.copied = torch.zeros(video.size, dtype=torch.uint8) if baseline else None
        self.times: list[int] = []  # of the scored frames
        self.values: list[Tensor] = []  # (2, K) each: J, F
        self.copied_values: list[Tensor] = []
        self.starts = torch.zeros(len(video.object_ids), dtype=torch.int64)
        for t in sorted(video.prompts, reverse=True):  # the earliest prompt of an object has the last word
            self.starts[_objects_in(video.prompts[t], video)] = t

    def add(self, t: int, labels: Tensor) -> None:
        """Score frame ``t`` if the protocol wants it."""
        video = self.video
        if self.copied is not None and t in video.prompts:
            prompt = video.prompts[t].cpu()
            self.copied = torch.where(prompt > 0, prompt, self.copied)
        if t == 0 or (t == len(video) - 1 and t > 1):
            return
        target = video.target(t)
        if target is None:
            return
        if target.shape != labels.shape:
            raise ValueError(f"{video}: frame {t} has labels {tuple(labels.shape)}, ground truth {tuple(target.shape)}")
        unknown = (target > len(video.object_ids)) & (target != VOID)
        if unknown.any():
            raise ValueError(
                f"{video}: ground truth of frame {t} ({video.frame_names[t]}) has label {int(target[unknown][0])}, "
                f"but there are {len(video.object_ids)} objects; check the annotation and the prompts"
            )
        target = target.to(labels.device)
        self.times.append(t)
        self.values.append(self._score(t, labels, target))
        if self.copied is not None:
            self.copied_values.append(self._score(t, self.copied.to(labels.device), target))

    def finish(self, metric: JAndF, baseline_metric: JAndF | None) -> None:
        """Hand the whole video to the metrics."""
        if not self.values:
            return
        metric.update(self.video.index, *torch.stack(self.values, 1))
        if baseline_metric is not None:
            baseline_metric.update(self.video.index, *torch.stack(self.copied_values, 1))

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Frame number (0-based), name of the frame, id, J and F of every object on every frame that was scored."""
        for t, values in zip(self.times, self.values, strict=True):
            for id_, (j, f) in zip(self.video.object_ids, values.T.tolist(), strict=True):
                if not math.isnan(j):
                    yield str(t), self.video.frame_names[t], str(id_), f"{j:.6f}", f"{f:.6f}"

    def _score(self, t: int, labels: Tensor, target: Tensor) -> Tensor:
        """``(2, K)`` float64: J and F of every object, NaN for those that have not started before ``t``."""
        ids = torch.arange(1, len(self.video.object_ids) + 1, device=labels.device)[:, None, None]
        pred, truth, void = labels == ids, target == ids, target == VOID
        scores = torch.stack([region_similarity(pred, truth, void), boundary_accuracy(pred, truth, void)])
        return scores.masked_fill((self.starts >= t).to(labels.device), torch.nan)


def _objects_in(labels: Tensor, video: Video) -> Tensor:
    """Indices (label - 1) of the objects that a prompt holds."""
    found = labels.unique().long().cpu()
    return found[(found > 0) & (found <= len(video.object_ids))] - 1


def _stage(trainer: Trainer) -> str:
    return "test" if trainer.testing else "val"


def evaluation_set(trainer: Trainer) -> Any:
    """The data set of the loop that is running."""
    loaders: Any = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    if isinstance(loaders, Sequence):
        if len(loaders) != 1:
            raise ValueError(f"{len(loaders)} {_stage(trainer)} dataloaders: DavisEvaluation scores one; give it one")
        loaders = loaders[0]
    dataset = loaders.dataset
    missing = [name for name in ("__len__", "names", "object_ids", "max_objects") if not hasattr(dataset, name)]
    if missing:
        raise ValueError(f"{type(dataset).__name__} has no {', '.join(missing)}: DavisEvaluation needs a set of videos")
    return dataset


def _baseline_key(trainer: Trainer) -> tuple[Any, ...]:
    """What the baseline depends on, and nothing that differs between ranks (or some would wait for the others)."""
    dataset = evaluation_set(trainer)
    limit = trainer.limit_test_batches if trainer.testing else trainer.limit_val_batches
    return _stage(trainer), tuple(dataset.names), tuple(dataset.object_ids), limit


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV in one stroke."""
    with unfinished(path) as beside, beside.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def _table(
    dataset: Any,
    stage: str,
    total: dict[str, Tensor],
    objects: list[ObjectScores],
    baseline: dict[str, Tensor] | None,
) -> Table:
    """J, F and J&F in per cent: per video, the total, the copied first mask."""
    videos: dict[int, list[ObjectScores]] = {}
    for scores in objects:
        videos.setdefault(scores.video, []).append(scores)

    def mean(video: int, name: str) -> float:
        return sum(scores.values[name] for scores in videos[video]) / len(videos[video])

    shown, title = sorted(videos), f"{stage}: {len(videos)} videos, {len(objects)} objects"
    if len(videos) > _MANY_VIDEOS:
        shown = sorted(shown, key=lambda video: mean(video, "J&F"))[:_WORST]
        title += f", the {_WORST} worst"
    table = Table(title=title)
    table.add_column("video")
    for name in ("objects", "frames", "J", "F", "J&F"):
        table.add_column(name, justify="right")
    for video in shown:
        cells = [f"{100 * mean(video, name):.1f}" for name in ("J", "F", "J&F")]
        table.add_row(dataset.names[video], str(len(videos[video])), str(videos[video][0].frames), *cells)
    table.add_section()
    frames = sum(group[0].frames for group in videos.values())
    cells = [f"{100 * float(total[name]):.1f}" for name in ("J", "F", "J&F")]
    table.add_row("all", str(len(objects)), str(frames), *cells, style="bold")
    if baseline is not None:
        cells = [f"{100 * float(baseline[name]):.1f}" for name in ("J", "F", "J&F")]
        table.add_row("copied first mask", str(len(objects)), str(frames), *cells, style="dim")
    return table
