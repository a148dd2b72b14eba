"""Who may import whom, how long a file may be, and how much a constructor may ask for."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("lightning_vos", "datamodules", "callbacks", "experiments", "benchmarks", "tests")
FILES = sorted(path for package in PACKAGES[:3] for path in (ROOT / package).rglob("*.py"))


def imported(source: str, module: str) -> set[str]:
    """Full names of everything that a module imports anywhere, also inside functions and for type checkers.

    ``from a.b import c`` counts as ``a.b.c``, since ``c`` may be a module.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(module.split(".")[: -node.level]) + "." if node.level else ""
            names |= {f"{base}{node.module or ''}".rstrip(".") + f".{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] in PACKAGES}


def forbidden(name: str, module: str) -> bool:
    """Whether ``module`` (dotted) may not import ``name`` (dotted)."""
    package, target = module.split(".")[0], name.split(".")[0]
    if package == target == "lightning_vos":
        theirs, own = ((*parts.split("."), "", "")[1:3] for parts in (name, module))
        return own[0] == theirs[0] == "methods" and own[1] not in ("", "__init__") and own[1] != theirs[1]
    if package == "datamodules" and target == "lightning_vos":
        return name.split(".")[1] not in ("types", "video", "palette", "names", "command_line", "passing")
    allowed = {
        "lightning_vos": {"lightning_vos"},
        "datamodules": {"datamodules"},
        "callbacks": {"callbacks", "lightning_vos"},
    }
    return target not in allowed[package]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_dependencies_point_one_way(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    assert not {name for name in imported(path.read_text(), module) if forbidden(name, module)}


@pytest.mark.parametrize(
    ("module", "line", "wrong"),
    [
        ("lightning_vos.module", "from datamodules import VideoDataModule", True),
        ("lightning_vos.module", "def f():\n    import callbacks.fps", True),
        ("lightning_vos.module", "from lightning_vos.types import Clip", False),
        ("lightning_vos.methods.remn.module", "from lightning_vos.methods.stcn.network import Decoder", True),
        ("lightning_vos.methods.remn.module", "from lightning_vos.methods import stcn", True),
        ("lightning_vos.methods.remn.module", "from ..stcn import STCN", True),
        ("lightning_vos.methods.remn.module", "from .memory import Bank", False),
        ("lightning_vos.methods.remn.module", "from lightning_vos.methods.remn.memory import Bank", False),
        ("lightning_vos.methods.remn.module", "from lightning_vos.blocks.decoder import MaskDecoder", False),
        ("datamodules.base", "from lightning_vos.types import Clip", False),
        ("datamodules.base", "from lightning_vos.functional import one_hot", True),
        ("datamodules.base", "from lightning_vos import REMN", True),
        ("datamodules.base", "from callbacks import FPSLogger", True),
        ("callbacks.fps", "from lightning_vos.metrics import JAndF", False),
        ("callbacks.fps", "from datamodules.images import read_image", True),
        ("callbacks.fps", "import tests.reference", True),
        ("callbacks.fps", "import torch", False),
        ("callbacks.fps", "import experiments.annotate.session", True),
        ("datamodules.movies", "from experiments.annotate.session import Session", True),
    ],
)
def test_the_rules_themselves(module: str, line: str, wrong: bool) -> None:
    assert any(forbidden(name, module) for name in imported(line, module)) is wrong


def test_the_files_are_found() -> None:
    assert {path.parent.name for path in FILES} >= {"lightning_vos", "remn", "blocks", "datamodules", "callbacks"}


def lengths(*folders: str) -> dict[str, int]:
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in paths}


def test_files_are_short() -> None:
    library = lengths("lightning_vos", "datamodules", "callbacks", "experiments")
    assert {name: lines for name, lines in library.items() if lines > 300} == {}
    assert 80 <= statistics.median(library.values()) <= 160
    assert {name: lines for name, lines in lengths("tests").items() if lines > 400} == {}


def own_settings(source: str) -> dict[str, int]:
    """How many settings each class of a module takes itself, beside what it passes on as ``**kwargs``."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            constructor = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
            if constructor is not None:
                arguments = constructor.args
                found[node.name] = len(arguments.args) + len(arguments.kwonlyargs) - 1
            elif any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
                found[node.name] = sum(isinstance(n, ast.AnnAssign) for n in node.body)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_constructors_can_be_read(path: Path) -> None:
    assert {name: count for name, count in own_settings(path.read_text()).items() if count > 15} == {}


def test_settings_are_counted() -> None:
    many = ", ".join(f"a{i}: int" for i in range(16))
    assert own_settings(f"class A(B):\n    def __init__(self, {many}, **kwargs): ...") == {"A": 16}
    fields = "\n".join(f"    a{i}: int = 0" for i in range(17))
    assert own_settings(f"@dataclass(frozen=True)\nclass A:\n{fields}") == {"A": 17}
