"""Costs of assignments, and how well they are solved."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_vos.methods.dmm_net.matching import (
    SCHEDULES,
    Mode,
)
from tests import reference_matching as reference

MODES: list[Mode] = list(SCHEDULES)


def uniform(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Costs of uniform similarities in [0, 1]."""
    return -torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@cache
def clear_gap(n: int, m: int, count: int = 25) -> tuple[Tensor, Tensor]:
    """Uniform costs whose best assignment beats the second best by at least 0.1, and the best assignments."""
    costs, optima = [], []
    for cost in uniform(40 * count, n, m):
        proposals, margin = reference.best_assignment(cost)
        if margin >= 0.1:
            costs.append(cost)
            optima.append(F.one_hot(proposals, m).to(cost.dtype))
        if len(costs) == count:
            break
    assert len(costs) == count
    return torch.stack(costs), torch.stack(optima)


def agreement(x: Tensor, best: Tensor) -> float:
    """Fraction of problems of which every template has its arg-max where the optimum has it."""
    return (x.argmax(dim=2) == best.argmax(dim=2)).all(dim=1).double().mean().item()
