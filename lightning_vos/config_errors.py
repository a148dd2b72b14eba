"""A mistake in the configuration in one line, where jsonargparse writes a screen of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from importlib import import_module
from inspect import signature
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import yaml

from lightning_vos.discovery import installed

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
        message: of the parser. What it tried in vain is nested in it by indentation, the likeliest first.
        args: the command line, which names the configuration files.
        options: all options of the subcommand, such as ``--trainer.max_steps``.

    Returns:
        One line that starts with the option, or with the file and the key in it.
    """
    # A checkpoint's settings stand among the files as JSON, not as a path: see with_settings_of.
    names = [value for _, value in option_values(args, "--config", "-c") if not value.startswith("{")]
    files = [Path(name) for name in names if Path(name).is_file()]
    options = [option for option in options if option.startswith("--")]
    if message.startswith("Problems parsing config"):
        return next(filter(None, map(_yaml_error, files)), _line(message))
    if match := re.match(r"unrecognized arguments: (\S+)", message):
        return f"{match[1]}: no such option{_similar(match[1].partition('=')[0], options) or ', see --help'}"
    keys, owner, problem, value = _innermost(message)
    if match := re.match(r"(?:(?:Subcommand '.+'|Group '(.+)') does not accept o|O)ption '(.+?)'", problem):
        keys = ".".join([*keys, *filter(None, match.groups())]).split(".")
        return _unknown(keys, owner, [option.removeprefix("--") for option in options], args, files)
    if match := re.match(r"module '(.+)' has no attribute '(.+)'", problem):
        problem = f"there is no {match[2]} in {match[1]}; choose from {', '.join(_public(match[1]))}"
        return _origin(keys, f"{match[1]}.{match[2]}", args, files) + problem
    if match := re.match(r"unrecognized arguments: --(\S+)", problem):  # of a part of the model
        typed = next((arg for arg in args if arg.endswith(f".{match[1]}")), match[1])
        return f"{typed}: no such option; see the settings of that part in --print_config"
    origin = _origin(keys, value, args, files)
    if value is not None and problem.startswith("expected"):
        quotes = f"; write it in quotes, '{value}'" if f"'{value}'" in problem else ""
        problem = f"{'' if origin.endswith(f'={value}: ') else f'got {value}, '}{problem}{quotes}"
    return origin + problem


def _unknown(keys: list[str], owner: str, names: list[str], args: Sequence[str], files: Sequence[Path]) -> str:
    """The complaint about a key that nobody knows: ``names`` are those that the parser does."""
    if owner:
        known = [name for name in _parameters(owner) if name != keys[-1]]  # a subclass may fix what its base offers
        hint = _similar(keys[-1], known) or f"; choose from {', '.join(known)}"
        return f"{_origin(keys, None, args, files)}{owner} has no such option{hint}"
    tops = {name.split(".")[0] for name in names}
    if keys[0] not in tops:
        keys, names = keys[:1], sorted(tops)
    return f"{_origin(keys, None, args, files)}no such option{_similar('.'.join(keys), names) or ', see --help'}"


class _Complaint(NamedTuple):
    """The path of keys, the class that was given there, what is wrong, and the value it is about."""

    keys: list[str]
    owner: str
    problem: str
    value: str | None


def _innermost(message: str) -> _Complaint:
    keys: list[str] = []
    owner = ""
    lines = message.splitlines()
    for number, line in enumerate(lines):
        text = line.strip().removeprefix("- ")
        if match := re.match(r'Parser key "(.+?)":\s*(.*)', text):
            keys += match[1].split(".")
            text = match[2]
        elif match := re.match(r"Problem with given class_path '(.+)':", text):
            owner = match[1]
            continue
        if not text or text.startswith(_HEADINGS):
            continue
        problem, _, value = text.partition(". Got value: ")
        rest = lines[number + 1 :]
        if not value:
            value = next((other.partition(": ")[2] for other in rest if "Given value: " in other), "")
            value = re.sub(r"^NestedArg\(key='.*?', val=(.*)\)$", r"\1", value).strip("'")
        return _Complaint(keys, owner, _plain(" or ".join([problem, *_others(line, rest)])), value or None)
    return _Complaint(keys, owner, _line(message), None)


def _others(line: str, rest: Sequence[str]) -> list[str]:
    """Types that would do as well: they stand below each other in a list."""
    bullet, expected, _ = line.partition("Expected ")
    start = bullet + expected
    if not expected or "- " not in bullet:
        return []
    return [other.removeprefix(start) for other in takewhile(lambda other: other.startswith(start), rest)]


def _plain(problem: str) -> str:
    """Types as a user knows them."""
    problem = re.sub(r"\ban? <class '(?:NoneType)'>", "null", problem)
    problem = re.sub(r"\ban? <class '(?:\w+\.)*(\w+)'>", r"\1", problem)
    problem = re.sub(r"\ba typing\.Literal\[(.*?)\]", r"one of \1", problem)
    problem = re.sub(
        r"^Expected an instantiatable class, but (\S+) is abstract.*", r"name a subclass of \1 by class_path", problem
    )
    return re.sub(r"^Expected", "expected", problem)


def _origin(keys: Sequence[str], value: str | None, args: Sequence[str], files: Sequence[Path]) -> str:
    """``--model.lr=fast: `` or ``experiments/x.yaml: model.lr: ``; the last one counts, options after files."""
    if not keys:
        return ""
    key = ".".join(keys)
    for arg in reversed(args):
        name, equals, given = arg.partition("=")
        if name.startswith("--") and equals and (name.replace(".init_args.", ".") == f"--{key}" or given == value):
            return f"{arg}: "
    name, text = re.escape(keys[-1]), re.escape(value or "")
    for pattern in (rf"\b{name}['\"]?\s*:\s*['\"]?{text}", text or name, rf"\b{name}['\"]?\s*:"):
        for file in reversed(files):
            if re.search(pattern, file.read_text(encoding="utf-8")):
                return f"{file}: {key}: "
    return f"{key}: "


def _similar(name: str, known: Iterable[str]) -> str:
    similar = get_close_matches(name, list(known), n=1)
    return f"; did you mean {similar[0]}?" if similar else ""


def _parameters(class_path: str) -> list[str]:
    """Names of what the constructor of a class takes, its bases' included."""
    module, _, name = class_path.rpartition(".")
    bases = getattr(import_module(module), name).__mro__[:-1]
    names = dict.fromkeys(name for base in bases for name in signature(base).parameters)
    return [name for name in names if name not in ("self", "args", "kwargs")]


def _public(module: str) -> list[str]:
    """Names of the classes that a module offers; of ours, those of the installed methods."""
    loaded = import_module(module)
    names = installed() if module == "lightning_vos" else getattr(loaded, "__all__", [])
    return [name for name in names if isinstance(getattr(loaded, name), type)]


def _yaml_error(file: Path) -> str | None:
    try:
        yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        return f"{file}{f', line {mark.line + 1}' if mark else ''}: not valid YAML: {problem or _line(str(error))}"
    return None


def _line(text: str) -> str:
    return " ".join(text.split())
