"""Whether a video file is all there, where its demuxer takes what is left for the whole."""

from __future__ import annotations

import struct
from pathlib import Path

from datamodules.patient_file import open_patiently

_EBML, _SEGMENT = bytes.fromhex("1A45DFA3"), bytes.fromhex("18538067")
_FLV_SIZE = b"\0\x08filesize\0"  # the entry of the table at the beginning, before a double
_TS_PACKETS = (188, 192, 204)  # bytes: plain, with time codes, with error correction


def is_cut_off(path: Path, kind: str) -> bool:
    """Whether the end is missing.

    A file that was never finished, as of a recorder that was switched off, states no length and counts as whole.

    Args:
        path: the file, which is read patiently.
        kind: what FFmpeg calls its format, such as ``matroska,webm``.
    """
    size = path.stat().st_size
    if kind == "mpegts":
        return all(size % length for length in _TS_PACKETS)
    with open_patiently(path) as file:
        if kind == "gif":
            file.seek(max(0, size - 64))
            return not file.read().rstrip(b"\0").endswith(b";")
        head = file.read(4096)
    if kind == "flv":
        at = head.find(_FLV_SIZE) + len(_FLV_SIZE)
        return at >= len(_FLV_SIZE) and len(head) >= at + 8 and struct.unpack_from(">d", head, at)[0] > size
    return "matroska" in kind and _matroska_end(head) > size


def _matroska_end(head: bytes) -> int:
    """Where the segment ends, which holds everything, bytes from the beginning; 0 if the file does not say."""
    at = 0
    for name in (_EBML, _SEGMENT):
        if head[at : at + 4] != name or at + 4 >= len(head) or not head[at + 4]:
            return 0
        width = 9 - head[at + 4].bit_length()  # the number of leading zeros says how many bytes the length has
        number = int.from_bytes(head[at + 4 : at + 4 + width], "big") - (1 << 7 * width)
        at += 4 + width
        if name == _EBML:
            at += number
    return 0 if number == (1 << 7 * width) - 1 else at + number
