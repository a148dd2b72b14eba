"""The installed methods: those of the folder ``methods``, and those that other packages offer.

A folder there whose ``__init__`` lists a class in ``__all__`` is a method. Another package offers one by an entry point
of the group ``lightning_vos.methods``, whose name is that of the class::

    [project.entry-points."lightning_vos.methods"]
    MaskCopier = "my_package:MaskCopier"

Checkpoints name the class that wrote them. It is looked for among these and nowhere else: what a file names is never
imported.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import lightning_vos.methods as methods

GROUP = "lightning_vos.methods"


def lazily(package: str, **places: str) -> Callable[[str], Any]:
    """``__getattr__`` of a method's package: its classes are imported when they are asked for.

    Args:
        package: its name.
        **places: class -> module of the package that holds it.
    """

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{places[name]}"), name)

    return get


def installed() -> dict[str, Callable[[], Any]]:
    """Names of all classes that methods offer, with what imports each; those of the folder ``methods`` go first."""
    found: dict[str, Callable[[], Any]] = {point.name: point.load for point in entry_points(group=GROUP)}
    for folder in pkgutil.iter_modules(methods.__path__):
        package = import_module(f"{methods.__name__}.{folder.name}")
        for name in getattr(package, "__all__", ()):
            found[name] = lambda package=package, name=name: getattr(package, name)  # type: ignore[misc]
    return found


def find(name: str, what: str) -> Any:
    """The class of this name among the installed methods.

    Args:
        name: of a class.
        what: who asks for it, such as a checkpoint, for the message.

    Raises:
        ValueError: no installed method offers it.
    """
    offers = installed()
    if name not in offers:
        raise ValueError(
            f"{what} belongs to {name}, which is none of the installed methods ({', '.join(sorted(offers))}); install "
            f"the package that offers it by an entry point of the group {GROUP}"
        )
    return offers[name]()
