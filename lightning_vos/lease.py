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
    """

    def __init__(self, folder: str | Path, purpose: str) -> None:
        self.path = Path(folder).absolute() / ".owner.json"
        self.purpose = purpose
        self._token = secrets.token_hex(8)
        self._over = threading.Event()
        self._renewal: threading.Thread | None = None
        self._made: Path | None = None

    @property
    def folder(self) -> Path:
        """What is owned."""
        return self.path.parent

    @property
    def lost(self) -> bool:
        """Whether another process has taken the folder over, as this one was stopped for long: do not write to it."""
        with suppress(OSError):  # a file server that is away for a moment takes nothing over
            owner = _read(self.path)
            return owner is not None and owner.get("token") != self._token
        return False

    def look(self) -> None:
        """Refuse a folder that is another's now, without becoming its owner.

        Raises:
            FolderInUse: it is.
        """
        owner = _read(self.path)
        if owner is not None:
            self._refuse(owner)

    def acquire(self) -> None:
        """Become the owner.

        Raises:
            FolderInUse: another process is.
            OSError: the folder cannot be written to.
        """
        content = json.dumps({"token": self._token, "purpose": self.purpose, **_this_process()})
        self._made = None if self.folder.exists() else self.folder
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                with self.path.open("x", encoding="utf-8") as file:
                    file.write(content)
                break
            except FileExistsError:
                owner = _read(self.path)
                if owner is None:
                    continue  # it was released in between
                self._refuse(owner)
                beside = self.path.with_name(f".owner.{self._token}")
                beside.write_text(content, encoding="utf-8")
                os.replace(beside, self.path)
                time.sleep(SETTLED_AFTER)
                if (_read(self.path) or {}).get("token") == self._token:
                    break
            except FileNotFoundError:
                continue  # an owner that has made the folder has removed it
        self._over.clear()
        self._renewal = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._renewal.start()
        _held.append(self)

    def release(self) -> None:
        """Leave the folder to others; one that was made for the lease and is still empty goes with it."""
        self._over.set()
        if self._renewal is None:
            return
        self._renewal = None
        _held.remove(self)
        with suppress(OSError):
            if (_read(self.path) or {}).get("token") == self._token:
                self.path.unlink()
                if self._made is not None:
                    self._made.rmdir()

    def check(self) -> None:
        """Refuse to write to a folder that another process has taken over.

        Raises:
            FolderInUse: naming it.
        """
        if self.lost:
            raise FolderInUse(
                f"{self.folder}: taken over by {_named(_read(self.path) or {})}, as this process was silent for too "
                "long; it writes nothing more there"
            )

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
        while not self._over.wait(RENEWED_EVERY) and not self.lost:
            with suppress(OSError):
                os.utime(self.path)

    def _refuse(self, owner: dict[str, Any]) -> None:
        if not self._is_stale(owner):
            message = f"{self.folder}: in use by {_named(owner)}; wait for it, stop it, or choose another folder"
            raise FolderInUse(message) from None

    def _is_stale(self, owner: dict[str, Any]) -> bool:
        me = _this_process()
        if owner.get("job") and owner["job"] == me["job"] and owner.get("restarts") != me["restarts"]:
            return True  # an earlier life of this job, maybe on another node
        if me["machine"] and owner.get("machine") == me["machine"]:
            return _started(owner.get("pid")) != owner.get("started")
        # The age by the clock of the server that holds the file, not by that of this machine.
        probe = self.path.with_name(f".owner.{self._token}")
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
        with suppress(FileNotFoundError):
            return now - self.path.stat().st_mtime > STALE_AFTER
        return True


_held: list[Lease] = []  # of this process, and in a fork those of its parent


def check_owned(path: str | Path) -> None:
    """Refuse to write to a file below a folder that this process has owned and lost.

    Raises:
        FolderInUse: naming the process that has taken it over.
    """
    path = Path(path).absolute()
    for lease in _held:
        if path.is_relative_to(lease.folder):
            lease.check()


def _this_process() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "machine": machine(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "job": os.environ.get("SLURM_JOB_ID"),
        "restarts": os.environ.get("SLURM_RESTART_COUNT"),
    }


def machine() -> str | None:
    """Within what the numbers of processes mean the same: a machine since it runs, and a container on it."""
    with suppress(OSError):
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    return None


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
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _named(owner: dict[str, Any]) -> str:
    if "pid" not in owner:
        return "another process"
    job = f", Slurm job {owner['job']}" if owner.get("job") else ""
    return f"process {owner['pid']} on {owner.get('host')}{job} ({owner.get('purpose')})"
