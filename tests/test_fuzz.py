"""A short run of the fuzzer; a long one is ``python -m tests.fuzz``."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import fuzz
import numpy as np
import pytest


def test_files_of_strangers_are_read_or_refused(tmp_path: Path) -> None:
    found = fuzz.fuzz(231, tmp_path, first=100_000)
    assert {name: sum(counts.values()) for name, counts in found.items()} == dict.fromkeys(fuzz.TARGETS, 33)
    assert all(counts["read"] and counts["refused"] for counts in found.values()), found
    assert list(tmp_path.iterdir()) == []


def _hangs() -> None:
    while True:
        time.sleep(0.01)


def _hides() -> None:
    try:
        np.ones(2**31)
    except MemoryError as error:
        raise ValueError("a damaged file") from error


def _says_much() -> None:
    raise ValueError("two\nlines")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda: {}["size"], "size"),
        (_hangs, "more than 0.1 seconds"),
        (lambda: np.ones(2**31), "Unable to allocate"),
        (_hides, "out of memory: a damaged file"),
        (_says_much, "several lines"),
    ],
)
def test_the_fuzzer_finds(
    fault: Callable[[], object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "SECONDS", 0.1)
    monkeypatch.setattr(fuzz, "TARGETS", {"x": lambda folder, rng: fault()})
    with pytest.raises(BaseException, match=message) as error:
        fuzz.fuzz(1, tmp_path, first=7)
    assert error.value.__notes__ == ["x, file 7: python -m tests.fuzz --count 1 --first 7"]
