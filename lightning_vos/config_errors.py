"""A mistake in the configuration in one line, where jsonargparse writes a screen of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import yaml

_HEADINGS = ("Does not validate", "Subtypes:", "Errors:", "Expected a path but")


def option_values(args: Sequence[str], *names: str) -> Iterator[tuple[int, str]]:
    """Values of an option on a command line, ``--name value`` and ``--name=value`` alike.

    Args:
        args: the command line.
        names: spellings of the option, such as ``--config`` and ``-c``.

    Yields:
        Index of the argument after the value, and the value.
    """
    for index, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name in names and equals:
            yield index + 1, value
        elif name in names and index + 1 < len(args):
            yield index + 2, args[index + 1]


def explain(message: str, args: Sequence[str], options: Iterable[str]) -> str:
    """Boil the parser's message down to the key, what is wrong with it, and what to do.

    Args:
        message: of the parser; possibilities that do not fit are nested in it by indentation, the likeliest one first.
        args: the command line, which names the configuration files.
        options: all options of the subcommand, such as ``--trainer.max_steps``.

    Returns:
        One line that starts with the option or with the file and its key.
    """
    files = [Path(value) for _, value in option_values(args, "--config", "-c")]
    if message.startswith("Problems parsing config"):
        return next(filter(None, map(_yaml_error, files)), " ".join(message.split()))
    names = [option.removeprefix("--") for option in options]
    if match := re.match(r"unrecognized arguments: (\S+)", message):
        return f"{match[1]}: no such option{_similar(match[1].partition('=')[0], [f'--{name}' for name in names])}"

    keys, owner, problem, value = _innermost(message)
    if match := re.match(r"(?:Group '(.+)' does not accept option|Option) '(.+?)'", problem):
        keys += [key for key in match.groups() if key]
        key = ".".join(keys)
        known = _parameters(owner) if owner else {name.rpartition(".")[2] for name in names}
        problem = f"{owner or 'there'} has no such option" if owner else "no such option"
        problem += _similar(keys[-1], known) or (f"; see --{keys[0]}.help={owner}" if owner else "; see --help")
        return f"{_origin(key, None, args, files)}: {problem}"
    if match := re.match(r"module '(.+)' has no attribute '(.+)'", problem):
        problem = f"there is no {match[1]}.{match[2]}; choose from {', '.join(_public(match[1]))}"
    elif value is not None:
        quoted = f"; write it in quotes: '{value}'" if f"'{value}'" in problem else ""
        problem = f"got {value}, {problem}{quoted}"
    return f"{_origin('.'.join(keys), value, args, files)}: {problem}" if keys else problem


def _innermost(message: str) -> tuple[list[str], str, str, str | None]:
    """Path of keys, class that was asked, the first complaint found there, and the value it is about."""
    keys: list[str] = []
    owner = ""
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    for number, line in enumerate(lines):
        if match := re.match(r'Parser key "(.+?)":\s*(.*)', line):
            keys.append(match[1])
            line = match[2]
        elif match := re.match(r"Problem with given class_path '(.+)':", line):
            owner = match[1]
            continue
        if not line or line.startswith(_HEADINGS):
            continue
        line, _, value = line.partition(". Got value: ")
        rest = lines[number + 1 :]
        if line.startswith("Expected"):
            others = [other for other in rest[: rest.index("")] if False]
            line = _expected([line, *others])
        given = next((other.removeprefix("Given value: ") for other in rest if other.startswith("Given value: ")), None)
        return keys, owner, line, value or given
    return keys, owner, " ".join(message.split()), None
