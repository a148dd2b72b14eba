"""Two processes of which one is stopped, or loses its loaders: both end, with the status to start them again."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
from pathlib import Path

import pytest
from lightning import LightningModule, Trainer
from tiny_runs import commands, in_a_process, small_model, tiny, training, write_tiny_demo
from torch import Tensor

from lightning_vos.checkpoint import read_checkpoint
from lightning_vos.frame_callback import FrameCallback
from lightning_vos.passing import AGAIN
from lightning_vos.video import Video

pytestmark = pytest.mark.slow


class Fault(FrameCallback):
    """On rank 1: its loader's processes are killed after step 6; or it is told to stop amid a video after step 4."""

    def __init__(self, what: str) -> None:
        self.what = what

    def on_train_batch_end(self, trainer: Trainer, *args: object, **kwargs: object) -> None:
        if self.what == "worker" and trainer.global_step == 6 and trainer.global_rank == 1:
            for worker in multiprocessing.active_children():
                worker.kill()

    def on_frame_end(
        self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int, frame: Tensor, labels: Tensor
    ) -> None:
        if self.what == "signal" and trainer.global_rank == 1 and t == 2:
            os.kill(os.getpid(), signal.SIGUSR1)


@pytest.mark.parametrize("what", ["worker", "signal"])
def test_both_ranks_end_with_the_same_status(what: str, tmp_path: Path) -> None:
    demo, out = write_tiny_demo(tmp_path / "data"), tmp_path / "run"
    (command,) = commands("video", "METHOD=remn", "DATA=demo")
    args = [*command, *small_model("remn"), *tiny(demo, out, 40), *training(), "--trainer.devices=2"]
    args += ["--data.num_workers=1", "--trainer.val_check_interval=4", "--trainer.callbacks+=test_faults.Fault"]
    args += [f"--trainer.callbacks.what={what}"]
    ended = in_a_process(args)
    assert ended.returncode == AGAIN, ended.stderr
    assert "Traceback" not in ended.stderr
    assert re.search(r"^error: .*; this may pass, and the same command goes on$", ended.stderr, re.MULTILINE)
    assert read_checkpoint(str(out / "checkpoints/last.ckpt"))["global_step"] == 4
    assert not list(out.rglob(".*"))
