"""A fifth method in one folder and a YAML, nothing else touched: trained, evaluated, compared and loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_runs import ROOT, in_a_process, planned, tiny, training, write_tiny_demo

import lightning_vos

pytestmark = pytest.mark.slow

METHOD = '''
"""Copies the given masks to every frame, a little fainter where a learned factor says so."""

from typing import NamedTuple

import torch
from lightning_vos.memory import SequenceState
from lightning_vos.module import VOSModule


class Features(NamedTuple):
    image: torch.Tensor


class LastMasks(SequenceState):
    """``masks (B, K, H, W)`` of the last frame."""

    masks: torch.Tensor


class MaskCopier(VOSModule):
    """The copied first mask as a method.

    Args:
        start: probability of a copied pixel before training.
        **kwargs: see VOSModule.
    """

    stride = 1

    def __init__(self, start: float = 0.8, **kwargs):
        super().__init__(**kwargs)
        self.factor = torch.nn.Parameter(torch.logit(torch.tensor([[start]])))
        self.last = LastMasks("masks")

    def encode(self, image):
        return Features(image)

    def segment(self, query):
        return self.last.masks * torch.sigmoid(self.factor)

    def memorize(self, query, probs, merged, given):
        self.last.masks = (probs.detach() > 0.5).to(probs.dtype)
'''

ENTRY_POINT = "[lightning_vos.methods]\nMaskCopier = copier.module:MaskCopier\n"
MODEL = "model:\n  class_path: {}\n  init_args: {{start: 0.9, lr: 0.01}}\n"


@pytest.fixture(scope="module", params=["installed", "in the tree"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the method is: a package of its own with an entry point, or a folder beside the other methods."""
    root = tmp_path_factory.mktemp("outside")
    package = root / ("copier" if request.param == "installed" else "lightning_vos/methods/copier")
    package.mkdir(parents=True)
    (package / "module.py").write_text(METHOD)
    (root / "experiments/copier").mkdir(parents=True)
    if request.param == "installed":
        (package / "__init__.py").touch()
        about = root / "copier-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: copier\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(ENTRY_POINT)
        class_path = "copier.module.MaskCopier"
    else:
        # A copy of the tree in which the folder is the one thing that is new.
        for part in (ROOT / "lightning_vos").iterdir():
            if part.name != "methods":
                (root / "lightning_vos" / part.name).symlink_to(part)
        for part in (ROOT / "lightning_vos/methods").iterdir():
            (package.parent / part.name).symlink_to(part)
        module = f"{package.parent.parent.name}.methods.copier.module"
        (package / "__init__.py").write_text(f'from {module} import MaskCopier\n\n__all__ = ["MaskCopier"]\n')
        class_path = "lightning_vos.MaskCopier"
    (root / "experiments/copier/model.yaml").write_text(MODEL.format(class_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{root}{os.pathsep}{ROOT}")
        patch.setenv("PYTHONSAFEPATH", "1")  # the tree is the one that PYTHONPATH names, not the working directory
        yield root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_demo(tmp_path_factory.mktemp("data"))


PROGRAM = """
import json, sys
import torch, lightning_vos
from lightning_vos.cli import main
from lightning_vos.compare.__main__ import main as compare

train, evaluate, comparison, checkpoint = json.loads(sys.argv.pop())
main(train)
main(evaluate)
compare(comparison)
model = lightning_vos.load(checkpoint)
assert type(model).__name__ == "MaskCopier"
with model.sequence():
    mask = torch.zeros(1, 1, 6, 8)
    mask[..., 2:4, 3:5] = 1
    frame = torch.zeros(1, 3, 6, 8, dtype=torch.uint8)
    model.step(frame, mask)
    assert torch.equal(model.step(frame).argmax(1), mask[:, 0].long())
"""


def test_it_is_trained_evaluated_compared_and_loaded(folder: Path, data: Path, tmp_path: Path) -> None:
    search, checkpoint = f"EXPERIMENTS={folder / 'experiments'}", tmp_path / "run/checkpoints/last.ckpt"
    (run,) = planned("video", "METHOD=copier", "DATA=demo", search)
    words = [[*run.words, *tiny(data, tmp_path / "run", steps=2), *training()]]
    (run,) = planned("eval", "METHOD=copier", "DATA=demo", f"CKPT={checkpoint}", search)
    words.append([*run.words, *tiny(data, tmp_path / "eval")])
    (run,) = planned("compare", "DATA=demo", f"CKPTS={checkpoint}", f"RUNS={tmp_path}")
    words.append([*run.words, f"--data.root={data}", "--data.demo=false", "--trainer.accelerator=cpu"])
    command = [sys.executable, "-c", PROGRAM, json.dumps([*words, str(checkpoint)])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "eval/results/global_results-val.csv").is_file()
    assert "| MaskCopier |" in (tmp_path / "compare-demo/comparison.md").read_text()


def test_nothing_that_a_file_names_is_imported(tmp_path: Path) -> None:
    """A checkpoint may name any class: it is looked for among the installed methods, and nowhere else."""
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    checkpoint = {"method": "evil.Method", "network": "evil.Method", "state_dict": {}, "hyper_parameters": {}}
    torch.save(checkpoint, tmp_path / "evil.ckpt")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        with pytest.raises(ValueError, match=r"evil\.Method, which is none of the installed methods \(DMMNet, "):
            lightning_vos.load(str(tmp_path / "evil.ckpt"))
    done = in_a_process(["validate", f"--ckpt_path={tmp_path / 'evil.ckpt'}"])
    assert done.returncode == 2
    assert "which is none of the installed methods" in done.stderr
