"""A figure of an evaluation as tables show it: declared by what logs it, read by what compares evaluations."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Column(NamedTuple):
    """One figure.

    Attributes:
        key: name under which it is logged, without the stage.
        name: heading.
        meaning: one line for those who do not know it.
        scale: factor to the shown unit, 100 for per cent.
        digits: decimals shown.
        better: whether ``higher`` or ``lower`` is better.
    """

    key: str
    name: str
    meaning: str
    scale: float = 1
    digits: int = 1
    better: Literal["higher", "lower"] = "higher"
