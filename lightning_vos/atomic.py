"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_vos.lease import check_owned, machine

_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up", errno.EFBIG: "the file is too large"}
_PLACE = f"{zlib.crc32(f'{socket.gethostname()} {machine()}'.encode()):08x}"  # processes elsewhere have other ones


@contextmanager
def unfinished(path: str | Path, durable: bool = False) -> Iterator[Path]:
    """A name beside ``path`` to write to: whoever reads ``path`` sees the old file or the whole new one.

    Makes the folder. When writing fails, nothing is left.

    Args:
        path: the file.
        durable: wait until the content is on the disk, so that the machine may be switched off at any time.

    Raises:
        FolderInUse: another process has taken over a folder that this one has owned; nothing is written.
        OSError: the disk is full, in one line that names the file.
    """
    path = Path(path)
    check_owned(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{_PLACE}-{os.getpid()}")
    try:
        yield beside
        if durable:
            with beside.open("rb") as file:
                os.fsync(file.fileno())
        check_owned(path)
        os.replace(beside, path)
    except Exception as error:
        full = _full(error)
        if full is None:
            raise
        raise OSError(
            full.errno, f"not written, {_FULL[full.errno or 0]}; make room and start again", str(path)
        ) from error
    finally:
        beside.unlink(missing_ok=True)


def _full(error: BaseException | None) -> OSError | None:
    """What the system said, which libraries replace by errors of their own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return error
        error = error.__cause__ or error.__context__
    return None
