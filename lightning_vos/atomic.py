"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def unfinished(path: str | Path, durable: bool = False) -> Iterator[Path]:
    """A name beside ``path`` to write to: whoever reads ``path`` sees the old file or the whole new one.

    Makes the folder. When writing fails, nothing is left.

    Args:
        path: the file.
        durable: wait until the content is on the disk, so that the machine may be switched off at any time.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        if durable:
            with beside.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
