"""What lies in a folder and on a list, as people have them: no litter, links followed, nothing dropped in silence."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.frame_names import natural, odd_one, twice
from datamodules.images import IMAGE_SUFFIXES
from lightning_vos.names import component

# Pictures that are not read here. They are refused: a clip without some of its frames is another clip.
FOREIGN = (".webp", ".tif", ".tiff", ".gif", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".exr", ".dng", ".tga", ".ppm")
LITTER = ("Thumbs.db", "ehthumbs.db", "desktop.ini", "__MACOSX", "@eaDir")  # beside all that is hidden
_NAMED = 3  # files that a warning names


def visible(folder: Path) -> list[Path]:
    """All in a folder but hidden files and what systems leave there, in natural order; links as what they lead to."""
    there = (path for path in folder.iterdir() if not path.name.startswith(".") and path.name not in LITTER)
    return sorted(there, key=lambda path: natural(path.name))


def folders(folder: Path) -> list[Path]:
    """The folders in a folder, and links to some.

    Raises:
        FileNotFoundError: a link leads nowhere.
    """
    return [_there(path) for path in visible(folder) if path.is_dir() or not path.exists()]


def walk(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """All files below a folder, in natural order; links are followed, but not round in a circle.

    Raises:
        FileNotFoundError: a link leads nowhere.
    """
    above = above or (folder.resolve(),)
    for path in visible(folder):
        if not _there(path).is_dir():
            yield path
        elif (real := path.resolve()) not in above:
            yield from walk(path, (*above, real))


def pictures(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[Path]:
    """The pictures in a folder, in natural order; a warning names other files.

    Raises:
        FileNotFoundError: a link leads nowhere.
        ValueError: there are pictures of a format that is not read.
    """
    inside = visible(folder)
    found = [_there(path) for path in inside if path.suffix.lower() in suffixes]
    others = [path for path in inside if path.suffix.lower() not in suffixes]
    if foreign := [path for path in others if path.suffix.lower() in (*FOREIGN, *IMAGE_SUFFIXES)]:
        raise ValueError(
            f"{foreign[0]}: a {foreign[0].suffix} picture ({len(foreign)} of {len(inside)} files), only "
            f"{', '.join(suffix[1:] for suffix in suffixes)} are read; save it as png, or move it elsewhere"
        )
    if found:
        left_aside(folder, others)
    return found


def left_aside(folder: Path, others: Sequence[Path]) -> None:
    """Say which files of a folder are not used."""
    if others:
        names = ", ".join(path.name for path in others[:_NAMED])
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        rank_zero_warn(f"{folder}: left aside, as it is none of the pictures or videos: {names}{more}")


def check_order(paths: Sequence[Path]) -> None:
    """Refuse frames whose order in time is not plain.

    Args:
        paths: of one clip.

    Raises:
        ValueError: two files of one frame, or names of different kinds.
    """
    stems = [path.stem for path in paths]
    by_stem = dict(zip(stems, paths, strict=True))
    if len(by_stem) < len(paths):
        path = next(path for path in paths if by_stem[path.stem] is not path)
        raise ValueError(f"{path}: {by_stem[path.stem].name} has the same name; keep one of the two")
    if same := twice(stems):
        raise ValueError(f"{by_stem[same[0]]}: {by_stem[same[1]].name} has the same number; keep one of the two")
    if (odd := odd_one(stems)) is not None:
        other = next(path for path in paths if path.stem != odd)
        raise ValueError(
            f"{by_stem[odd]}: named in another way than {other.name}, so its place in time is unclear; rename it, or "
            "move it elsewhere if it is no frame"
        )


def names_on(path: Path) -> list[str]:
    """The names on a list, one a line; blank lines do not count.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: it is not UTF-8 text, or a name cannot be that of a folder, or is there twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text; save the list as UTF-8, with one name a line") from error
    names: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not (text := line.strip()):
            continue
        if (first := names.setdefault(component(text, f"{path}, line {number}"), number)) != number:
            raise ValueError(f"{path}, line {number}: {text} is on line {first} as well; remove one of the two")
    return list(names)


def name_of(path: Path) -> str:
    """What a file or folder is called where it lies: a link has its own name, ``.`` that of the folder."""
    return os.path.basename(os.path.abspath(path))


def video_name(path: Path) -> str:
    """What a video is called: a folder of frames as it is, a file without its suffix."""
    return name_of(path) if path.is_dir() else path.stem


def _there(path: Path) -> Path:
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(
            f"{path}: a link to {os.readlink(path)}, where nothing is; restore it or remove the link"
        )
    return path
