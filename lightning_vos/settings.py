"""Settings of a network: what a constructor takes, by name, as a checkpoint stores it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

Built = TypeVar("Built")


def parameters(cls: type) -> dict[str, inspect.Parameter]:
    """What can be set of a class: the named parameters of its own constructor and of those it passes ``**kwargs`` to.

    Args:
        cls: a class whose constructors call each other in the order of its bases.
    """
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        own = list(inspect.signature(base).parameters.values())
        for parameter in own:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                found.setdefault(parameter.name, parameter)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in own):
            break
    return found


def complete(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as plain values, dataclasses as dicts, with the defaults of what is not given."""
    defaults = {name: parameter.default for name, parameter in parameters(cls).items()}
    return {name: _plain(given.get(name, default)) for name, default in defaults.items()}


def build(cls: type[Built], settings: Mapping[str, Any]) -> Built:
    """Construct from plain values, as :func:`complete` gives them; parts may also be dataclasses already.

    Raises:
        ValueError: a setting that the class does not have, or as its constructor says.
    """
    hints = {name: hint for base in reversed(cls.__mro__) for name, hint in _hints(base).items()}
    _check_known(cls, settings, parameters(cls))
    return cls(**{name: _built(name, hints.get(name), value) for name, value in settings.items()})


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings by their names with dots, as the command line writes them: ``gate.target``."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": part for inner, part in flat(value).items()}
        else:
            found[name] = value
    return found


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their names with dots, nested: what :func:`flat` undoes."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        part, _, inner = name.partition(".")
        found = overlaid(found, {part: nested({inner: value}) if inner else value})
    return found


def overlaid(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with changes over them: of a part that is a dict in both, only what the changes name."""
    both = {
        name: overlaid(settings[name], value)
        for name, value in changes.items()
        if isinstance(value, Mapping) and isinstance(settings.get(name), Mapping)
    }
    return {**settings, **changes, **both}


def changed(own: Mapping[str, Any], saved: Mapping[str, Any], ignored: Collection[str] = ()) -> list[str]:
    """What differs between two settings: ``name=value instead of value``, of names that both have."""
    now, before = flat(own), flat(saved)
    names = [name for name in now if name in before and name not in ignored]
    return [f"{name}={now[name]} instead of {before[name]}" for name in names if now[name] != before[name]]


def check_choices(of: Callable[..., Any] | type, values: Mapping[str, Any]) -> None:
    """Refuse a value that is none of those its annotation, a ``Literal``, lists.

    Args:
        of: a constructor or a dataclass.
        values: by name; what is not annotated so is not looked at.

    Raises:
        ValueError: naming the setting, its value and the choices.
    """
    for name, hint in get_type_hints(of).items():
        choices = _choices(hint)
        chosen = values.get(name) if not isinstance(values.get(name), list | tuple) else None
        if choices and name in values and chosen is not None and chosen not in choices:
            raise ValueError(f"{name}={chosen}: choose from {', '.join(map(str, choices))}")


@dataclass(frozen=True)
class Checked:
    """Base of dataclasses of settings: the choices of their fields are checked.

    It is a dataclass itself, as the command line takes only dataclasses of dataclasses as plain nested settings.
    """

    def __post_init__(self) -> None:
        """Refuse what is not among the choices."""
        check_choices(type(self), vars(self))


def _choices(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(choice for part in get_args(hint) for choice in _choices(part)) if not isinstance(hint, type) else ()


def _hints(cls: type) -> dict[str, Any]:
    constructor = vars(cls).get("__init__")
    return get_type_hints(constructor) if inspect.isfunction(constructor) else {}


def _built(name: str, hint: Any, value: Any) -> Any:
    kinds = [kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and is_dataclass(kind)]
    if not kinds or value is None or isinstance(value, kinds[0]):
        return value
    known = [field.name for field in fields(kinds[0])]
    if not isinstance(value, Mapping):
        raise ValueError(f"{name}={value}: a part with settings of its own; give {name}.{f', {name}.'.join(known)}")
    _check_known(kinds[0], value, known)
    return kinds[0](**value)


def _check_known(cls: type, given: Collection[str], known: Collection[str]) -> None:
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(
            f"{cls.__name__} has no setting {', '.join(unknown)}: mistyped, or saved by another version; choose from "
            f"{', '.join(known)}"
        )


def _plain(value: Any) -> Any:
    """Dataclasses as dicts, tuples as lists: what a checkpoint holds, and what two runs are compared by."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
