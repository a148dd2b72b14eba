"""What the names of frames say: their order, and which other names mean the same frame."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def natural(name: str) -> list[tuple[int, str]]:
    """Sorting key, the one order of this project: runs of digits by their value, so that ``frame_10`` is after 9."""
    return [(int(part), part) if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def frame_numbers(names: Sequence[str]) -> list[int] | None:
    """The number of each frame, if the names are alike but for it; ``None`` otherwise: ``frame_2, frame_10`` 2, 10."""
    parts = [re.fullmatch(r"(.*?)(\d+)(\D*)", name) for name in names]
    if len({part and (part[1], part[3]) for part in parts}) != 1 or None in parts:
        return None
    return [int(part[2]) for part in parts if part is not None]


def odd_one(names: Sequence[str]) -> str | None:
    """A name of another kind than the first, where digits give the order: its place in time is unclear."""
    kinds = [re.sub(r"\d+", "#", name) for name in names]
    if not any("#" in kind for kind in kinds):
        return None
    common = max(set(kinds), key=lambda kind: (kinds.count(kind), kind))
    return next((name for name, kind in zip(names, kinds, strict=True) if kind != common), None)


def twice(names: Iterable[str]) -> tuple[str, str] | None:
    """Two names of the same frame, such as ``7`` and ``00007``; ``None`` if there are none."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(_plain(name), name)
        if other != name:
            return other, name
    return None


class FrameNames:
    """Finds the frames of a video by name.

    Args:
        names: of all frames, in order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._exact = {name: t for t, name in enumerate(names)}
        self._plain = {_plain(name): t for t, name in enumerate(names)}
        found = frame_numbers(names)
        self._numbers = {} if found is None else {number: t for t, number in enumerate(found)}

    def has(self, name: str) -> bool:
        """Whether a frame has the very name."""
        return name in self._exact

    def find(self, name: str) -> int | None:
        """Number of the frame called ``name``: the very name, or else the same number (7 for 00007 and ``a_07``)."""
        if name in self._exact:
            return self._exact[name]
        if (t := self._plain.get(_plain(name))) is not None:
            return t
        return self._numbers.get(int(name)) if name.isdecimal() else None


def frame_number(name: str, names: Sequence[str]) -> int | None:
    """Number of the frame called ``name``, see :meth:`FrameNames.find`; ``None``: there is no such frame."""
    return FrameNames(names).find(name)


def _plain(name: str) -> str:
    return re.sub(r"\d+", lambda digits: str(int(digits[0])), name)
