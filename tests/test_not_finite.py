"""A loss or gradient that is not finite teaches nothing; weights that are not finite are neither kept nor read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small
from learner import Crash, Learner, clips, trainer
from lightning import Callback
from torch import Tensor

import lightning_vos
from callbacks import SkippedSteps
from lightning_vos.average import averaged
from lightning_vos.checkpoint import load_weights, read_checkpoint
from lightning_vos.official import save_checkpoint

pytestmark = pytest.mark.slow


def nan_loss(loss: Tensor, weight: Tensor) -> Tensor:
    return loss * float("nan")


def infinite_loss(loss: Tensor, weight: Tensor) -> Tensor:
    """Its gradient is finite."""
    return loss + float("inf")


def infinite_gradient(loss: Tensor, weight: Tensor) -> Tensor:
    """The loss is finite."""
    return loss + (weight - weight.detach()).sqrt().sum()


def huge_gradient(loss: Tensor, weight: Tensor) -> Tensor:
    """Every entry is finite, their norm is not, and clipping would make zeros of them."""
    return loss + 1e30 * (weight - weight.detach()).sum()


class Told(SkippedSteps):
    """As on a GPU, where a fused optimiser is told by a tensor."""

    def _can_be_told(self, optimizer: torch.optim.Optimizer, device: torch.device) -> bool:
        return True


class Moments(Callback):
    """Notes what the optimiser holds after every step."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any, **kwargs: Any) -> None:
        state = trainer.optimizers[0].state[pl_module.weight]
        pl_module.moments = getattr(pl_module, "moments", {})
        pl_module.moments[trainer.global_step] = {name: value.clone() for name, value in state.items()}


def fitted(folder: Path, *callbacks: Any, bad: dict[int, Any], ckpt: Path | None = None, **arguments: Any) -> Learner:
    model = Learner()
    model.spoiled = bad
    model.run_of = trainer(folder, *callbacks, **arguments)  # type: ignore[assignment]
    model.run_of.fit(model, clips(folder.parent), ckpt_path=ckpt, weights_only=True)
    return model


@pytest.mark.parametrize("spoil", [nan_loss, infinite_loss, infinite_gradient, huge_gradient])
@pytest.mark.parametrize(
    ("kind", "precision"), [(SkippedSteps, "32-true"), (SkippedSteps, "bf16-mixed"), (Told, "32-true")]
)
def test_a_bad_step_is_left_out(spoil: Any, kind: type[SkippedSteps], precision: str, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"step 3: loss or gradient is not finite; skipped, 1 so far, 1 in a row"):
        model = fitted(tmp_path / "run", kind(), Moments(), bad={3: spoil}, precision=precision)
    before, after = model.after[2], model.after[3]
    assert torch.equal(before, after)
    assert all(torch.equal(model.moments[2][name], model.moments[3][name]) for name in model.moments[2])
    assert len({tuple(weight.tolist()) for weight in model.after.values()}) == 5
    assert model.run_of.global_step == 6  # it counts as a step: samples and learning rate go on
    assert model.run_of.callback_metrics["train/skipped_steps"] == 1
    assert torch.equal(read_checkpoint(str(tmp_path / "run/last.ckpt"))["state_dict"]["weight"], model.after[6])


def test_one_bad_pass_spoils_its_step(tmp_path: Path) -> None:
    """The loss of the second pass of the step is finite."""
    with pytest.warns(UserWarning, match="step 3: .* skipped, 1 so far"):
        model = fitted(tmp_path / "run", bad={3: infinite_loss}, accumulate_grad_batches=2)
    assert torch.equal(model.after[2], model.after[3])


def test_all_ranks_skip_what_one_must(tmp_path: Path) -> None:
    """An infinite loss on one rank leaves no trace in the gradient that they share."""
    model = Learner()
    model.spoiled, model.spoiled_rank = {2: infinite_loss}, 1
    trainer(tmp_path / "run", max_steps=2, devices=2, strategy="ddp_fork").fit(model, clips(tmp_path))
    saved = read_checkpoint(str(tmp_path / "run/last.ckpt"))
    alone = fitted(tmp_path / "alone", bad={}, max_steps=1)
    torch.testing.assert_close(saved["state_dict"]["weight"], alone.after[1])
    assert saved["global_step"] == 2
    assert saved["callbacks"]["SkippedSteps"] == {"skipped": 1, "in_a_row": 1}


def test_many_in_a_row_end_the_run(tmp_path: Path) -> None:
    """Also across a restart: what fails again and again must not be queued again and again."""
    bad = dict.fromkeys((1, 3, 4, 5), nan_loss)
    last = tmp_path / "run/last.ckpt"
    with pytest.raises(RuntimeError, match="power cut"):
        fitted(tmp_path / "run", SkippedSteps(in_a_row=3), Crash(4), bad=bad)
    saved = read_checkpoint(str(last))
    with pytest.raises(
        ValueError, match=r"step 5: loss or gradient was not finite in 3 steps in a row; .* lower --model"
    ):
        fitted(tmp_path / "run", SkippedSteps(in_a_row=3), bad=bad, ckpt=last)
    kept = read_checkpoint(str(last))
    assert (saved["global_step"], kept["global_step"]) == (3, 4)
    assert kept["callbacks"]["SkippedSteps"] == {"skipped": 3, "in_a_row": 2}
    with pytest.raises(ValueError, match="in_a_row=0"):
        SkippedSteps(0)


def test_a_run_with_skipped_steps_goes_on_bit_for_bit(tmp_path: Path) -> None:
    bad = {2: nan_loss, 5: infinite_loss}
    whole = fitted(tmp_path / "whole", bad=bad)
    with pytest.raises(RuntimeError, match="power cut"):
        fitted(tmp_path / "run", Crash(4), bad=bad)
    resumed = fitted(tmp_path / "run", bad=bad, ckpt=tmp_path / "run/last.ckpt")
    assert torch.equal(resumed.weight, whole.weight)
    assert resumed.run_of.callback_metrics["train/skipped_steps"] == 2


# ---------------------------------------------------------------- files


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    class Broken(Crash):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any, **kwargs: Any) -> None:
            if trainer.global_step == self.step:
                torch.nn.init.constant_(pl_module.weight, float("inf"))

    with pytest.raises(ValueError, match=r"last\.ckpt is not written: 1 of 1 entries are not finite \(weight\); start"):
        fitted(tmp_path / "run", Broken(3), bad={})
    assert read_checkpoint(str(tmp_path / "run/last.ckpt"))["global_step"] == 2
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_not_read(value: float, tmp_path: Path) -> None:
    model, path = small("REMN"), str(tmp_path / "broken.ckpt")
    save_checkpoint(model, str(tmp_path / "sound.ckpt"))
    first, second = (name for name, _ in list(model.named_parameters())[2:4])
    for name in (first, second):
        model.get_parameter(name).data.view(-1)[-1] = value
    save_checkpoint(model, path)
    wanted = rf"broken\.ckpt: 2 of \d+ entries are not finite \({first}, {second}\); give a checkpoint of before"
    for read in (
        lambda: read_checkpoint(path),
        lambda: lightning_vos.load(path),
        lambda: load_weights(small("REMN"), path),
        lambda: averaged([str(tmp_path / "sound.ckpt"), path]),
    ):
        with pytest.raises(ValueError, match=wanted):
            read()
    with pytest.raises(ValueError, match=r"the checkpoint: 2 of .* entries are not finite"):
        trainer(tmp_path).validate(small("REMN"), clips(tmp_path), ckpt_path=path, weights_only=True)
