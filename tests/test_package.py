"""The wheel, installed where nothing is but what it says it needs: networks, load, step and metrics."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
import torch
from conftest import METHODS, small, squares
from network_files import write_network
from packaging.requirements import Requirement

from lightning_vos.functional import one_hot
from lightning_vos.network_file import halved
from lightning_vos.official import save_checkpoint

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]

PROGRAM = """
import sys
import lightning_vos
assert "torch" not in sys.modules, "import lightning_vos loads torch before anything is used"
import torch
from lightning_vos.metrics import JAndF, boundary_accuracy, region_similarity

masks = torch.load(sys.argv[1], weights_only=True)
logits = {}
for name, path in zip(sys.argv[3::2], sys.argv[4::2]):
    model = lightning_vos.load(path)  # or a name
    with model.sequence():
        model.step(masks["frames"][:, 0], masks["given"])
        logits[name] = model.step(masks["frames"][:, 1])
score = region_similarity(masks["given"][0, 0] > 0, masks["given"][0, 0] > 0)
assert float(score) == 1.0
absent = ("lightning", "wandb", "albumentations", "jsonargparse", "callbacks", "datamodules", "experiments")
loaded = [name for name in absent if name in sys.modules]
assert not loaded, f"loaded without need: {loaded}"
for name in absent:
    try:
        __import__(name)
    except ImportError:
        continue
    raise AssertionError(f"{name} can be imported here: the test shows nothing")
torch.save(logits, sys.argv[2])
"""


def needed(names: list[str]) -> set[str]:
    """Installed distributions that these need, and what these need in turn; extras left out."""
    found: set[str] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        requirement = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        if requirement.name.lower() not in found:
            found.add(requirement.name.lower())
            waiting += [Requirement(line) for line in distribution(requirement.name).requires or []]
    return found


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment that holds the wheel and what its metadata names, all else absent."""
    folder = tmp_path_factory.mktemp("package")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = folder / "source"  # a build leaves folders beside what it builds
    shutil.copytree(ROOT / "lightning_vos", source / "lightning_vos", ignore=shutil.ignore_patterns("__pycache__"))
    for name in METHODS:
        network = write_network(source / "lightning_vos" / "networks" / f"{name.lower()}.safetensors", name)
        network.with_suffix(".md").write_text("its card")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (wheel,) = folder.glob("lightning_vos-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = folder / "venv/bin/python"
    install = [*pip, f"--python={python}", "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, text=True)
    (site,) = (folder / "venv/lib").glob("python*/site-packages")
    metadata = next(site.glob("lightning_vos-*.dist-info")) / "METADATA"
    lines = [line.partition(": ")[2] for line in metadata.read_text().splitlines() if line.startswith("Requires-Dist")]
    for name in needed([line for line in lines if "extra ==" not in line]):
        parts = {file.parts[0] for file in distribution(name).files or [] if ".." not in file.parts}
        for part in parts - {"__pycache__"}:
            if not (site / part).exists():
                (site / part).symlink_to(Path(str(distribution(name).locate_file(part))))
    return python


def test_the_wheel_alone_segments_as_the_clone_does(python: Path, tmp_path: Path) -> None:
    frames, labels = squares(1, 2, 2)
    given = one_hot(labels[:, 0], 2)
    torch.save({"frames": frames, "given": given}, tmp_path / "clip.pt")
    words, expected = [], {}
    for name in METHODS:
        model = small(name)
        save_checkpoint(model, str(tmp_path / f"{name}.ckpt"))
        words += [name, str(tmp_path / f"{name}.ckpt")]
        words += [f"released {name}", name.lower()]
        for what in (name, f"released {name}"):  # the latter with rounded weights
            with model.sequence():
                model.step(frames[:, 0], given)
                expected[what] = model.step(frames[:, 1])
            model.load_state_dict(halved(model.state_dict()))
    command = [str(python), "-c", PROGRAM, str(tmp_path / "clip.pt"), str(tmp_path / "logits.pt"), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    logits = torch.load(tmp_path / "logits.pt", weights_only=True)
    assert logits.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(logits[name], value, rtol=0, atol=1e-4)


def test_only_the_package_is_in_the_wheel(python: Path) -> None:
    (site,) = python.parents[1].glob("lib/python*/site-packages")
    record = next(site.glob("lightning_vos-*.dist-info")) / "RECORD"
    tops = {line.partition("/")[0] for line in record.read_text().splitlines()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"lightning_vos"}
    names = [f"networks/{name.lower()}.{kind}" for name in METHODS for kind in ("safetensors", "md")]
    for name in ("compare/templates/page.html.j2", *names):
        assert f"lightning_vos/{name}," in record.read_text()
