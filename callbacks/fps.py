"""Speed of segmentation, measured so that somebody else can measure the same."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from callbacks.device import clock, device_name, peak_memory
from callbacks.evaluation_loop import stage_of
from callbacks.latency import LatencyTally, percentile
from lightning_vos.column import Column
from lightning_vos.frame_callback import FrameCallback
from lightning_vos.video import Video


class FPSLogger(FrameCallback):
    """Frames per second of segmentation alone, its latency, and its peak memory.

    Protocol:

    * Clock: ``time.perf_counter`` after ``torch.cuda.synchronize``, read when a frame lies on the device and again
      when its labels do.
    * Inside: padding, encoding, matching or memory reading, decoding, aggregation, up-sampling to the original
      resolution, argmax and memory writing, for all objects of the video.
    * Outside: image decoding, the copy to the device, scoring, writing PNGs and every other callback (this one moves
      itself to the front of the trainer's callbacks, so that none runs before its clock stops).
    * Counted: every frame of a video after the first. The first ``warmup_videos`` videos of an evaluation on a rank
      are not counted, unless that rank sees no others.

    Logged as ``val/...`` (in a test ``test/...``), equal on all ranks; nothing if nothing was measured:

    * ``FPS``: all ranks' frames / all ranks' busy seconds, that is, per GPU;
    * ``latency_p50_ms``, ``latency_p95_ms``: of all ranks' frames, from a histogram with bins 2 % wide (the value
      logged is a bin's middle, at most 1 % off);
    * ``objects_per_video``: mean over the counted videos;
    * ``peak_memory_MB`` (2**20 bytes): the largest over ranks of ``torch.cuda.max_memory_allocated`` during this
      evaluation; on a CPU of the process's resident set since it began.

    A figure means little without the card and the precision: rank zero's log has them beside it, and `setting` holds
    them. Numbers to publish come from one GPU that does nothing else, not from a validation in the midst of training.

    Args:
        warmup_videos: videos per rank and evaluation that are not counted.

    Attributes:
        setting: device and precision in words, once an evaluation has started.

    Raises:
        ValueError: if ``warmup_videos`` is negative.
    """

    columns: ClassVar[tuple[Column, ...]] = (
        Column("FPS", "FPS", "frames per second, all objects at once", digits=2),
        Column("latency_p50_ms", "p50 ms", "median latency of a frame, ms", better="lower"),
        Column("latency_p95_ms", "p95 ms", "95th percentile of the latency, ms", better="lower"),
        Column(
            "peak_memory_MB",
            "memory MiB",
            "peak memory: of the GPU, on a CPU of the process",
            digits=0,
            better="lower",
        ),
    )

    def __init__(self, warmup_videos: int = 1) -> None:
        if warmup_videos < 0:
            raise ValueError(f"warmup_videos={warmup_videos}: must not be negative")
        self.warmup_videos = warmup_videos
        self.setting = ""
        self._began: float | None = None
        self._reset()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move to the front of the callbacks, so that no other one's work falls inside the clock."""
        # A new list: the old one is being iterated over right now.
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        trainer.callbacks = [self, *(c for c in callbacks if c is not self)]  # type: ignore[attr-defined]

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last evaluation."""
        self._reset()
        self.setting = f"{device_name(pl_module.device)}, precision {trainer.precision}"
        if pl_module.device.type == "cuda" and not trainer.sanity_checking:
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_frame_start(self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int) -> None:
        """Start the clock."""
        if t == 0:
            self._videos += 1
        self._began = clock(pl_module.device)

    def on_frame_end(
        self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int, frame: Tensor, labels: Tensor
    ) -> None:
        """Stop the clock."""
        if self._began is None:
            raise ValueError(f"{video}: frame {t} ended without a start; call on_frame_start before each frame")
        seconds, self._began = clock(pl_module.device) - self._began, None
        if t == 0:
            return
        tally = self._warmup if self._videos <= self.warmup_videos else self._counted
        tally.add(seconds, len(video.object_ids) if t == 1 else None)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add up the ranks and log."""
        if trainer.sanity_checking:
            return
        tally = self._counted if float(self._counted.sums[0]) else self._warmup
        # Every rank comes here, also with nothing measured: its zeros change no sum.
        sums = trainer.strategy.reduce(tally.sums.to(pl_module.device), reduce_op="sum").cpu()
        histogram = trainer.strategy.reduce(tally.histogram.to(pl_module.device), reduce_op="sum").cpu()
        memory = torch.tensor(peak_memory(pl_module.device) / 2**20, dtype=torch.float64, device=pl_module.device)
        memory = trainer.strategy.reduce(memory, reduce_op="max")
        frames, seconds, videos, objects = sums.tolist()
        if not frames:
            return
        values = {
            "FPS": frames / seconds if seconds else math.inf,
            "latency_p50_ms": 1e3 * percentile(histogram, 0.50),
            "latency_p95_ms": 1e3 * percentile(histogram, 0.95),
            "objects_per_video": objects / videos if videos else math.nan,
            "peak_memory_MB": float(memory),
        }
        stage = stage_of(trainer)
        logged = {
            f"{stage}/{name}": torch.tensor(value, dtype=torch.float64, device=pl_module.device)
            for name, value in values.items()
        }
        # Equal on all ranks already; the maximum of equal values changes nothing.
        pl_module.log_dict(logged, sync_dist=True, reduce_fx="max", batch_size=1)
        rank_zero_info(
            f"{stage}: {values['FPS']:.1f} FPS per device ({self.setting}; {int(frames)} frames, "
            f"{values['objects_per_video']:.1f} objects per video)"
        )

    on_test_start = on_validation_start
    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end

    def _reset(self) -> None:
        self._videos = 0
        self._began = None
        self._warmup, self._counted = LatencyTally(), LatencyTally()
