"""What a name from a foreign file may be."""

from __future__ import annotations

from pathlib import Path, PurePosixPath


def component(name: object, where: str) -> str:
    """A name that becomes one folder or file.

    Args:
        name: as a foreign file gives it.
        where: the file and the entry, for the message.

    Returns:
        The name, as text.

    Raises:
        ValueError: it is no text, empty, hidden, or leads to another folder.
    """
    if not isinstance(name, str):
        raise ValueError(f"{where}: the name {name!r} is no text; correct it")
    if not name.strip() or name.startswith(".") or any(c in name for c in "/\\\0") or not name.isprintable():
        raise ValueError(f"{where}: the name {name!r} cannot be that of a folder or file; rename it")
    return name


def below(root: str | Path, name: object, where: str) -> Path:
    """A path that a foreign file names, which must lie below a folder.

    Args:
        root: the folder; links in it are followed, wherever they lead.
        name: relative, with ``/`` between its parts.
        where: the file and the entry, for the message.

    Raises:
        ValueError: it is no text, or leads out of the folder.
    """
    if not isinstance(name, str) or not name.strip("/. ") or "\0" in name:
        raise ValueError(f"{where}: the path {name!r} names no file; correct it")
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise ValueError(f"{where}: the path {name!r} leads out of {root}; give one below it")
    return Path(root, *path.parts)
