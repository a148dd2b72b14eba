"""The matching layer of DMM-Net (Zeng et al., ICCV 2019): which proposal continues which template, differentiably.

A linear assignment over ``n`` templates (rows) and ``m`` proposals (columns)::

    min <C, X>   subject to   X 1 = 1,   X^T 1 <= 1,   X >= 0        (1)

is solved by projected gradient descent, ``X <- P(X - alpha C)``, where Dykstra's algorithm approximates the projection
P onto the three sets of (1). Everything is unrolled, so gradients reach C. Clips of a batch may have different numbers
of templates and proposals: masks say what exists, and nothing waits for the device.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_vos.functional import to_float
from lightning_vos.methods.dmm_net.descent import assignment_sets, descend
from lightning_vos.settings import check_choices

Mode = Literal["paper", "official", "exact"]


class Schedule(NamedTuple):
    """How long and how finely a mode iterates when the caller does not say.

    Attributes:
        steps: N_grad, gradient steps.
        sweeps: N_proj, Dykstra sweeps of every projection.
        step_size: alpha.
        average: return the mean over the iterates instead of the last one.
    """

    steps: int
    sweeps: int
    step_size: float
    average: bool


SCHEDULES: dict[Mode, Schedule] = {
    "paper": Schedule(40, 5, 0.1, average=True),
    "official": Schedule(40, 5, 0.1, average=True),
    "exact": Schedule(50, 100, 1.0, average=False),
}


def relaxed_assignment(
    cost: Tensor,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
    *,
    mode: Mode = "paper",
    steps: int | None = None,
    sweeps: int | None = None,
    step_size: float | None = None,
    average: bool | None = None,
) -> Tensor:
    """Solve (1) by unrolled projected gradient descent from the greedy start; differentiable in ``cost``.

    * ``paper``: every projection starts afresh; the mean over the start and the projected iterates. Smooth, but forty
      small steps mostly keep the greedy start: conflicts between templates are often left unresolved.
    * ``official``: what the released weights were trained with. Dykstra's increments survive from step to step, both
      loops stop as soon as nothing changes, and the mean is over the start and the points *before* each projection:
      every entry is too large by about ``-alpha C``, so that rows sum to more than 1. With few proposals, rounding
      decides when the steps stop; then results may differ by some hundredths with padding or precision.
    * ``exact``: as ``paper``, but steps and sweeps for a clear optimum, and the last iterate.

    With exact projections the cost of the last iterate is within ``n / (alpha steps)`` of the optimum, whatever alpha.

    Args:
        cost: ``(B, n, m)`` C, any floating point type. A clip needs at least as many proposals as templates for (1) to
            have a solution: see :func:`add_dummies`.
        rows: ``(B, n)`` bool, templates that exist; all by default. Costs of what does not exist are never read.
        columns: ``(B, m)`` bool, proposals that exist; all by default.
        mode: see above.
        steps: N_grad, at least 1; 40 for ``paper`` and ``official`` (the authors train with 10), 50 for ``exact``.
        sweeps: N_proj, at least 1; 5 for ``paper`` and ``official``, 100 for ``exact``.
        step_size: alpha > 0; 0.1 for ``paper`` and ``official``, 1 for ``exact``.
        average: the mean over the iterates instead of the last projected one; the mode's own choice by default.

    Returns:
        ``(B, n, m)`` X, float32 or float64; 0 where template or proposal do not exist. Except in the ``official`` mean,
        the rows of existing templates sum to 1. As sweeps are finite, entries may leave [0, 1] by about 0.02.

    Raises:
        ValueError: unknown mode, a size or setting that is not positive, or masks of another shape.
    """
    check_choices(relaxed_assignment, {"mode": mode})
    default = SCHEDULES[mode]
    steps = default.steps if steps is None else steps
    sweeps = default.sweeps if sweeps is None else sweeps
    step_size = default.step_size if step_size is None else step_size
    if steps < 1 or sweeps < 1 or step_size <= 0:
        raise ValueError(f"{steps=}, {sweeps=}, {step_size=}: all must be positive")
    exists = existing_pairs(cost, rows, columns)
    # Half precision cannot add fifty entries up to 1; and whatever the padding holds, even NaN, must reach neither the
    # result nor the gradient.
    cost = to_float(cost).masked_fill(~exists, 0)
    last = total = greedy_assignment(cost, rows, columns)
    count = torch.ones_like(cost[:, :1, :1])
    official = mode == "official"
    for step in descend(cost, last, assignment_sets(exists, cost.dtype), steps, sweeps, step_size, official):
        last = step.after
        total = total + step.live * (step.before if official else step.after)
        count = count + step.live
    return total / count if (default.average if average is None else average) else last


def hungarian(cost: Tensor, rows: Tensor | None = None, columns: Tensor | None = None) -> Tensor:
    """The optimum of (1) by scipy's linear assignment: for test time, as it waits for the device and has no gradient.

    Args:
        cost: ``(B, n, m)``.
        rows: ``(B, n)`` bool, templates that exist; all by default.
        columns: ``(B, m)`` bool, proposals that exist; all by default. With fewer proposals than templates in a clip,
            the templates that cost most go without (a row of zeros), unless :func:`add_dummies` came before.

    Returns:
        ``(B, n, m)`` in {0, 1}, float32 or float64.

    Raises:
        ValueError: no templates, no proposals, masks of another shape, or an existing cost that is not a number.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import, and only this option needs it

    exists = existing_pairs(cost, rows, columns)
    host = cost.detach().double().cpu()
    matched = torch.zeros(cost.shape, dtype=torch.float64 if cost.dtype == torch.float64 else torch.float32)
    for clip, mask in enumerate(exists.cpu()):
        i, j = mask.any(dim=1).nonzero()[:, 0], mask.any(dim=0).nonzero()[:, 0]
        chosen_rows, chosen_columns = linear_sum_assignment(host[clip, i[:, None], j].numpy())
        matched[clip, i[chosen_rows], j[chosen_columns]] = 1
    return matched.to(cost.device)


