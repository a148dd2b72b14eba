"""Files of ``torch.save`` that are known to be as they were written.

Such a file is a zip whose checksums nobody looks at when it is loaded, and which leave out headers and padding. So one
checksum of the whole file is written into the zip's comment, where other readers ignore it.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import torch

_NAME = b"whole file but for this comment: crc32 "
_LENGTH = len(_NAME) + 8
_CHUNK = 1 << 20  # bytes


def save(content: Any, path: str | Path) -> None:
    """``torch.save``, with a checksum of the whole file.

    Raises:
        OSError: the file cannot be written; maybe as the cause of an error of torch.
    """
    with Path(path).open("w+b") as file:
        torch.save(content, file)
        file.seek(-2, os.SEEK_END)  # the length of the comment, 0 so far
        file.write(_LENGTH.to_bytes(2, "little"))
        crc = _crc(file)
        file.write(_NAME + f"{crc:08x}".encode())


def check(path: str | Path) -> None:
    """Refuse a file that is not as it was written; one by others is read against the zip's own checksums.

    What is no zip is left to whoever reads it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: bytes have changed.
    """
    with Path(path).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LENGTH))
        comment = file.read()
        if comment.startswith(_NAME):
            whole = comment == _NAME + f"{_crc(file, size - _LENGTH):08x}".encode()
        else:
            file.seek(0)
            if file.read(2) != b"PK":
                return
            try:
                with zipfile.ZipFile(file) as archive:
                    whole = not archive.comment and archive.testzip() is None
            except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
                raise ValueError(f"its checksums cannot be read: {error}") from error
    if not whole:
        raise ValueError("its checksum is not that of its content")


def _crc(file: BinaryIO, size: int | None = None) -> int:
    """Of the first ``size`` bytes, or of all; what follows them is read or written next."""
    file.seek(0)
    crc, left = 0, size
    while chunk := file.read(_CHUNK if left is None else min(_CHUNK, left)):
        crc = zlib.crc32(chunk, crc)
        left = None if left is None else left - len(chunk)
    return crc
