"""On a GPU: the same numbers as on the CPU, flat memory, no hidden waits, and runs that go on bit for bit."""

from __future__ import annotations

import copy
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import METHODS, small, squares
from interruption import differences
from test_resume import arguments, last
from tiny_runs import METHODS as FOLDERS
from tiny_runs import commands, in_a_process, small_model, started, tiny, training, write_tiny_demo
from torch import Tensor

from lightning_vos import VOSModule
from lightning_vos.functional import one_hot

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

FRAMES = 8
# How often a frame waits for the GPU. REMN: the size of its bank depends on what it writes. SiamDyn: masks go to the
# host, where their parts are counted, and boxes back. DMM-Net: torchvision waits for the number of proposals.
WAITS = {"REMN": 1, "HMMN": 0, "SiamDyn": 2, "DMMNet": None}


def outputs(model: VOSModule, video: Tensor, labels: Tensor) -> Iterator[Tensor]:
    """Probabilities of every frame of the first clip, on the model's device."""
    with model.sequence():
        for t in range(video.shape[1]):
            mask = one_hot(labels[:, 0], int(labels.max())).to(model.device) if t == 0 else None
            yield model.step(video[:, t].to(model.device), mask).softmax(1)


@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_segments_as_the_cpu(method: str) -> None:
    """In float64: what differs is the order of sums, not a rounding that tips a decision."""
    video, labels = squares(1, FRAMES, 2, (64, 96))
    cpu = small(method).double()
    gpu = copy.deepcopy(cpu).cuda()
    for one, other in zip(outputs(cpu, video, labels), outputs(gpu, video, labels), strict=True):
        torch.testing.assert_close(other.cpu(), one, atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_waits_for_the_gpu(method: str) -> None:
    """Nothing but what the method needs to know on the host makes it wait for the GPU."""
    if WAITS[method] is None:
        pytest.skip("torchvision's detector waits")
    video, labels = squares(1, FRAMES, 2, (64, 96))
    model = small(method).cuda()
    frames = video.cuda()
    mask = one_hot(labels[:, 0], 2).cuda()
    with model.sequence():
        model.step(frames[:, 0], mask)
        for t in range(1, FRAMES):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                try:
                    model.step(frames[:, t])
                finally:
                    torch.cuda.set_sync_debug_mode("default")
            waits = [f"{w.filename}:{w.lineno}" for w in caught if "called a synchronizing" in str(w.message)]
            assert len(waits) <= WAITS[method], waits


@pytest.mark.parametrize("method", METHODS)
def test_memory_is_flat(method: str) -> None:
    """The bank fills, then nothing grows, in half precision as well."""
    video, labels = squares(1, 60, 2, (64, 96))
    model = small(method).cuda()
    seen: list[int] = []
    with torch.autocast("cuda", torch.bfloat16):
        for probs in outputs(model, video, labels):
            assert torch.isfinite(probs).all()
            seen.append(torch.cuda.memory_allocated())
    assert max(seen[40:]) <= max(seen[:40])


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_killed_run_goes_on_bit_for_bit(folder: str, tmp_path: Path) -> None:
    """Twelve steps in bf16, killed after the eighth: weights, average, optimiser and scores of an undisturbed run."""
    demo = write_tiny_demo(tmp_path / "data")
    gpu = ["--trainer.accelerator=gpu", "--trainer.deterministic=true", "--trainer.logger=false"]
    stage_one = ["--trainer.limit_val_batches=0", *training(stage="static")]
    (command,) = commands("static", f"METHOD={folder}", "DATA=demo")
    started([*command, *small_model(folder), *tiny(demo, tmp_path / "static"), *stage_one, *gpu])
    weights = tmp_path / "static/checkpoints/last.ckpt"
    options = (weights, 12, "bf16-mixed", "0.9")
    whole, killed = ([*arguments(folder, demo, tmp_path / name, *options), *gpu] for name in ("whole", "killed"))
    _, printed = started(whole)
    assert f"FPS on {torch.cuda.get_device_name()}" in printed
    process = in_a_process(killed, "train 8")
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert last(tmp_path / "killed")["global_step"] == 6
    started(killed)
    for part in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
        assert differences(last(tmp_path / "whole")[part], last(tmp_path / "killed")[part]) == []
    results = [tmp_path / name / "results/global_results-val.csv" for name in ("whole", "killed")]
    assert results[0].read_text() == results[1].read_text()
