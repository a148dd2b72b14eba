"""What every command line of ours has in common: ``~`` in what it is given, and letters in what it prints."""

from __future__ import annotations

import io
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from typing import Any


def each_text(value: Any, change: Callable[[str], str]) -> Any:
    """Change every text of a configuration: sections and lists in place; anything else is left as it is."""
    if isinstance(value, str):
        return change(value)
    section = vars(value) if isinstance(value, Namespace) else value
    if isinstance(section, dict):
        section.update({name: each_text(part, change) for name, part in section.items()})
    elif isinstance(section, list):
        section[:] = [each_text(part, change) for part in section]
    return value


def at_home(word: str) -> str:
    """A word with ``~`` at its start, or at that of its value, as the user's folder.

    A shell does this only for a word of its own, not for the value in ``--data.root=~/sets``.
    """
    name, equals, value = word.partition("=")
    return f"{name}={os.path.expanduser(value)}" if equals else os.path.expanduser(word)


def print_any_letter() -> None:
    r"""Let standard output show what its encoding lacks as ``\xe9``, as standard error does, rather than fail."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
