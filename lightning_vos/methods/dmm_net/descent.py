"""Projected gradient descent on a linear assignment: Dykstra's algorithm, and the three sets that it projects onto.

See :mod:`~lightning_vos.methods.dmm_net.matching` for the problem (1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Projection = Callable[[Tensor], Tensor]


class Step(NamedTuple):
    """One gradient step of :func:`descend`.

    Attributes:
        before: ``(B, n, m)`` the point before its projection, ``X - alpha C``.
        after: ``(B, n, m)`` the projected point, the next X.
        live: ``(B, 1, 1)`` of the type of X: 1, or 0 for a clip that has stopped, whose ``after`` is its last X.
    """

    before: Tensor
    after: Tensor
    live: Tensor


def descend(
    cost: Tensor,
    start: Tensor,
    projections: Sequence[Projection],
    steps: int,
    sweeps: int,
    step_size: float,
    official: bool = False,
) -> Iterator[Step]:
    """Projected gradient descent, ``X <- P(X - alpha C)``.

    Args:
        cost: ``(B, n, m)`` C, 0 where nothing exists.
        start: ``(B, n, m)`` the first X.
        projections: onto the sets whose intersection is feasible, in the order of a sweep.
        steps: N_grad.
        sweeps: N_proj.
        step_size: alpha.
        official: carry Dykstra's increments from step to step, stop its sweeps early, and stop a clip when the
            Frobenius norm of ``C o X``, taken before the projection, is exactly that of the step before.

    Yields:
        ``steps`` steps, also when all clips have stopped: to know that, the host would have to wait.
    """
    x = start
    increments: Sequence[Tensor] = [torch.zeros_like(cost)] * len(projections)
    live = torch.ones_like(cost[:, :1, :1], dtype=torch.bool)
    norm = torch.full_like(cost[:, :1, :1], torch.inf)
    for _ in range(steps):
        before = x - step_size * cost
        after, carried = dykstra(before, projections, increments, sweeps, stop=official)
        if official:
            previous, norm = norm, torch.linalg.vector_norm((before * cost).detach(), dim=(1, 2), keepdim=True)
            live = live & (norm != previous)
            after, increments = torch.where(live, after, x), carried
        x = after
        yield Step(before, after, live.to(x.dtype))


def dykstra(
    x: Tensor, projections: Sequence[Projection], increments: Sequence[Tensor], sweeps: int, stop: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """Dykstra's algorithm: the projection onto an intersection of convex sets, in the limit of many sweeps.

    A sweep does for every set k in turn: ``Y = P_k(Z + Q_k); Q_k <- Z + Q_k - Y; Z <- Y``.

    Args:
        x: ``(B, n, m)`` the point to project, Z at the start.
        projections: P_k; the last one holds exactly afterwards.
        increments: Q_k, ``(B, n, m)`` each; 0 for a projection of its own.
        sweeps: N_proj.
        stop: leave a clip as it is after a sweep that changed none of its entries. Not the same as going on: the
            increments may change while the point rests.

    Returns:
        ``(B, n, m)`` the projected point, and the increments.
    """
    increments = list(increments)
    live = torch.ones_like(x[:, :1, :1], dtype=torch.bool)
    for _ in range(sweeps):
        old, old_increments = x, list(increments)
        for k, project in enumerate(projections):
            target = x + increments[k]
            x = project(target)
            increments[k] = target - x
        if stop:
            x = torch.where(live, x, old)
            increments = [
                torch.where(live, new, before) for new, before in zip(increments, old_increments, strict=True)
            ]
            live = live & (x != old).flatten(1).any(dim=1)[:, None, None]
    return x, increments


def assignment_sets(exists: Tensor, dtype: torch.dtype) -> tuple[Projection, Projection, Projection]:
    """Projections onto the three sets of (1), in the order of a sweep.

    ``X >= 0``: negative entries become 0. ``X^T 1 <= 1``: the excess of a column is taken evenly from its entries.
    ``X 1 = 1``: the excess of a row likewise.

    Args:
        exists: ``(B, n, m)`` bool; the projections leave 0 where it is False.
        dtype: of the points.

    Returns:
        Functions from ``(B, n, m)`` to ``(B, n, m)``: non-negative, columns, rows.
    """
    weight = exists.to(dtype)
    of_column = weight / weight.sum(dim=1, keepdim=True).clamp(min=1)  # 1/n on what exists
    of_row = weight / weight.sum(dim=2, keepdim=True).clamp(min=1)  # 1/m

    def nonnegative(x: Tensor) -> Tensor:
        return F.relu(x)

    def columns(x: Tensor) -> Tensor:
        return x - of_column * F.relu(x.sum(dim=1, keepdim=True) - 1)

    def rows(x: Tensor) -> Tensor:
        return x - of_row * (x.sum(dim=2, keepdim=True) - 1)

    return nonnegative, columns, rows
