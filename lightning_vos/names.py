"""What a name from a foreign file may be."""

from __future__ import annotations

import unicodedata
from pathlib import Path, PureWindowsPath

LONGEST = 240  # bytes; file systems allow 255, and names get endings such as .json


def component(name: object, where: str) -> str:
    """A name that becomes one folder or file.

    Args:
        name: as a foreign file gives it.
        where: the file and the entry, for the message.

    Returns:
        The name, as text.

    Raises:
        ValueError: it is no text, empty, hidden, too long, has control characters, or leads to another folder.
    """
    if not isinstance(name, str):
        raise ValueError(f"{where}: the name {_shown(name)} is no text; correct it")
    if not name.strip() or name.startswith(".") or "/" in name or "\\" in name or not _can_be_written(name):
        raise ValueError(f"{where}: the name {_shown(name)} cannot be that of a folder or file; rename it")
    return name


def below(root: str | Path, name: object, where: str) -> Path:
    r"""A path that a foreign file names, which must lie below a folder.

    Args:
        root: the folder; links in it are followed, wherever they lead.
        name: relative, with ``/`` or ``\`` between its parts.
        where: the file and the entry, for the message.

    Raises:
        ValueError: it is no text, cannot be a path, or leads out of the folder.
    """
    if not isinstance(name, str) or not name.strip("/\\. "):
        raise ValueError(f"{where}: the path {_shown(name)} names no file; correct it")
    path = PureWindowsPath(name)  # knows both strokes, and C:
    if path.drive or path.root or ".." in path.parts:
        raise ValueError(f"{where}: the path {_shown(name)} leads out of {root}; give one below it")
    if not all(map(_can_be_written, path.parts)):
        raise ValueError(f"{where}: the path {_shown(name)} cannot be that of a file; rename it")
    return Path(root, *path.parts)


def _can_be_written(name: str) -> bool:
    """Neither control characters, line ends nor halves of a character, and not too long."""
    return (
        not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name)
        and len(name.encode()) <= LONGEST
    )


def _shown(name: object) -> str:
    text = ascii(name) if isinstance(name, str) and not name.isprintable() else repr(name)
    return text if len(text) <= 80 else f"{text[:80]}..."
