"""Files on a server, or a disk, that fails for a moment."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from lightning_vos.passing import PASSING, PassingFault

PAUSES = (0.5, 2.0, 8.0)  # seconds before each further try
_BUFFER = 1 << 15  # bytes

Result = TypeVar("Result")


def open_patiently(path: Path) -> BinaryIO:
    """A file to read, that is opened anew and read again where this fails in a way that may pass.

    Raises:
        PassingFault: it failed at every try, here or in reading.
        OSError: as ``open`` says.
    """
    return io.BufferedReader(_PatientFile(path), _BUFFER)


class _PatientFile(io.RawIOBase):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.name = str(path)
        self._at = 0
        self._file: io.FileIO | None = None
        self._again_and_again(self._opened)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._again_and_again(lambda: self._opened().readinto(buffer))
        self._at += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = self._again_and_again(lambda: self._opened().seek(offset, whence))
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()

    def _opened(self) -> io.FileIO:
        if self._file is None:
            self._file = io.FileIO(self.name)
            self._file.seek(self._at)
        return self._file

    def _again_and_again(self, read: Callable[[], Result]) -> Result:
        for pause in (0.0, *PAUSES):
            if pause:  # a sleep of nothing still gives the core away, and every read comes here
                time.sleep(pause)
            try:
                return read()
            except OSError as error:
                if error.errno not in PASSING:
                    error.filename = self.name
                    raise
                last, self._file = error, None  # a handle that is stale stays so
        raise PassingFault(f"{self.name}: {last.strerror}, at every of {1 + len(PAUSES)} tries") from last
