"""Names of foreign files, and the folders of a comparison."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lightning_vos.compare.__main__ import compare
from lightning_vos.compare.records import folder_name, run_names
from lightning_vos.names import below, component


@pytest.mark.parametrize(
    "name", ["a", "a b", "größe", "a.b", "12:30", "\u3000x", "👨\u200d👩", "e\u0301", "-", "x" * 240]
)
def test_names_that_will_do(name: str) -> None:
    assert component(name, "x") == name
    assert below("/data", f"sub/{name}", "x") == Path("/data/sub", name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        ".",
        "..",
        ".hidden",
        "a/b",
        "/",
        "../x",
        "a\\b",
        "a\0",
        "a\nb",
        "\x1b[2J",
        "\ud800",
        "x" * 241,
        None,
        3,
        ["a"],
    ],
)
def test_names_that_are_refused(name: Any) -> None:
    with pytest.raises(ValueError, match=r"^list\.txt, entry 3: the name .*; (rename|correct) it$") as error:
        component(name, "list.txt, entry 3")
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "name",
    ["", "/", ".", "..", "./..", "/etc/x", "../x", "a/../../x", "a/..", "..\\x", "C:\\x", "c:x", "//server/share/x",
     "a\0b", "a\nb", "a/" + "x" * 300, None, 3],
)  # fmt: skip
def test_paths_that_are_refused(name: Any) -> None:
    with pytest.raises(ValueError, match=r"^a\.json, image 3: the path .*") as error:
        below("/data", name, "a.json, image 3")
    assert str(error.value).isprintable()


def test_paths_stay_below_their_root() -> None:
    assert below("/data", "a/./b.jpg", "x") == below("/data", "a\\b.jpg", "x") == Path("/data/a/b.jpg")
    assert below("/data", "..a/b..", "x") == Path("/data/..a/b..")


def checkpoints(folder: Path, *paths: str) -> list[str]:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return [str(folder / path) for path in paths]


@pytest.mark.parametrize("name", ["..", ".", "a/b", "/tmp/x", ".x", " ", "a\tb", ""])
def test_names_of_compared_checkpoints(name: str, tmp_path: Path) -> None:
    (path,) = checkpoints(tmp_path, "x.ckpt")
    with pytest.raises(ValueError, match=rf"the name {re.escape(repr(name))} cannot be that of a folder"):
        run_names([f"{name}={path}"])
    if "/" not in name:  # a name that was made of a path may have strokes, which become dashes
        with pytest.raises(ValueError, match="cannot be that of a folder"):
            compare({name: Path(path)}, tmp_path, [])
    assert [file.name for file in tmp_path.iterdir()] == ["x.ckpt"]


def test_two_names_never_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoints(tmp_path, "a/b/checkpoints/last.ckpt", "a/c/checkpoints/last.ckpt", "a-b.ckpt")
    words = ["a/b/checkpoints/last.ckpt", "a/c/checkpoints/last.ckpt", "a-b.ckpt"]
    names = run_names(words)
    assert len({folder_name(name) for name in names}) == 3
    with pytest.raises(ValueError, match=r"two of a/b, a-b would share a folder of out; give names of their own"):
        compare({"a/b": Path(words[0]), "a-b": Path(words[2])}, Path("out"), [])
    assert list(run_names([*words[:2], f"a-b={words[2]}"])) == ["a/b/last", "a/c/last", "a-b"]
    assert not Path("out").exists()
    monkeypatch.chdir(tmp_path / "a/b")
    assert list(run_names(["../c/checkpoints/last.ckpt"])) == ["a"]
    assert list(run_names(["../../a/b/checkpoints/last.ckpt"])) == ["a"]
