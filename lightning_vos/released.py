"""State dicts as the authors of a method release them."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from lightning_vos.checkpoint import check_finite, read_file


def read_released(path: str, wanted: str) -> dict[str, Tensor]:
    """Read a flat state dict as authors release it, without running any code in it.

    Args:
        path: the file; entries with or without the prefix ``module.``.
        wanted: what should be given, for the messages.

    Returns:
        The entries, without the prefix.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is something else, or damaged, or holds what is not finite.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; give {wanted}")
    content = read_file(path, "a state dict")
    entries = content if isinstance(content, dict) else {}
    if not entries or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in entries.items()):
        what = f"a dict of {', '.join(map(str, list(entries)[:4]))}" if entries else type(content).__name__
        own = "; a checkpoint of this project needs no import" if "method" in entries else ""
        raise ValueError(f"{path}: not a flat state dict but {what}; give {wanted}{own}")
    check_finite(entries, path, f"give {wanted}")
    return {name.removeprefix("module."): value for name, value in entries.items()}


def check_released(path: str, method: str, wanted: str, missing: list[str], unexpected: list[str]) -> None:
    """Refuse a released state dict of which not every entry has found its place.

    Args:
        path: the file or files.
        method: its name.
        wanted: what should be given.
        missing: what is missing or does not fit, a phrase for each entry.
        unexpected: what is left over, likewise.

    Raises:
        ValueError: naming the first few.
    """
    wrong = [*missing, *unexpected]
    if wrong:
        raise ValueError(
            f"{path}: not the released {method}, {len(missing)} entries are missing or do not fit and "
            f"{len(unexpected)} are unexpected ({'; '.join(wrong[:4])}{', ...' if len(wrong) > 4 else ''}); "
            f"give {wanted}"
        )
