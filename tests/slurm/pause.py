"""A callback that holds a job at a step until it is signalled, so that a test can hit it at a known moment."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from callbacks import LastCheckpoint


class Pause(Callback):
    """Waits after step ``VOS_TEST_PAUSE`` of a job's first start for a signal; its id is in ``paused-<rank>``."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step != int(os.environ.get("VOS_TEST_PAUSE", 0)) or "SLURM_RESTART_COUNT" in os.environ:
            return
        (saving,) = (c for c in trainer.checkpoint_callbacks if isinstance(c, LastCheckpoint))
        (Path(trainer.default_root_dir) / f"paused-{trainer.global_rank}").write_text(str(os.getpid()))
        end = time.monotonic() + 3600
        while saving._signal is None and time.monotonic() < end:
            time.sleep(0.1)
