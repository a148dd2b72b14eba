"""Options of Lightning's under which a training would not be the run that its settings describe."""

from __future__ import annotations

from lightning import Callback, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    StochasticWeightAveraging,
    WeightAveraging,
)

# Callback -> what it would do, and what to use instead.
REFUSED: dict[type[Callback], str] = {
    GradientAccumulationScheduler: "it changes the steps of a run and their batches; set "
    "--trainer.accumulate_grad_batches, which keeps both",
    StochasticWeightAveraging: "it replaces the schedule of the learning rate; set --model.ema=0.999, or average "
    "checkpoints of several runs by python -m lightning_vos.average",
    WeightAveraging: "a run with it does not go on as one with model.ema does; set --model.ema=0.999 instead",
    BatchSizeFinder: "data.batch_size is that of the run, not what fits into memory; split it by "
    "--trainer.accumulate_grad_batches",
    LearningRateFinder: "it trains before the run; set --model.lr",
}


def check_whole(trainer: Trainer) -> None:
    """Refuse by name what would end a run early, or change its steps, without a word.

    Raises:
        ValueError: with the option, what it would do, and what to use instead.
    """
    shorter = "for a short run set --trainer.max_steps and another --trainer.default_root_dir"
    if fast := trainer.fast_dev_run:  # type: ignore[attr-defined]
        raise ValueError(
            f"trainer.fast_dev_run={fast}: its results would go among those of the real run; {shorter}, or add the "
            "callback callbacks.DryRun"
        )
    limit = trainer.limit_train_batches
    if isinstance(limit, int) or limit != 1.0:  # 1 is one pass, 1.0 is all of them
        raise ValueError(f"trainer.limit_train_batches={limit} would end the run before trainer.max_steps; {shorter}")
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for kind, reason in REFUSED.items():
            if isinstance(callback, kind):
                raise ValueError(f"trainer.callbacks: {type(callback).__name__}: {reason}")
