"""Where methods, data sets and recipes are: folders that are searched in turn, the repository's own last."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

OWN = Path(__file__).resolve().parent


def search_path(folders: str = "") -> tuple[Path, ...]:
    """Folders of experiments, as ``EXPERIMENTS`` names them: ``dir1:dir2``, and this one."""
    return (*(Path(folder) for folder in folders.split(os.pathsep) if folder), OWN)


def shown(path: Path) -> Path:
    """As a person would write it: relative where it lies below the working directory."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def one_of(what: str, value: str, choices: Iterable[str]) -> None:
    """Refuse what there is not.

    Raises:
        ValueError: naming what there is.
    """
    names = sorted(set(choices))
    if value not in names:
        raise ValueError(f"{what}={value}: choose from {', '.join(names) or 'nothing, there is none'}")


def one_line(what: str, value: str) -> str:
    """The value, unless it would break a line: it may stand in a comment of a batch file, or in a log.

    Raises:
        ValueError: it holds a line break or another control character.
    """
    if re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", value):
        raise ValueError(f"{what}={value!r}: holds a line break or another control character; take it out")
    return value


def method_folder(name: str, search: Iterable[Path], stage: str = "") -> Path:
    """The folder of a method, which holds its ``model.yaml``.

    Args:
        name: of the folder, below one of ``search``; or a path to it, known by its slash.
        search: folders of experiments.
        stage: only methods that have a file of this stage.

    Raises:
        ValueError: there is none, naming those there are.
    """
    needed = f"{stage or 'model'}.yaml"
    if os.sep in name:
        if not (Path(name) / needed).is_file():
            raise ValueError(f"METHOD={name}: no {needed} in this folder")
        return Path(name)
    found = {path.parent.name: path.parent for folder in reversed([*search]) for path in folder.glob(f"*/{needed}")}
    one_of("METHOD", name, found)
    return shown(found[name])


def data_files(name: str, search: Iterable[Path], *kinds: str) -> list[Path]:
    """The files that describe a data set, at most one of each kind.

    Args:
        name: of the set; or a path to its file, known by ``.yaml``.
        search: folders of experiments.
        kinds: ``data`` to train and score on, ``submission`` for an evaluation server.

    Raises:
        ValueError: there is none, naming those there are.
    """
    if name.endswith(".yaml"):
        if not Path(name).is_file():
            raise ValueError(f"DATA={name}: no such file")
        return [Path(name)]
    folders = [*search]
    one_of("DATA", name, (p.stem for folder in folders for kind in kinds for p in folder.glob(f"{kind}/*.yaml")))
    files = [[path for folder in folders if (path := folder / kind / f"{name}.yaml").is_file()] for kind in kinds]
    return [shown(there[0]) for there in files if there]


def recipes_of(method: Path) -> list[str]:
    """Names of the recipes of a method: folders with a ``model.yaml`` below its own."""
    return sorted(path.parent.name for path in method.glob("*/model.yaml"))
