"""The bytes of a movie file, as FFmpeg asks for them: read patiently, and those of no other file."""

from __future__ import annotations

import errno
import gc
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av

from datamodules.patient_file import open_patiently

REPACK = "write it anew, such as with: ffmpeg -i <it> -pix_fmt yuv420p new.mp4"
_READ_AT_ONCE = 1 << 17  # bytes

# A decoder that nobody holds any more waits for the garbage collector. Where that runs in a forked process, as a
# loader's is, FFmpeg would wait for ever for threads that are not there: what a process inherits, it leaves alone.
os.register_at_fork(after_in_child=gc.freeze)


class MovieSource:
    """A file that FFmpeg has opened, :attr:`container`; to be closed.

    FFmpeg takes a file that cannot be read for one that ends there, and PyAV prints what is raised within it: so what
    goes wrong in there is kept until FFmpeg has returned, and raised by :meth:`reading`. Some formats are lists of
    other files, of any name and on any server: without a protocol it opens none.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be read.
        PassingFault: at several tries, for a reason that may pass.
        ValueError: it is not a video.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bytes = _Bytes(path)
        try:
            with self.reading("not a readable video"):
                self.container = av.open(
                    self._bytes,
                    "r",
                    buffer_size=_READ_AT_ONCE,
                    options={"protocol_whitelist": ""},
                    metadata_errors="replace",
                )
        except BaseException:
            self._bytes.file.close()
            raise

    @property
    def failed(self) -> bool:
        """Whether it could not be read: then it must be opened anew."""
        return self._bytes.fault is not None

    @contextmanager
    def reading(self, doing: str) -> Iterator[None]:
        """Within it FFmpeg reads; ``doing`` is what is wrong with the file when it cannot."""
        try:
            yield
        except av.FFmpegError as error:
            self._check()
            raise ValueError(f"{self.path}: {doing} ({error.strerror}); {REPACK}") from error
        except ValueError:
            self._check()  # what was missing may be there the next time
            raise
        self._check()

    def close(self) -> None:
        """Close the file."""
        self.container.close()
        self._bytes.file.close()

    def __enter__(self) -> MovieSource:
        """Itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        self.close()

    def _check(self) -> None:
        if self._bytes.fault is not None:
            raise self._bytes.fault


class _Bytes:
    """What FFmpeg reads from."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)  # FFmpeg looks at its suffix
        self.file = open_patiently(path)
        self.fault: OSError | None = None

    def read(self, count: int) -> bytes:
        """At most so many bytes from where the file is; none where it ends or fails."""
        try:
            return b"" if self.fault else self.file.read(count)
        except OSError as error:
            self.fault = error
            return b""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place; it, or -1 where there is none or the file fails."""
        try:
            return -1 if self.fault else self.file.seek(offset, whence)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a place before the beginning, as FFmpeg asks for in a file without bytes
                self.fault = error
            return -1

    def tell(self) -> int:
        """Where the file is, in bytes."""
        return self.file.tell()
