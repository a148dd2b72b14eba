"""REMN's bank: bounded, in order, thinned out (numbers as in its specification)."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from remn_banks import filled_bank

from lightning_vos.methods.remn.memory import (
    DynamicMemoryBank,
    GateSettings,
    redundancy,
)


@pytest.mark.parametrize("ranking", ["redundancy", "oldest", "random"])
@pytest.mark.parametrize("batch", [1, 3])
def test_13_bank_is_bounded_and_in_order_for_ten_thousand_frames(batch: int, ranking: str) -> None:
    bank = filled_bank(0, min_frames=8, capacity=20, ranking=ranking).eval()
    frames = 10_000 if batch == 1 else 500
    largest = 0
    for t in range(frames):
        writes = torch.rand(batch) < 0.3 if t else torch.ones(batch, dtype=torch.bool)
        if not writes.any():
            continue
        torch.nn.init.normal_(bank.gate.last.bias, std=3.0)  # any decision may come
        key = torch.randn(batch, 1, 8, dtype=torch.float64)
        bank.remember(key, torch.randn(batch, 1, 1, 2, dtype=torch.float64), torch.rand(batch, 1), t, t == 0, writes)
        owned = bank.valid.sum(dim=1)
        largest = max(largest, int(owned.max()))
        assert owned.max() <= 20
        assert bank.valid[:, 0].all()
        assert bank.frame_ids[0] == 0
        assert (bank.valid[:, -1] == writes).all()
        assert bank.frame_ids[-1] == t
        assert all(a < b for a, b in pairwise(bank.frame_ids))
        assert bank.valid.any(dim=0).all()  # no storage that nobody owns
        assert {getattr(bank, name).shape[1] for name in bank._state} == {len(bank)}
    assert largest > 8


@pytest.mark.parametrize(("ratio", "expected"), [(0, {20}), (1, {5, 6, 7}), (2, {4, 5, 6, 7})])
def test_bank_sizes_under_a_constant_gate(ratio: int, expected: set[int]) -> None:
    bank = filled_bank(0, min_frames=8, capacity=20).eval()
    with torch.no_grad():
        bank.gate.last.weight.zero_()
        bank.gate.last.bias.copy_(torch.eye(3)[ratio])
    sizes = []
    for t in range(300):
        key = torch.randn(1, 1, 8, dtype=torch.float64)
        bank.remember(key, torch.randn(1, 1, 1, 2, dtype=torch.float64), torch.rand(1, 1), t, t == 0)
        sizes.append(len(bank))
    assert set(sizes[100:]) <= expected
    assert max(sizes[100:]) == max(expected)


def test_protected_frames_beyond_the_bound_are_all_kept() -> None:
    bank = filled_bank(0, capacity=3).eval()
    for t in range(8):
        key = torch.randn(1, 1, 8, dtype=torch.float64)
        bank.remember(
            key, torch.randn(1, 1, 1, 2, dtype=torch.float64), torch.rand(1, 1), t, protected=t in {0, 2, 4, 6}
        )
    assert bank.frame_ids == [0, 2, 4, 6, 7]  # max(T_max, G + 1)


def test_15_identical_frames_lose_their_older_half() -> None:
    bank = DynamicMemoryBank(key_dim=8, capacity=None, gate=GateSettings(min_frames=10_000)).double()
    key, value = torch.randn(1, 6, 8, dtype=torch.float64), torch.randn(1, 6, 1, 2, dtype=torch.float64)
    for t in range(8):
        bank.remember(key, value, torch.ones(1, 6, dtype=torch.float64), t, t == 0)
    assert (redundancy(bank.descriptor, bank.valid)[0, 1:] == 1e4).all()
    assert bank.candidates()[0, 1].nonzero().flatten().tolist() == [0, 4, 5, 6, 7]
