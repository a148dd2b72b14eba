"""A few of the heaviest steps before hour zero: is the data sane, does it fit into memory, how long will it take."""

from __future__ import annotations

import json
import resource
import statistics
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from callbacks.device import clock
from lightning_vos.atomic import unfinished
from lightning_vos.frame_callback import FrameCallback
from lightning_vos.types import ClipBatch
from lightning_vos.video import Video

WARMUP = 2  # steps that are not timed: kernels are chosen, loaders start


class DryRun(FrameCallback):
    """Shortens a run to a few steps and one validation video, measures them and prints what the whole would take.

    Every clip of the steps is filled with as many objects as the stage allows; the validation video is the longest.
    All masks of the validation set are read before, and a label that is not among its video's objects is named with
    its file and frame. (The headers of all files, those for training too, are checked by the data module.)

    Args:
        output: JSON file that the figures of the stage are added to.
        steps: optimiser steps to run, at least 3.
        table: print the table of all stages in ``output``.

    Raises:
        ValueError: ``steps`` is too small.
    """

    def __init__(self, output: str, steps: int = 6, table: bool = True) -> None:
        if steps <= WARMUP:
            raise ValueError(f"steps={steps}: the first {WARMUP} only warm up; give at least {WARMUP + 1}")
        self.output = Path(output)
        self.steps = steps
        self.table = table
        self._ends: list[float] = []
        self._frames: list[float] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Shorten the run, fill its clips, read the validation masks.

        Raises:
            ValueError: a mask with a stray label.
        """
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        passes = trainer.accumulate_grad_batches
        interval = trainer.val_check_interval
        self._validations = trainer.max_steps * passes / interval if isinstance(interval, int) else 1 / interval
        trainer.limit_train_batches = trainer.val_check_interval = self.steps * passes
        trainer.limit_val_batches = min(1, trainer.limit_val_batches)
        data.on_after_batch_transfer = lambda batch, loader: (
            fullest(batch, data.max_objects) if isinstance(batch, ClipBatch) else batch
        )
        if data.val_set is not None and trainer.is_global_zero:
            with ThreadPoolExecutor(4) as pool:
                for index in range(len(data.val_set)):
                    video = data.val_set[index]
                    list(pool.map(video.target, range(len(video))))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Note when the pass ended."""
        self._ends.append(clock(pl_module.device))

    def on_frame_start(self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int) -> None:
        """Note when the video began."""
        if t == 0:
            self._frames = [clock(pl_module.device)]

    def on_frame_end(
        self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int, frame: Tensor, labels: Tensor
    ) -> None:
        """Note when the frame ended."""
        self._frames.append(clock(pl_module.device))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the figures of the stage, and print."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        passes = trainer.accumulate_grad_batches
        ends = self._ends[passes - 1 :: passes]
        step = statistics.median(after - before for before, after in pairwise(ends[WARMUP - 1 :]))
        per_frame = (self._frames[-1] - self._frames[0]) / (len(self._frames) - 1) if self._frames else 0.0
        frames = sum(data.val_set.lengths) if data.val_set is not None else 0
        row = {
            "stage": Path(trainer.default_root_dir).name,
            "batch": f"{data.batch_size} x {data.clip_length} x {data.crop}²",
            "objects": data.max_objects,
            "memory": _memory(pl_module),
            "step": step,
            "steps": trainer.max_steps,
            "frame": per_frame,
            "frames": frames,
            "seconds": step * trainer.max_steps + self._validations * per_frame * frames / trainer.world_size,
        }
        if not trainer.is_global_zero:
            return
        rows = [*(json.loads(self.output.read_text()) if self.output.exists() else []), row]
        with unfinished(self.output) as beside:
            beside.write_text(json.dumps(rows))
        if self.table:
            Console().print(summary(rows))


def fullest(batch: ClipBatch, objects: int) -> ClipBatch:
    """The same clips with ``objects`` objects each, all seen in every frame: upright stripes beside the background."""
    width = batch.masks.shape[-1]
    stripes = torch.arange(width, device=batch.masks.device) * (objects + 1) // width
    return ClipBatch(
        batch.frames,
        stripes.to(batch.masks.dtype).expand_as(batch.masks).contiguous(),
        torch.full_like(batch.num_objects, objects),
        objects,
    )


def summary(rows: list[dict[str, Any]]) -> Table:
    """The figures of the stages and the hours of all."""
    table = Table(title="dry run", caption="every mask of the validation set was read: no stray label")
    table.add_column("stage")
    for name in ("clips x frames x size", "objects", "memory", "s/step", "steps", "s/frame", "frames", "hours"):
        table.add_column(name, justify="right")
    for row in rows:
        figures = (f"{row['memory'] / 2**30:.1f} GiB", f"{row['step']:.2f}", str(row["steps"]))
        cells = (*figures, f"{row['frame']:.3f}", str(row["frames"]), _hours(row["seconds"]))
        table.add_row(row["stage"], row["batch"], str(row["objects"]), *cells)
    table.add_section()
    table.add_row("all", *[""] * 7, _hours(sum(row["seconds"] for row in rows)), style="bold")
    return table


def _hours(seconds: float) -> str:
    return f"{timedelta(seconds=round(seconds)) / timedelta(hours=1):.1f}"


def _memory(pl_module: LightningModule) -> int:
    """Peak, bytes: of the GPU, or of this process and its largest loader."""
    if pl_module.device.type == "cuda":
        return torch.cuda.max_memory_allocated(pl_module.device)
    return 1024 * sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
