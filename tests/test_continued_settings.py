"""A run that goes on with other settings: samples are counted, what changed is named, what cannot be is refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from learner import Crash, Learner, clips, trainer
from lightning import seed_everything
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateFinder,
    StochasticWeightAveraging,
)

from datamodules import DavisSet
from datamodules.base import VOSDataModule
from lightning_vos.checkpoint import read_checkpoint
from lightning_vos.ema import WeightEMA
from lightning_vos.optimizer import adamw
from lightning_vos.resume import check_continues
from lightning_vos.whole_run import check_whole

pytestmark = pytest.mark.slow


def fitted(folder: Path, stop: int | None = None, data: dict[str, Any] | None = None, **arguments: Any) -> Learner:
    """A run to its end, or to a power cut; it goes on from what is in its folder."""
    last = folder / "last.ckpt"
    model = Learner()
    run = trainer(folder, *([Crash(stop)] if stop else []), **arguments)
    start = str(last) if last.exists() else None
    if stop:
        with pytest.raises(RuntimeError, match="power cut"):
            run.fit(model, clips(folder.parent, **(data or {})), ckpt_path=start, weights_only=True)
    else:
        run.fit(model, clips(folder.parent, **(data or {})), ckpt_path=start, weights_only=True)
    return model


def samples(model: Learner) -> list[str]:
    return [clip for step in sorted(model.clips) for clip in model.clips[step]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def stream(root: Path) -> list[str]:
    """The samples of the run, one by one."""
    return samples(fitted(root / "stream", data={"batch_size": 1}, max_steps=40))


@pytest.mark.parametrize(
    ("sizes", "passes"),
    [((2, 4), (1, 1)), ((4, 2), (1, 1)), ((4, 6), (1, 2)), ((4, 6), (2, 1)), ((2, 4, 2), (1, 1, 2))],
)
def test_another_batch_size_goes_on_behind_the_samples_that_were_used(
    sizes: tuple[int, ...], passes: tuple[int, ...], root: Path, stream: list[str], tmp_path: Path
) -> None:
    """Three steps with each size; a power cut comes amid a step, and its samples count as not used."""
    folder, used = root / f"{sizes} {passes}", 0
    assert len(set(stream)) == len(stream) == 40
    for turn, (size, accumulate) in enumerate(zip(sizes, passes, strict=True)):
        first, ends = 3 * turn + 1, turn == len(sizes) - 1
        arguments = {"max_steps": 3 * len(sizes), "accumulate_grad_batches": accumulate}
        model = fitted(folder, None if ends else 3 * turn + 4, data={"batch_size": size}, **arguments)
        for step in range(first, first + 3):
            assert model.clips[step] == stream[used : used + size], f"step {step}"
            used += size
        if ends:
            assert sorted(model.clips) == list(range(first, first + 3))
    assert read_checkpoint(str(folder / "last.ckpt"))["global_step"] == 3 * len(sizes)


@pytest.mark.parametrize(("before", "after", "stop"), [(1, 2, 4), (1, 4, 4), (2, 1, 2), (4, 2, 4)])
def test_other_accumulation_does_not_straddle_batches(before: int, after: int, stop: int, root: Path) -> None:
    """The state is that after an odd step; the gradient of each step is that of the undisturbed run."""
    whole = fitted(root / f"whole {before} {after}", accumulate_grad_batches=1)
    folder = root / f"{before} {after}"
    fitted(folder, stop, accumulate_grad_batches=before)
    resumed = fitted(folder, accumulate_grad_batches=after)
    assert {step: resumed.clips[step] for step in range(stop, 7)} == {
        step: whole.clips[step] for step in range(stop, 7)
    }
    for step in range(stop, 7):
        torch.testing.assert_close(resumed.after[step], whole.after[step], rtol=0, atol=1e-5)


def test_peak_and_decay_are_those_of_the_run_that_goes_on(root: Path) -> None:
    """PyTorch goes on with those that were saved."""
    folder = root / "rates"
    fitted(folder, 4)
    model = Learner(lr=0.01, weight_decay=0.2, schedule="cosine")
    run = trainer(folder)
    run.fit(model, clips(root), ckpt_path=str(folder / "last.ckpt"), weights_only=True)
    saved = read_checkpoint(str(folder / "last.ckpt"))
    (group,) = saved["optimizer_states"][0]["param_groups"]
    assert group["initial_lr"] == 0.01
    assert group["lr"] == pytest.approx(0.01 * model.lr_factor(1.0))
    matrix = torch.nn.Parameter(torch.ones(2, 2))
    optimizers = [adamw([([matrix], 1.0)], 0.1, decay, fused=False) for decay in (0.05, 0.2)]
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    assert optimizers[1].param_groups[0]["weight_decay"] == 0.2
    assert saved["lr_schedulers"][0]["base_lrs"] == [0.01]
    steps = torch.stack([model.after[step] for step in (4, 5, 6)]).diff(dim=0).abs().max()
    assert steps < 0.02  # of a learning rate of 0.1 they would be about 0.1


# ---------------------------------------------------------------- what is said, and what is refused


@pytest.fixture(scope="module")
def saved(root: Path) -> dict[str, Any]:
    """A run that was stopped after three of six steps."""
    seed_everything(7, verbose=False)
    fitted(root / "saved", 4)
    return read_checkpoint(str(root / "saved/last.ckpt"))


def complaints(saved: dict[str, Any], root: Path, data: VOSDataModule, seed: int = 7, **arguments: Any) -> list[str]:
    seed_everything(seed, verbose=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_continues(saved, "last.ckpt", Learner(), trainer(root / "saved", **arguments), data)
    return [str(warning.message) for warning in caught if "goes on with other settings" in str(warning.message)]


@pytest.mark.parametrize(
    ("data", "run", "named"),
    [
        ({"batch_size": 2}, {}, "data.batch_size=2 instead of 4"),
        ({"crop": 48}, {}, "data.crop=48 instead of 32"),
        ({"clip_length": 3, "max_objects": 1}, {}, "data.clip_length=3 instead of 2, data.max_objects=1 instead of 3"),
        ({"val": DavisSet("DAVIS", split="train")}, {}, "data.val.split=train instead of val"),
        ({"max_skip": [(0.0, 3)]}, {}, "data.max_skip=[[0.0, 3]] instead of [[0.0, 1]]"),
        ({}, {"seed": 8}, "seed_everything=8 instead of 7"),
        ({}, {"max_steps": 9}, "trainer.max_steps=9 instead of 6"),
        ({}, {"gradient_clip_val": 0.5}, "trainer.gradient_clip_val=0.5 instead of 1.0"),
        ({}, {"gradient_clip_algorithm": "value"}, "trainer.gradient_clip_algorithm=value instead of norm"),
        ({}, {"accumulate_grad_batches": 2}, "trainer.accumulate_grad_batches=2 instead of 1"),
        ({}, {"precision": "bf16-mixed"}, "trainer.precision=bf16-mixed instead of 32-true"),
        ({}, {"devices": 2, "strategy": "ddp_fork"}, "trainer.devices=2 instead of 1"),
    ],
)
def test_other_settings_are_named_in_one_line(
    data: dict[str, Any], run: dict[str, Any], named: str, saved: dict[str, Any], root: Path
) -> None:
    (line,) = complaints(saved, root, clips(root, **data), **run)
    assert line == f"last.ckpt: the run goes on with other settings than it was saved with: {named}"


def test_the_same_settings_are_not_worth_a_word(saved: dict[str, Any], root: Path) -> None:
    """Nor is another folder, or another number of loaders."""
    assert complaints(saved, root, clips(root, num_workers=2)) == []
    data = clips(root)
    data.root = Path("elsewhere")
    assert complaints(saved, root, data) == []


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"seed": 6}, "data.seed has"),
        ({"videos": [DavisSet("DAVIS", repeat=2)]}, "data.videos has"),
        ({"videos": [DavisSet("DAVIS", repeat=3, single_object=True)], "seed": 1}, "data.seed, data.videos has"),
    ],
)
def test_another_order_of_the_samples_is_refused(
    data: dict[str, Any], named: str, saved: dict[str, Any], root: Path
) -> None:
    wanted = (
        f"last.ckpt: after 3 steps the order of the samples cannot change, but {named}; set it as it was, or choose"
    )
    with pytest.raises(ValueError, match=wanted):
        complaints(saved, root, clips(root, **data))


def test_a_set_that_has_grown_is_refused(root: Path, saved: dict[str, Any]) -> None:
    lists = root / "DAVIS/ImageSets/2017/train.txt"
    names = lists.read_text()
    lists.write_text(names.replace("gnu\n", ""))
    try:
        with pytest.raises(ValueError, match=r"the training set has 9 samples, but 12 when the run was saved; restore"):
            fitted(root / "saved")
    finally:
        lists.write_text(names)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"fast_dev_run": True}, r"trainer\.fast_dev_run=True: .* set --trainer\.max_steps"),
        ({"fast_dev_run": 3}, r"trainer\.fast_dev_run=3: "),
        ({"limit_train_batches": 5}, r"trainer\.limit_train_batches=5 would end the run before trainer\.max_steps"),
        ({"limit_train_batches": 1}, r"trainer\.limit_train_batches=1 would"),
        ({"limit_train_batches": 0.5}, r"trainer\.limit_train_batches=0\.5 would"),
        (
            {"callbacks": GradientAccumulationScheduler({0: 2})},
            "GradientAccumulationScheduler: .*accumulate_grad_batches",
        ),
        ({"callbacks": StochasticWeightAveraging(0.1)}, r"StochasticWeightAveraging: .* lightning_vos\.average"),
        ({"callbacks": EMAWeightAveraging()}, r"EMAWeightAveraging: .* --model\.ema=0\.999"),
        ({"callbacks": WeightEMA(0.9)}, r"WeightEMA: .* --model\.ema=0\.999"),
        ({"callbacks": BatchSizeFinder()}, "BatchSizeFinder: "),
        ({"callbacks": LearningRateFinder()}, "LearningRateFinder: .* --model.lr"),
    ],
)
def test_what_would_make_another_run_is_refused_by_name(arguments: dict[str, Any], line: str, tmp_path: Path) -> None:
    own = arguments.pop("callbacks", None)
    with pytest.raises(ValueError, match=line):
        check_whole(trainer(tmp_path, *([own] if own else []), **arguments))
    check_whole(trainer(tmp_path, limit_train_batches=1.0))
