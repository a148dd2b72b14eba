"""How a run is started: this process becomes it, or starts several in turn and hands signals on."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from types import FrameType
from typing import NoReturn

from lightning_vos.passing import AGAIN

ENVIRONMENT = {
    # albumentations would ask the network for a newer version; nothing here does without being told to
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "PYTHONUNBUFFERED": "1",
    # waiting threads spin for half a millisecond, then sleep: sleeping at once costs a fifth of a training step on two
    # cores, spinning for long slows training where loader processes share the cores
    "GOMP_SPINCOUNT": "30000",
}


def become(command: Sequence[str], **environment: str) -> NoReturn:
    """Print the command, then be it: signals and exit status are its own.

    Raises:
        OSError: there is no such program.
    """
    print(*(f"{name}={value}" for name, value in environment.items()), shlex.join(command), flush=True)
    os.execvpe(command[0], [*command], _environment(environment))


def in_turn(commands: Iterable[Sequence[str]]) -> int:
    """Run commands one after the other, until one fails or this process is asked to stop.

    SIGTERM, SIGHUP and SIGUSR1 are handed on. A terminal sends Ctrl-C to the running command too, so it is not: a
    second one would end a training at once, without saving.

    Returns:
        Status of the last command that ran; 75 if this process was asked to stop between two.
    """
    child: subprocess.Popen[bytes] | None = None
    asked: list[int] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if child is not None and number != signal.SIGINT:
            child.send_signal(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = {number: signal.signal(number, hand_on) for number in numbers}
    try:
        for command in commands:
            if asked:
                return AGAIN
            print(shlex.join(command), flush=True)
            child = subprocess.Popen(command, env=_environment({}))
            if asked:  # while it was being started
                child.send_signal(signal.SIGTERM)
            status = child.wait()
            child = None
            if status:
                return status if status > 0 else 128 - status
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return AGAIN if asked else 0


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    return {**ENVIRONMENT, **os.environ, **more}
