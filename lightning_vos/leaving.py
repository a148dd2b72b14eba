"""How the processes of a run end together when one of them does, with the exit status that says why."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from types import FrameType

import torch.distributed
from lightning import Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from lightning_vos.passing import AGAIN, passes

_ZERO_LEAVES = 10.0  # seconds that rank zero is given to close its logs
_OTHER_ENDS = 3.0  # seconds in which a rank that made this one fail has ended


def end_together(trainer: Trainer, error: BaseException) -> None:
    """Called when this rank ends with an error: the others, which wait for it, must not wait for ever.

    Slurm ends the others itself; Lightning's launcher, by which rank zero has started them, is told to. Both kill rank
    zero once another one has failed, so that one closes its connections and lets rank zero leave first.

    Raises:
        SystemExit: with the status of the rank that failed, where this one only lost its connection to it.
    """
    _end_loaders()
    launcher = trainer.strategy.launcher
    if trainer.world_size == 1 or not isinstance(launcher, _SubprocessScriptLauncher):
        return
    if launcher.procs:
        status = 0
        end = time.monotonic() + _OTHER_ENDS
        while passes(error) and not status and time.monotonic() < end:
            time.sleep(0.05)
            # one that was killed has a negative status: that may pass
            status = max((p.poll() or 0 for p in launcher.procs), default=0)
        launcher.kill(signal.SIGKILL)
        if status not in (0, AGAIN):
            raise SystemExit(status) from error
    elif not trainer.is_global_zero and (passes(error) or getattr(error, "code", 0) == AGAIN):
        _let_rank_zero_leave()


def _end_loaders() -> None:
    """End the loaders' processes: they ignore SIGTERM, and the interpreter would wait for them for ever."""
    if threading.current_thread() is not threading.main_thread():
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch raises an error when one of them dies
    for process in multiprocessing.active_children():
        process.kill()
        process.join()
    signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


def leave(number: int, frame: FrameType | None) -> None:
    """Handle a signal by ending as it would have ended the process, but with everything closed.

    Raises:
        SystemExit: 128 and the number of the signal.
    """
    raise SystemExit(128 + number)


def _let_rank_zero_leave() -> None:
    """Close the connections of this rank, which ends those that wait for it, and give rank zero time to end in order.

    Launchers kill it when they see that this one has ended.
    """
    if torch.distributed.is_initialized() and torch.distributed.get_backend() == "gloo":
        torch.distributed.destroy_process_group()
    time.sleep(_ZERO_LEAVES)
