"""Steps whose loss or gradient is not finite: left out, counted, said; many in a row end the run."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor


class SkippedSteps(Callback):
    """Leaves out a step when its loss, or the norm of its gradient, is infinite or not a number.

    Weights and moments stay as they are. The step counts as one all the same: learning rate and samples go on as if its
    batch had taught nothing. All ranks skip a step when one of them must. Logged: ``train/skipped_steps``, how many so
    far.

    A GPU is not waited for: a fused optimiser is told by a tensor on the device to leave a step out, and the count is
    read every ``log_every_n_steps`` steps, when the logger waits in any case, and before anything is saved. An
    optimiser that is not fused needs an answer, and waits.

    Args:
        in_a_row: so many steps one after the other end the run; nothing is saved any more.

    Raises:
        ValueError: ``in_a_row`` below 1.
    """

    def __init__(self, in_a_row: int = 10) -> None:
        if in_a_row < 1:
            raise ValueError(f"in_a_row={in_a_row}: the run would end before it starts; give at least 1")
        self.in_a_row = in_a_row
        self._counts = torch.zeros(3, dtype=torch.int64)  # skipped steps: all, in a row just now, longest row
        self._bad_loss: Tensor | None = None
        self._said = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count where the steps are made."""
        self._counts = self._counts.to(pl_module.device)
        self._bad_loss = None

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Look at the loss of a pass."""
        bad = ~loss.detach().isfinite().all()
        self._bad_loss = bad if self._bad_loss is None else self._bad_loss | bad

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Look at the gradient, and leave the step out where it must be."""
        weights = [weight for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights])
        bad = ~norm.isfinite().to(self._counts.device)
        if self._bad_loss is not None:
            bad, self._bad_loss = bad | self._bad_loss, None
        if trainer.world_size > 1:  # the gradient is that of all ranks, the loss is not
            bad = trainer.strategy.reduce(bad.float(), reduce_op="max") > 0
        every, row, longest = self._counts
        row = (row + 1) * bad
        self._counts = torch.stack([every + bad, row, torch.maximum(longest, row)])
        if self._can_be_told(optimizer, bad.device):
            optimizer.found_inf = bad.float()  # type: ignore[attr-defined]  # what a gradient scaler would set
        elif bad:
            for weight in weights:
                weight.grad = None
        pl_module.log("train/skipped_steps", self._counts[0].float(), batch_size=1)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Say what was skipped.

        Raises:
            ValueError: too many in a row.
        """
        if not self._counts.is_cuda or trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._look(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to save a run that is to end.

        Raises:
            ValueError: too many in a row.
        """
        self._look(trainer)

    def state_dict(self) -> dict[str, int]:
        """The counts."""
        return {"skipped": int(self._counts[0]), "in_a_row": int(self._counts[1])}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on counting."""
        self._said = state_dict["skipped"]
        self._counts = torch.tensor([self._said, state_dict["in_a_row"], 0])

    def _can_be_told(self, optimizer: torch.optim.Optimizer, device: torch.device) -> bool:
        """Whether the optimiser takes a tensor for an answer; on a CPU there is nothing to wait for."""
        return device.type == "cuda" and all(group.get("fused") for group in optimizer.param_groups)

    def _look(self, trainer: Trainer) -> None:
        every, row, longest = self._counts.tolist()
        step = trainer.global_step
        if longest >= self.in_a_row:
            raise ValueError(
                f"step {step}: loss or gradient was not finite in {longest} steps in a row; the last checkpoint is as "
                "good as before them: start again from it with a lower --model.lr, or --trainer.precision=32-true"
            )
        if every > self._said:
            self._said = every
            rank_zero_warn(f"step {step}: loss or gradient is not finite; skipped, {every} so far, {row} in a row")
