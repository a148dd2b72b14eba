"""JSON of strangers: what is not as it should be is named with its file and entry."""

from __future__ import annotations

import json
import math
import reprlib
from pathlib import Path
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is something else.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file ({error}); write it anew") from error


def table(value: object, where: str) -> dict[str, Any]:
    """An object with named fields.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{where}: {shown(value)} where an object {{...}} should be; correct it")
    return value


def array(value: object, where: str) -> list[Any]:
    """A list.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, list):
        raise ValueError(f"{where}: {shown(value)} where a list should be; correct it")
    return value


def whole(value: object, where: str, least: int, most: int) -> int:
    """A whole number from ``least`` to ``most``.

    Raises:
        ValueError: it is something else.
    """
    if type(value) is not int or not least <= value <= most:  # true and false are numbers to Python
        raise ValueError(f"{where}: {shown(value)} where a whole number from {least} to {most} should be; correct it")
    return value


def number(value: object, where: str) -> float:
    """A finite number that is not negative.

    Raises:
        ValueError: it is something else.
    """
    if type(value) not in (int, float) or not 0 <= value < math.inf:  # type: ignore[operator]
        raise ValueError(f"{where}: {shown(value)} where a number from 0 should be; correct it")
    return value  # type: ignore[return-value]


def identifier(value: object, where: str) -> int | str:
    """What tells entries apart: a whole number, or text.

    Raises:
        ValueError: it is something else.
    """
    if type(value) not in (int, str):
        raise ValueError(f"{where}: {shown(value)} where an id should be, a whole number or text; correct it")
    return value  # type: ignore[return-value]


def shown(value: object) -> str:
    """A value for a message, cut where it is long."""
    return _SHORT.repr(value)
