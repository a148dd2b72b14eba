"""DMM-Net's matching layer: golden matrices and the invariants of its specification (numbers in names)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from dmm_costs import MODES, agreement, clear_gap, uniform
from dmm_scenes import (
    close,
)
from torch import Tensor

from lightning_vos.methods.dmm_net.descent import assignment_sets, descend, dykstra
from lightning_vos.methods.dmm_net.matching import (
    add_dummies,
    existing_pairs,
    greedy_assignment,
    relaxed_assignment,
)
from tests import reference_matching as reference

EASY = [[0.9, 0.6, 0.1], [0.8, 0.7, 0.2]]


CONFLICT = [[0.9, 0.85, 0.1, 0.3], [0.88, 0.2, 0.1, 0.3]]  # both templates like proposal 0 best


GOLDEN = [  # similarity, mode, settings, last iterate, average
    pytest.param(
        EASY,
        "paper",
        {"steps": 10},
        [[0.9981, 0.0025, -0.0006], [-0.0005, 0.9952, 0.0053]],
        [[0.9983, 0.0021, -0.0004], [-0.0004, 0.9958, 0.0046]],
        id="easy-10-reset",
    ),
    pytest.param(
        EASY,
        "official",
        {"steps": 10},
        [[0.9999, 0.0011, -0.0011], [-0.0036, 0.9951, 0.0085]],
        [[1.0811, 0.0560, 0.0084], [0.0706, 1.0594, 0.0246]],
        id="easy-10-carried",
    ),
    pytest.param(
        EASY,
        "official",
        {},
        [[1.0004, 0.0006, -0.0009], [-0.0037, 0.9961, 0.0075]],
        [[1.0878, 0.0594, 0.0089], [0.0748, 1.0642, 0.0269]],
        id="easy-40-carried",
    ),
    pytest.param(
        CONFLICT,
        "official",
        {"steps": 10},
        [[0.4036, 0.5737, -0.0010, 0.0237], [0.5949, 0.1350, 0.0350, 0.2350]],
        [[0.6390, 0.3934, 0.0447, 0.1184], [0.7041, 0.1435, 0.0935, 0.1935]],  # row 0 is wrong
        id="conflict-10-carried",
    ),
    pytest.param(
        CONFLICT,
        "paper",
        {"steps": 10},
        [[0.4037, 0.5736, -0.0009, 0.0236], [0.5950, 0.1350, 0.0350, 0.2350]],
        [[0.5030, 0.3682, 0.0355, 0.0932], [0.5874, 0.1375, 0.0875, 0.1875]],  # row 0 is wrong
        id="conflict-10-reset",
    ),
    pytest.param(
        CONFLICT,
        "paper",
        {},
        [[0.0161, 0.9924, -0.0042, -0.0042], [0.9753, -0.0010, -0.0044, 0.0302]],
        [[0.2601, 0.7129, 0.0057, 0.0213], [0.7577, 0.0559, 0.0216, 0.1648]],
        id="conflict-40-reset",
    ),
    pytest.param(
        CONFLICT,
        "official",
        {},
        [[0.0173, 0.9921, -0.0047, -0.0047], [0.9725, -0.0023, -0.0055, 0.0352]],
        [[0.3717, 0.7728, 0.0151, 0.0502], [0.8435, 0.0753, 0.0310, 0.1946]],
        id="conflict-40-carried",
    ),
    pytest.param(
        CONFLICT,
        "exact",
        {},
        [[0, 1, 0, 0], [1, 0, 0, 0]],
        [[0.0343, 0.9653, 0, 0.0004], [0.9854, 0.0030, 0.0007, 0.0109]],
        id="conflict-exact",
    ),
]


def sets_of(n: int, m: int) -> tuple:
    return assignment_sets(torch.ones(1, n, m, dtype=torch.bool), torch.float64)


def project(x: Tensor, sweeps: int) -> Tensor:
    """Projection of ``(B, n, m)`` onto the feasible set."""
    sets = assignment_sets(torch.ones_like(x, dtype=torch.bool), x.dtype)
    return dykstra(x, sets, [torch.zeros_like(x)] * 3, sweeps)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("similarity", "mode", "settings", "last", "mean"), GOLDEN)
def test_golden_matrices(
    similarity: list, mode: str, settings: dict, last: list, mean: list, dtype: torch.dtype
) -> None:
    cost = -torch.tensor([similarity], dtype=dtype)
    close(relaxed_assignment(cost, mode=mode, average=False, **settings)[0], last, 6e-5)
    close(relaxed_assignment(cost, mode=mode, average=True, **settings)[0], mean, 6e-5)


@pytest.mark.parametrize(
    ("steps", "mean"),
    [
        (10, [[0.9993, 0.0016, -0.0008], [-0.0024, 0.9953, 0.0072]]),
        (40, [[1.0000, 0.0009, -0.0009], [-0.0033, 0.9958, 0.0075]]),  # specified -0.0008: the loops say -0.00091, too
    ],
)
def test_golden_mean_of_projected_points_with_carried_increments(steps: int, mean: list) -> None:
    """What no mode returns, and what shows which of the two official peculiarities does what."""
    cost = -torch.tensor([EASY])
    start = greedy_assignment(cost)
    sets = assignment_sets(existing_pairs(cost, None, None), cost.dtype)
    points = [start, *(step.after for step in descend(cost, start, sets, steps, 5, 0.1, official=True))]
    close(reference.mean(points)[0], mean, 6e-5)
    loops = reference.descend(cost[0], steps, 5, 0.1, carry=True, stop=False)
    close(reference.mean([loops.start, *loops.after]), mean, 6e-5)


def test_12_classic_three_by_three() -> None:
    cost = torch.tensor([[[4.0, 1, 3], [2, 0, 5], [3, 2, 2]]])
    x = relaxed_assignment(cost, steps=100, sweeps=100, average=False)
    close(x[0], [[0, 1, 0], [1, 0, 0], [0, 0, 1]], 1e-4)
    assert (cost * x).sum().item() == pytest.approx(5, abs=1e-3)


@pytest.mark.parametrize(
    ("overlap", "match"),
    [([[0.9, 0.2, 0.1], [0, 0, 0]], [0, 0]), ([[0.9, 0.8, 0.7], [0.6, 0.1, 0.2]], [0, 0]), (EASY, [0, 1])],
)
def test_golden_greedy_start(overlap: list, match: list[int]) -> None:
    start = greedy_assignment(-torch.tensor([overlap]))
    assert torch.equal(start, F.one_hot(torch.tensor([match]), 3).float())


def test_01_rows_are_exact_after_any_sweep_and_the_rest_after_many() -> None:
    x = 3 * torch.randn(50, 4, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for sweeps in (1, 2, 5):
        assert (project(x, sweeps).sum(dim=2) - 1).abs().max() < 1e-6
        assert (project(x.float(), sweeps).sum(dim=2) - 1).abs().max() < 1e-5
    many = project(x, 400)
    assert many.sum(dim=1).max() <= 1 + 1e-4
    assert many.min() >= -1e-3


def test_01b_many_sweeps_are_the_projection() -> None:
    """z - P(z) makes no acute angle with the way from P(z) to any corner of the feasible set: all assignments."""
    x = torch.randn(20, 3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    nearest = project(x, 400)
    corners = F.one_hot(reference.all_assignments(3, 5), 5).to(x.dtype)
    angles = torch.einsum("bnm,bcnm->bc", x - nearest, corners - nearest.unsqueeze(1))
    assert angles.max() < 1e-3
    assert torch.einsum("bnm,bcnm->bc", x - nearest, corners - project(x, 1).unsqueeze(1)).max() > 0.1


def test_02_projections() -> None:
    x = torch.tensor([[[0.5, 1], [0.7, -0.2], [0.3, 0.4]]], dtype=torch.float64)
    nonnegative, columns, rows = sets_of(3, 2)
    close(nonnegative(x)[0], [[0.5, 1], [0.7, 0], [0.3, 0.4]])
    close(columns(x)[0], [[1 / 3, 14 / 15], [8 / 15, -4 / 15], [2 / 15, 1 / 3]])
    close(rows(x)[0], [[0.25, 0.75], [0.95, 0.05], [0.45, 0.55]])


@pytest.mark.parametrize("k", range(3))
def test_03_projections_are_idempotent_and_nonexpansive_and_dykstra_with_one_set(k: int) -> None:
    x, y = torch.randn(2, 200, 4, 7, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
    onto = assignment_sets(torch.ones_like(x, dtype=torch.bool), x.dtype)[k]
    close(onto(onto(x)), onto(x))
    assert (onto(x) - x).abs().max() > 0
    assert ((onto(x) - onto(y)).norm(dim=(1, 2)) <= (x - y).norm(dim=(1, 2))).all()
    for sweeps in (1, 6):
        close(dykstra(x, [onto], [torch.zeros_like(x)], sweeps)[0], onto(x))


@pytest.mark.parametrize("mode", MODES)
def test_04_order_of_templates_and_proposals_does_not_matter(mode: str) -> None:
    cost = uniform(60, 3, 20)
    # The fallback of the start, the first proposal, is the one thing that depends on the order.
    cost = cost[[set(c.argmin(dim=0).tolist()) == {0, 1, 2} for c in cost]]
    assert len(cost) > 50
    x = relaxed_assignment(cost, mode=mode)
    proposals, templates = torch.randperm(20, generator=torch.Generator().manual_seed(0)), torch.tensor([2, 0, 1])
    close(relaxed_assignment(cost[:, :, proposals], mode=mode), x[:, :, proposals], 1e-9)
    close(relaxed_assignment(cost[:, templates], mode=mode), x[:, templates], 1e-9)


def test_05_constants_do_not_change_the_exact_solution() -> None:
    cost, best = clear_gap(3, 6)
    shift = torch.tensor([0.3, -0.5, 0.1], dtype=cost.dtype).view(1, 3, 1)
    for shifted in (cost + shift, cost + 0.7, cost - 0.7):
        close(relaxed_assignment(shifted, mode="exact"), best, 0.05)


@pytest.mark.parametrize("mode", MODES)
def test_06_one_template_takes_the_cheapest(mode: str) -> None:
    cost, best = clear_gap(1, 20, 100)
    assert torch.equal(best.argmax(dim=2), cost.argmin(dim=2))
    for average in (False, True):
        x = relaxed_assignment(cost, mode=mode, average=average)
        assert agreement(x, best) == 1
        if mode == "exact":
            close(x, best, 0.01)


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_07_gradient(mode: str, average: bool) -> None:
    """Of everything but the start: against differences, with a template and two proposals that do not exist."""
    cost = uniform(2, 3, 6, seed=3).requires_grad_()
    rows = torch.tensor([[True] * 3, [True, True, False]])
    columns = torch.tensor([[True] * 6, [True, False, True, True, False, True]])
    settings = {"mode": mode, "steps": 6, "sweeps": 5, "average": average}
    assert torch.autograd.gradcheck(lambda c: relaxed_assignment(c, rows, columns, **settings), cost)
    weight = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((weight * relaxed_assignment(cost, rows, columns, **settings)).sum(), cost)
    exists = rows.unsqueeze(2) & columns.unsqueeze(1)
    assert gradient[exists].abs().max() > 1e-3
    assert not gradient[~exists].any()


def test_08_dummies_make_up_for_missing_proposals() -> None:
    cost = uniform(4, 3, 3)
    rows = torch.tensor([[True, True, True], [True, False, True], [True, False, False], [True, True, True]])
    columns = torch.tensor([[True, True, True], [False, True, False], [True, True, True], [False, False, False]])
    padded, exists = add_dummies(cost, rows, columns)
    assert padded.shape == (4, 3, 4)
    dummies = exists & ~F.pad(columns, (0, 1))
    # n + 1 proposals where m <= n: 4, 3, the 3 that are there, 4
    assert exists.sum(dim=1).tolist() == [4, 3, 3, 4]
    assert dummies.tolist() == [
        [False, False, False, True],
        [True, False, True, False],
        [False, False, False, False],
        [True, True, True, True],
    ]
    assert not padded.masked_select(dummies.unsqueeze(1)).any()
    real = F.pad(columns, (0, 1)).unsqueeze(1)
    assert torch.equal(padded.masked_select(real), F.pad(cost, (0, 1)).masked_select(real))
    x = relaxed_assignment(padded, rows, exists, mode="exact")
    close(x.sum(dim=2), rows.double(), 1e-9)
    # One proposal for two templates: the one that likes it more gets it, the other one gets nothing.
    winner = int(cost[1, [0, 2], 1].argmin()) * 2
    assert x[1, winner].argmax() == 1
    assert dummies[1, x[1, 2 - winner].argmax()]


def test_08b_no_proposals_at_all() -> None:
    padded, exists = add_dummies(torch.zeros(2, 3, 0))
    x = relaxed_assignment(padded, columns=exists)
    assert x.shape == (2, 3, 4)
    close(x.sum(dim=2), torch.ones(2, 3), 1e-6)


def test_08c_enough_proposals_are_left_alone() -> None:
    cost = uniform(2, 3, 5)
    padded, exists = add_dummies(cost)
    assert torch.equal(padded, cost)
    assert exists.all()
