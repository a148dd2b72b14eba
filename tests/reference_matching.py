"""Textbook version of DMM-Net's matching layer: one problem at a time, loops over rows and columns.

What the batched one is tested and timed against. Differentiable in the cost, too.
"""

from __future__ import annotations

from itertools import permutations
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def greedy(cost: Tensor) -> Tensor:
    """``(n, m)`` -> one-hot rows: in every column only the smallest entry counts, others are as bad as the worst."""
    cost = cost.detach()
    n, m = cost.shape
    worst = max(float(cost[i, j]) for i in range(n) for j in range(m))
    kept = [[worst] * m for _ in range(n)]
    for j in range(m):
        smallest = 0
        for i in range(1, n):
            if float(cost[i, j]) < float(cost[smallest, j]):
                smallest = i
        kept[smallest][j] = float(cost[smallest, j])
    start = torch.zeros_like(cost)
    for i in range(n):
        best = 0
        for j in range(1, m):
            if kept[i][j] < kept[i][best]:
                best = j
        start[i, best] = 1
    return start


def nonnegative(x: Tensor) -> Tensor:
    return x.clamp(min=0)


def columns(x: Tensor) -> Tensor:
    """Column sums at most 1."""
    projected = []
    for j in range(x.shape[1]):
        total = x[:, j].sum()
        projected.append(x[:, j] - (total - 1) / x.shape[0] if total > 1 else x[:, j])
    return torch.stack(projected, dim=1)


def rows(x: Tensor) -> Tensor:
    """Row sums exactly 1."""
    return torch.stack([x[i] - (x[i].sum() - 1) / x.shape[1] for i in range(x.shape[0])])


class Trace(NamedTuple):
    """Where the descent came by: the start, and every step's point before and after its projection, ``(n, m)`` each."""

    start: Tensor
    before: list[Tensor]
    after: list[Tensor]


def descend(cost: Tensor, steps: int, sweeps: int, step_size: float, carry: bool, stop: bool) -> Trace:
    """Projected gradient descent from the greedy start.

    ``carry``: keep Dykstra's increments from step to step. ``stop``: leave the sweeps when one changed nothing, and the
    steps when the norm of cost times point is that of the step before.
    """
    x = greedy(cost)
    trace = Trace(x, [], [])
    increments = [torch.zeros_like(cost) for _ in range(3)]
    norm = None
    for _ in range(steps):
        before = x - step_size * cost
        previous, norm = norm, float((before * cost).detach().norm())
        if stop and norm == previous:
            break
        if not carry:
            increments = [torch.zeros_like(cost) for _ in range(3)]
        x = before
        for _ in range(sweeps):
            last = x
            for k, project in enumerate((nonnegative, columns, rows)):
                target = x + increments[k]
                x = project(target)
                increments[k] = target - x
            if stop and torch.equal(x, last):
                break
        trace.before.append(before)
        trace.after.append(x)
    return trace


def mean(points: list[Tensor]) -> Tensor:
    return torch.stack(points).mean(dim=0)


def relaxed_assignment(cost: Tensor, mode: str, steps: int, sweeps: int, step_size: float, average: bool) -> Tensor:
    """``(n, m)`` -> ``(n, m)``."""
    official = mode == "official"
    trace = descend(cost, steps, sweeps, step_size, carry=official, stop=official)
    if not average:
        return trace.after[-1]
    return mean([trace.start, *(trace.before if official else trace.after)])


def all_assignments(n: int, m: int) -> Tensor:
    """``(m! / (m - n)!, n)`` the proposals of the templates in every possible assignment."""
    return torch.tensor(list(permutations(range(m), n)))


def assignment_costs(cost: Tensor, assignments: Tensor) -> Tensor:
    """``(B, n, m)``, ``(A, n)`` -> ``(B, A)``."""
    return sum(cost[:, i, assignments[:, i]] for i in range(cost.shape[1]))


def best_assignment(cost: Tensor) -> tuple[Tensor, float]:
    """``(n, m)`` -> the proposals ``(n,)`` of the best assignment, and by how much it beats the second best.

    The second best lacks at least one of the best one's pairs, so it is the best without one of them.
    """
    matrix = cost.numpy()
    _, best = linear_sum_assignment(matrix)
    optimum = sum(matrix[i, j] for i, j in enumerate(best))
    others = []
    for i, j in enumerate(best):
        without = matrix.copy()
        without[i, j] = 1e6
        others.append(without[linear_sum_assignment(without)].sum())
    return torch.from_numpy(best), min(others) - optimum
