"""Who owns a folder: two processes that write to one would mix their files in silence.

The owner is named in a file of the folder and renews it as long as it lives. File locks alone are not to be trusted on
every network file system; creating a file exclusively, renaming and times of one server are.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

RENEWED_EVERY = 15.0  # seconds
STALE_AFTER = 120.0  # seconds without renewal after which an owner on another machine is given up
SETTLED_AFTER = 0.2  # seconds in which of several that take over a stale lease the last one is known


class FolderInUse(OSError):
    """The folder belongs to another process; the message names it."""


class Lease:
    """Ownership of a folder, from :meth:`acquire` to :meth:`release`, or as a context.

    A lease is stale, and taken over, when its process is gone (on the same machine), when it was renewed too long ago
    (on another one), or when it belongs to an earlier life of the same Slurm job.

    Args:
        folder: made if it is not there. The lease is its file ``.owner.json``.
        purpose: what the owner does there, for the message.

    Attributes:
        lost: another process has taken the folder over, as this one was stopped for long: do not write to it.
    """

    def __init__(self, folder: str | Path, purpose: str) -> None:
        self.path = Path(folder) / ".owner.json"
        self.purpose = purpose
        self.lost = False
        self._token = secrets.token_hex(8)
        self._over = threading.Event()
        self._renewal: threading.Thread | None = None

    def acquire(self) -> None:
        """Become the owner.

        Raises:
            FolderInUse: another process is.
            OSError: the folder cannot be written to.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"token": self._token, "purpose": self.purpose, **_this_process()})
        while True:
            try:
                with self.path.open("x", encoding="utf-8") as file:
                    file.write(content)
                break
            except FileExistsError:
                owner = _read(self.path)
                if owner is None:
                    continue  # it was released in between
                if not self._is_stale(owner):
                    raise FolderInUse(_refusal(self.path.parent, owner)) from None
                beside = self.path.with_name(f".owner.{self._token}")
                beside.write_text(content, encoding="utf-8")
                os.replace(beside, self.path)
                time.sleep(SETTLED_AFTER)
                if (_read(self.path) or {}).get("token") == self._token:
                    break
        self._renewal = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._renewal.start()

    def release(self) -> None:
        """Leave the folder to others."""
        self._over.set()
        if self._renewal is not None and not self.lost and (_read(self.path) or {}).get("token") == self._token:
            self.path.unlink(missing_ok=True)
        self._renewal = None

    def __enter__(self) -> Lease:
        """Acquire."""
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release."""
        self.release()

    def _renew(self) -> None:
        while not self._over.wait(RENEWED_EVERY):
            if (_read(self.path) or {}).get("token") != self._token:
                self.lost = True
                return
            with suppress(OSError):
                os.utime(self.path)

    def _is_stale(self, owner: dict[str, Any]) -> bool:
        me = _this_process()
        if owner.get("job") and owner.get("job") == me["job"] and owner.get("boot") != me["boot"]:
            return True  # an earlier life of this job, on another node
        if owner.get("boot") == me["boot"]:
            return _started(owner.get("pid")) != owner.get("started")
        if owner.get("host") == me["host"]:
            return True  # the machine has been started anew since
        # The age by the clock of the server that holds the file, not by that of this machine.
        probe = self.path.with_name(f".owner.{self._token}")
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
        with suppress(FileNotFoundError):
            return now - self.path.stat().st_mtime > STALE_AFTER
        return True


def _this_process() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "job": os.environ.get("SLURM_JOB_ID"),
    }


def _boot() -> str:
    """Which machine, and since when it runs."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def _started(pid: Any) -> str | None:
    """When a process of this machine started, in ticks; ``None`` if there is none: numbers are used again."""
    try:
        text = Path(f"/proc/{int(pid)}/stat").read_text()
    except (OSError, TypeError, ValueError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def _read(path: Path) -> dict[str, Any] | None:
    """The owner; ``None`` where there is no file; one that was cut off has no owner any more."""
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _refusal(folder: Path, owner: dict[str, Any]) -> str:
    job = f", Slurm job {owner['job']}" if owner.get("job") else ""
    return (
        f"{folder}: in use by process {owner.get('pid')} on {owner.get('host')}{job} ({owner.get('purpose')}); "
        "wait for it, stop it, or choose another folder"
    )
