"""A prediction in a process of its own that is killed amid a video, as by a power cut."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import torch
from conftest import small
from lightning import LightningModule, Trainer
from movie_files import predict

from callbacks import OverlayVideo
from lightning_vos.frame_callback import FrameCallback
from lightning_vos.video import Video

# Processes begin as copies of one that has imported everything and has no threads.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["power_cut", "lightning.pytorch.cli"])


class PowerCut(FrameCallback):
    """Kills before the given frame (counted from 1 over all passes), or when half of its mask has been written."""

    def __init__(self, frame: int, amid_mask: bool, by: signal.Signals = signal.SIGKILL) -> None:
        self.frame, self.amid_mask, self.by, self.seen = frame, amid_mask, by, 0

    def on_frame_start(self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int) -> None:
        self.seen += 1
        if self.seen == self.frame and not self.amid_mask:
            os.kill(os.getpid(), self.by)
        if self.seen == self.frame:
            Path.write_bytes = _half  # type: ignore[assignment, method-assign]


def _half(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(bytes(content)[: len(content) // 2])
    os.kill(os.getpid(), signal.SIGKILL)


def cut(
    method: str, out: Path, frame: int, amid_mask: bool = False, by: signal.Signals = signal.SIGKILL, **data: Any
) -> None:
    """Start ``predict(small(method), out, **data)`` anew and end it at a frame."""
    process = PROCESSES.Process(target=_predict, args=(method, out, PowerCut(frame, amid_mask, by), data))
    process.start()
    process.join(600)
    assert process.exitcode == (-by if by == signal.SIGKILL else 128 + by)


def _predict(method: str, out: Path, power_cut: PowerCut, data: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    predict(small(method), out, power_cut, OverlayVideo(), **data)
