"""The average of the weights: its mathematics, who sees it, and that a run with it goes on bit for bit."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import METHODS, small
from interruption import differences
from learner import Crash, Learner, clips, trainer
from lightning import Callback
from test_not_finite import Told, infinite_gradient, nan_loss
from torch import Tensor

from callbacks import BestCheckpoint
from lightning_vos.checkpoint import CURRENT, load_weights, read_checkpoint
from lightning_vos.ema import WeightEMA
from lightning_vos.official import save_checkpoint
from lightning_vos.resume import AtomicCheckpointIO
from lightning_vos.video import Video

pytestmark = pytest.mark.slow

PARTS = ("state_dict", CURRENT, "averaging_state", "optimizer_states", "lr_schedulers", "callbacks", "global_step")


class Watched(Learner):
    """Remembers the weights that each validation sees."""

    def __init__(self, ema: float | None = 0.5, **kwargs: Any) -> None:
        super().__init__(ema=ema, **kwargs)
        self.seen: list[Tensor] = []

    def validation_step(self, video: Video, batch_idx: int) -> None:
        self.seen.append(self.weight.detach().clone())


class Stop(Callback):
    """The process gets SIGTERM in the middle of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_optimizer_step(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step - 1:
            os.kill(os.getpid(), signal.SIGTERM)


def fitted(
    folder: Path,
    *callbacks: Callback,
    ema: float | None = 0.5,
    bad: dict[int, Any] | None = None,
    ends: type[BaseException] | None = None,
    settings: dict[str, Any] | None = None,
    **arguments: Any,
) -> Watched:
    """A run to its end, or to the exception that ends it; it goes on from what is in its folder."""
    model, last = Watched(ema, **(settings or {})), folder / "last.ckpt"
    model.spoiled = bad or {}
    run, start = trainer(folder, *callbacks, **arguments), str(last) if last.exists() else None
    if ends is None:
        run.fit(model, clips(folder.parent), ckpt_path=start, weights_only=True)
    else:
        with pytest.raises(ends):
            run.fit(model, clips(folder.parent), ckpt_path=start, weights_only=True)
    return model


def saved(folder: Path, name: str = "last") -> dict[str, Any]:
    return read_checkpoint(str(folder / f"{name}.ckpt"))


def expected(model: Learner, decay: float, skipped: tuple[int, ...] = ()) -> Tensor:
    """The definition, in float64."""
    average = torch.ones(3, dtype=torch.float64)
    for n, step in enumerate(sorted(set(model.after) - {0, *skipped})):
        d = min(decay, (1 + n) / (10 + n))
        average = d * average + (1 - d) * model.after[step].double()
    return average


# ---------------------------------------------------------------- what it is


@pytest.mark.parametrize("decay", [0.15, 0.999])  # reached in the second step, and never
@pytest.mark.parametrize("passes", [1, 2])
def test_it_is_the_average_of_the_weights_after_each_step(decay: float, passes: int, tmp_path: Path) -> None:
    model = fitted(tmp_path / "run", ema=decay, accumulate_grad_batches=passes)
    last = saved(tmp_path / "run")
    assert set(model.after) >= set(range(1, 7))
    torch.testing.assert_close(last["state_dict"]["weight"].double(), expected(model, decay), rtol=1e-6, atol=1e-7)
    assert torch.equal(last[CURRENT]["weight"], model.after[6])
    assert int(last["averaging_state"]["n_averaged"]) == 6
    assert torch.equal(model.weight, last["state_dict"]["weight"])  # what the run leaves


@pytest.mark.parametrize("kind", [None, Told])
def test_a_step_that_is_left_out_does_not_count(kind: type[Told] | None, tmp_path: Path) -> None:
    bad = {1: nan_loss, 4: infinite_gradient}
    model = fitted(tmp_path / "run", *([kind()] if kind else []), ema=0.999, bad=bad)
    last = saved(tmp_path / "run")
    average = expected(model, 0.999, skipped=(1, 4))
    torch.testing.assert_close(last["state_dict"]["weight"].double(), average, rtol=1e-6, atol=1e-7)
    assert int(last["averaging_state"]["n_averaged"]) == 4


@pytest.mark.parametrize("precision", ["32-true", "bf16-true", "64-true"])
def test_a_validation_sees_the_average_and_leaves_no_trace(precision: str, tmp_path: Path) -> None:
    """Neither of its rounding to the weights' precision, nor of a copy."""

    class Scored(Watched):
        def on_validation_epoch_end(self) -> None:
            self.log("val/J&F", 0.1 * len(self.seen))

    model, folder = Scored(0.999), tmp_path / "run"
    best = BestCheckpoint(str(folder))
    every = {"val_check_interval": 3, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0}
    run = trainer(folder, best, precision=precision, limit_val_batches=1.0, **every)
    run.fit(model, clips(tmp_path))
    unseen = fitted(tmp_path / "unseen", ema=0.999, precision=precision)
    assert differences(model.after, unseen.after) == []
    assert len(model.seen) == 2
    chosen = saved(folder, "best")
    assert chosen["global_step"] == 6
    average = chosen["state_dict"]["weight"]
    assert average.dtype == torch.float32
    assert not torch.equal(average, average.bfloat16().float())  # where small steps would not move it
    assert torch.equal(model.seen[1], average.to(model.seen[1].dtype))
    assert not torch.equal(model.seen[1], model.after[6])
    assert torch.equal(chosen[CURRENT]["weight"], model.after[6])
    assert all(not callback._trained for callback in run.callbacks if isinstance(callback, WeightEMA))  # type: ignore[attr-defined]
    assert differences(saved(folder)["state_dict"], saved(tmp_path / "unseen")["state_dict"]) == []


# ---------------------------------------------------------------- what it starts from, and who takes it over


@pytest.mark.parametrize("method", METHODS)
def test_every_method_starts_it_from_the_weights_of_the_stage_before(method: str, tmp_path: Path) -> None:
    path = str(tmp_path / "before.ckpt")
    save_checkpoint(small(method, seed=1), path)
    model = small(method, weights=path, ema=0.9)
    (average,) = [callback for callback in model.configure_callbacks() if isinstance(callback, WeightEMA)]
    assert average.decay == 0.9
    average.setup(None, model, "fit")  # type: ignore[arg-type]
    held, trained = average._average.module.state_dict(), read_checkpoint(path)["state_dict"]
    assert differences(dict(held), dict(trained)) == []
    for name, value in model.state_dict().items():
        assert held[name].stride() == value.stride(), name
        assert held[name].data_ptr() != value.data_ptr(), name
    assert average.state_dict() == {"latest_update_step": 0}


def test_the_next_stage_and_an_evaluation_take_the_average(tmp_path: Path) -> None:
    fitted(tmp_path / "run")
    path, average = str(tmp_path / "run/last.ckpt"), saved(tmp_path / "run")["state_dict"]["weight"]
    start = Watched()
    load_weights(start, path)
    assert torch.equal(start.weight, average)
    model = Watched()
    trainer(tmp_path, limit_val_batches=1.0).validate(model, clips(tmp_path), ckpt_path=path, weights_only=True)
    assert torch.equal(model.seen[0], average)
    fitted(tmp_path / "next", ema=0.9, settings={"weights": path, "lr": 0.0}, max_steps=1)
    torch.testing.assert_close(saved(tmp_path / "next")["state_dict"]["weight"], average, rtol=1e-6, atol=0)


# ---------------------------------------------------------------- going on


@pytest.mark.parametrize(
    ("callback", "arguments"),
    [
        (None, {}),
        (None, {"accumulate_grad_batches": 2}),
        (None, {"precision": "bf16-true"}),
        (None, {"bad": {2: nan_loss, 4: infinite_gradient}}),
        (Told, {"bad": {2: nan_loss, 5: infinite_gradient}}),
    ],
)
@pytest.mark.parametrize(("end", "ends"), [(Crash, RuntimeError), (Stop, SystemExit)])
def test_a_run_goes_on_bit_for_bit(
    callback: type[Callback] | None,
    arguments: dict[str, Any],
    end: Any,
    ends: type[BaseException],
    tmp_path: Path,
) -> None:
    def own() -> list[Callback]:
        return [] if callback is None else [callback()]

    whole = fitted(tmp_path / "run", *own(), ema=0.999, **arguments)
    one = {part: saved(tmp_path / "run")[part] for part in PARTS}
    (tmp_path / "run/last.ckpt").unlink()
    fitted(tmp_path / "run", *own(), end(4), ema=0.999, ends=ends, **arguments)
    stopped = saved(tmp_path / "run")
    assert stopped["global_step"] == (3 if end is Crash else 4)
    resumed = fitted(tmp_path / "run", *own(), ema=0.999, **arguments)
    assert differences(one, {part: saved(tmp_path / "run")[part] for part in PARTS}) == []
    assert torch.equal(whole.weight, resumed.weight)
    assert not torch.equal(one["state_dict"]["weight"], one[CURRENT]["weight"])


def test_two_processes_go_on_bit_for_bit(tmp_path: Path) -> None:
    two = {"devices": 2, "strategy": "ddp_fork", "ema": 0.999}
    model = fitted(tmp_path / "run", **two)
    one = {part: saved(tmp_path / "run")[part] for part in PARTS}
    assert torch.equal(model.weight, one["state_dict"]["weight"])
    (tmp_path / "run/last.ckpt").unlink()
    fitted(tmp_path / "run", Crash(4), ends=Exception, **two)
    assert saved(tmp_path / "run")["global_step"] == 3
    fitted(tmp_path / "run", **two)
    assert differences(one, {part: saved(tmp_path / "run")[part] for part in PARTS}) == []
    alone = fitted(tmp_path / "alone", ema=0.999)
    torch.testing.assert_close(one["state_dict"]["weight"], alone.weight.detach())


def test_a_run_goes_on_without_it(tmp_path: Path) -> None:
    """From the weights in training, not from their average."""
    plain = fitted(tmp_path / "plain", ema=None)
    fitted(tmp_path / "run", Crash(4), ends=RuntimeError)
    resumed = fitted(tmp_path / "run", ema=None)
    assert torch.equal(plain.after[6], resumed.after[6])
    assert CURRENT not in saved(tmp_path / "run")


def test_a_run_goes_on_with_it(tmp_path: Path) -> None:
    """Of the weights that are there, also where the first pass of a step is not yet one."""
    fitted(tmp_path / "run", Crash(4), ema=None, ends=RuntimeError, accumulate_grad_batches=2)
    before = saved(tmp_path / "run")
    with pytest.warns(UserWarning, match="not created with WeightAveraging"):
        resumed = fitted(tmp_path / "run", accumulate_grad_batches=2)
    average = before["state_dict"]["weight"].double()
    for n, step in enumerate((4, 5, 6)):
        d = min(0.5, (1 + n) / (10 + n))
        average = d * average + (1 - d) * resumed.after[step].double()
    torch.testing.assert_close(resumed.weight.detach().double(), average, rtol=1e-6, atol=1e-7)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("part", ["state_dict", CURRENT])
def test_neither_weights_nor_average_may_be_infinite(part: str, tmp_path: Path) -> None:
    fitted(tmp_path / "run", Crash(4), ends=RuntimeError)
    broken = saved(tmp_path / "run")
    broken[part]["weight"][1] = float("nan")
    path, name = str(tmp_path / "broken.ckpt"), "weight" if part == "state_dict" else rf"{CURRENT}\.weight"
    wrong = rf"1 of 2 entries are not finite \({name}\)"
    with pytest.raises(ValueError, match=rf"broken\.ckpt is not written: {wrong}"):
        AtomicCheckpointIO().save_checkpoint(broken, path)
    assert not Path(path).exists()
    torch.save(broken, path)
    with pytest.raises(ValueError, match=rf"broken\.ckpt: {wrong}"):
        read_checkpoint(path)
    with pytest.raises(ValueError, match=rf"the checkpoint: {wrong}"):
        trainer(tmp_path / "run").fit(Watched(), clips(tmp_path), ckpt_path=path, weights_only=True)
    broken[part] = [1.0]
    torch.save(broken, path)
    with pytest.raises(ValueError, match=rf"broken\.ckpt: '{part}' in it is not of the right kind"):
        read_checkpoint(path)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1])
def test_a_decay_that_is_none(decay: float) -> None:
    with pytest.raises(ValueError, match=rf"model\.ema={decay}: the decay of an average is between 0 and 1"):
        Learner(ema=decay)


def test_a_method_that_leaves_it_out(tmp_path: Path) -> None:
    class Forgetful(Learner):
        def configure_callbacks(self) -> list[Callback]:
            return []

    with pytest.raises(ValueError, match=r"model\.ema=0\.9: Forgetful\.configure_callbacks leaves out the average"):
        trainer(tmp_path / "run").fit(Forgetful(ema=0.9), clips(tmp_path))
