"""The prediction that the page starts: ``python -m lightning_vos predict`` in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, NamedTuple

_STOPPED = (-15, 143)  # by SIGTERM, before and after it is caught


class Ended(NamedTuple):
    """How a prediction ended.

    Attributes:
        stopped: it was asked to.
        problem: what went wrong, in one line; empty if nothing did.
    """

    stopped: bool
    problem: str


class Propagation:
    """Runs predictions one after another; each has a process, so a crash of it is no crash of the page.

    The process of the next one has already imported everything when it is needed, which saves some seconds.

    Args:
        words: of the command line, from ``predict`` on.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = [*words]
        self._running: _Worker | None = None
        self._next: _Worker | None = None

    @property
    def running(self) -> bool:
        """Whether a prediction has been started and its end not been told."""
        return self._running is not None

    def prepare(self) -> None:
        """Let the process of the next prediction import what it needs."""
        if self._next is None:
            self._next = _Worker()

    def start(self, *options: str) -> None:
        """Start a prediction with further options.

        Raises:
            RuntimeError: one is running.
        """
        if self._running is not None:
            raise RuntimeError("a prediction is running")
        worker = self._next if self._next is not None and self._next.process.poll() is None else _Worker()
        self._next = None
        worker.begin([*self.words, *options])
        self._running = worker

    def stop(self) -> None:
        """Ask the running prediction to end; what it has written stays."""
        if self._running is not None:
            self._running.process.terminate()

    def ended(self) -> Ended | None:
        """How the running prediction ended, told once; ``None`` while it runs, and if there is none."""
        if self._running is None or (status := self._running.process.poll()) is None:
            return None
        problem = "" if status == 0 or status in _STOPPED else self._running.problem()
        self._running.close()
        self._running = None
        self.prepare()
        return Ended(status in _STOPPED, problem)

    def close(self) -> None:
        """End all processes and wait for them."""
        for worker in (self._running, self._next):
            if worker is not None:
                worker.process.terminate()
                try:
                    worker.process.wait(20)
                except subprocess.TimeoutExpired:
                    worker.process.kill()
                    worker.process.wait()
                worker.close()
        self._running = self._next = None


class _Worker:
    """See :mod:`experiments.annotate.worker`."""

    def __init__(self) -> None:
        self.said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  as long as the process
        # a session of its own: Ctrl-C in the terminal is for the server, which then ends it
        self.process = subprocess.Popen(
            [sys.executable, "-m", "experiments.annotate.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self.said,
            start_new_session=True,
        )

    def begin(self, words: list[str]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words).encode() + b"\n")
        self.process.stdin.flush()

    def problem(self) -> str:
        """The line that says what went wrong, else the last one."""
        self.said.seek(0)
        lines = [line.strip() for line in self.said.read().decode(errors="replace").splitlines() if line.strip()]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return (errors or lines or [f"the prediction ended with status {self.process.returncode}"])[-1]

    def close(self) -> None:
        self.said.close()
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()