def add_dummies(cost: Tensor, rows: Tensor | None = None, columns: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Make (1) solvable: a clip with no more proposals than templates gets dummies of cost 0, one more than templates.

    Dummies take slots without a proposal; if there are too few slots, new ones are appended. A template matched to a
    dummy is matched to nothing: in these slots, as in all without a proposal, the caller's masks and scores are 0.

    Args:
        cost: ``(B, n, m)``; m may be 0.
        rows: ``(B, n)`` bool, templates that exist; all by default.
        columns: ``(B, m)`` bool, proposals that exist; all by default.

    Returns:
        The cost ``(B, n, max(m, n + 1))`` and the columns ``(B, max(m, n + 1))`` that now exist, dummies included.

    Raises:
        ValueError: masks of another shape.
    """
    exists_row, exists_column = existing(cost, rows, columns)
    missing = max(cost.shape[1] + 1 - cost.shape[2], 0)
    cost, exists_column = F.pad(cost, (0, missing)), F.pad(exists_column, (0, missing))
    templates, proposals = exists_row.sum(dim=1, keepdim=True), exists_column.sum(dim=1, keepdim=True)
    wanted = (templates + 1 - proposals).clamp(min=0)
    dummy = ~exists_column & ((~exists_column).cumsum(dim=1) <= wanted)
    return cost.masked_fill(dummy.unsqueeze(1), 0), exists_column | dummy


def greedy_assignment(cost: Tensor, rows: Tensor | None = None, columns: Tensor | None = None) -> Tensor:
    """Every proposal goes to its cheapest template, every template keeps the cheapest proposal that it got.

    In formulas: keep the smallest entry of each column and set the others to ``max C``; the row's first smallest entry
    is its match. So a template that got no proposal falls back to the first one, and two templates may share it.

    Args:
        cost: ``(B, n, m)``.
        rows: ``(B, n)`` bool, templates that exist; all by default.
        columns: ``(B, m)`` bool, proposals that exist; all by default.

    Returns:
        ``(B, n, m)`` of the type of ``cost``, one-hot rows, no gradient; 0 where template or proposal do not exist.

    Raises:
        ValueError: no templates, no proposals, or masks of another shape.
    """
    exists = existing_pairs(cost, rows, columns)
    cost = cost.detach().masked_fill(~exists, torch.inf)
    cheapest = torch.zeros_like(exists).scatter(1, cost.argmin(dim=1, keepdim=True), True)
    highest = cost.masked_fill(~exists, -torch.inf).amax(dim=(1, 2), keepdim=True)
    left = torch.where(cheapest | ~exists, cost, highest)
    return torch.zeros_like(cost).scatter(2, left.argmin(dim=2, keepdim=True), 1) * exists


def existing(cost: Tensor, rows: Tensor | None, columns: Tensor | None) -> tuple[Tensor, Tensor]:
    """The masks ``(B, n)`` and ``(B, m)`` bool, all True where none is given.

    Raises:
        ValueError: ``cost`` is not ``(B, n, m)`` or a mask does not fit it.
    """
    if cost.dim() != 3:
        raise ValueError(f"cost of shape {tuple(cost.shape)}: expected (clips, templates, proposals)")
    found = []
    for name, mask, size in (("rows", rows, cost.shape[1]), ("columns", columns, cost.shape[2])):
        mask = torch.ones(len(cost), size, dtype=torch.bool, device=cost.device) if mask is None else mask
        if mask.shape != (len(cost), size):
            raise ValueError(f"{name} of shape {tuple(mask.shape)}: expected {(len(cost), size)}, as the cost has")
        found.append(mask)
    return found[0], found[1]


def existing_pairs(cost: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    """``(B, n, m)`` bool, where both template and proposal exist; needs room for at least one pair.

    Raises:
        ValueError: as :func:`existing`, or no room.
    """
    exists_row, exists_column = existing(cost, rows, columns)
    if not cost.shape[1] or not cost.shape[2]:
        raise ValueError(f"cost of shape {tuple(cost.shape)}: nothing to match; add_dummies makes up for no proposals")
    return exists_row.unsqueeze(2) & exists_column.unsqueeze(1)
