"""REMN's read and its gate against plain loops (numbers as in its specification)."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from remn_banks import filled_bank, loop_read
from torch import Tensor

from lightning_vos.functional import l2_similarity, topk_read
from lightning_vos.methods.remn.memory import (
    DynamicMemoryBank,
    ModulationGate,
    describe,
    efficiency_loss,
    mixture_of_softmaxes,
    redundancy,
    removal_counts,
)


@pytest.mark.parametrize("top_k", [3, 20, None])
def test_read_equals_plain_loops(top_k: int | None) -> None:
    bank = filled_bank(4, batch=2, top_k=top_k).eval()
    query = torch.randn(2, 5, 8, dtype=torch.float64)
    out = bank.read(query)
    for b in range(2):
        for k in range(2):
            expected = loop_read(bank.keys[b].flatten(0, 1), bank.values[b, :, :, k].flatten(0, 1), query[b], top_k)
            torch.testing.assert_close(out[b, :, k], expected, rtol=0, atol=1e-12)


def test_08_similarity_is_the_squared_distance_up_to_a_constant() -> None:
    memory, query = torch.randn(2, 9, 64, dtype=torch.float64), torch.randn(2, 4, 64, dtype=torch.float64)
    weights = l2_similarity(memory, query).softmax(-1)
    expected = (-(memory.unsqueeze(1) - query.unsqueeze(2)).pow(2).sum(-1) / 8).softmax(-1)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, dtype=torch.float64))


def test_12_masked_positions_are_never_read_even_when_fewer_than_k_are_left() -> None:
    similarity = torch.randn(1, 4, 10, dtype=torch.float64)
    similarity[..., 2:] = -torch.inf
    values = torch.randn(1, 10, 3, dtype=torch.float64)
    values[:, 2:] = 1e9
    expected = similarity[..., :2].softmax(-1) @ values[:, :2]
    torch.testing.assert_close(topk_read(similarity, values, 5), expected, rtol=0, atol=1e-12)


def test_objects_are_read_only_from_frames_since_their_birth() -> None:
    bank = filled_bank(5).eval()
    query = torch.randn(1, 3, 8, dtype=torch.float64)
    out = bank.read(query, births=[0, 3])
    expected = loop_read(bank.keys[0, 3:].flatten(0, 1), bank.values[0, 3:, :, 1].flatten(0, 1), query[0], 20)
    torch.testing.assert_close(out[0, :, 1], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(out[:, :, 0], bank.read(query)[:, :, 0], rtol=0, atol=1e-12)


def gated_read(bank: DynamicMemoryBank, query: Tensor, weights: Tensor) -> Tensor:
    mixture = mixture_of_softmaxes(bank.similarity(query), bank.candidates(), weights)
    return (mixture.flatten(2) @ bank.values.flatten(1, 2).flatten(2)).view(*query.shape[:2], *bank.values.shape[3:])


def test_05_06_one_hot_gate_equals_physical_removal() -> None:
    query = torch.randn(1, 5, 8, dtype=torch.float64)
    for choice, removed in enumerate((0, 3, 4)):
        bank = filled_bank(8, enabled=False).train()
        mixed = gated_read(bank, query, torch.eye(3, dtype=torch.float64)[choice : choice + 1])
        bank.keep(bank.candidates()[:, choice])
        assert len(bank) == 8 - removed
        torch.testing.assert_close(mixed, bank.read(query), rtol=0, atol=1e-12)


def test_07_readout_is_affine_in_the_gate() -> None:
    bank, query = filled_bank(8), torch.randn(1, 5, 8, dtype=torch.float64)
    one, two = (torch.softmax(torch.randn(1, 3, dtype=torch.float64), -1) for _ in range(2))
    middle = gated_read(bank, query, (one + two) / 2)
    torch.testing.assert_close(middle, (gated_read(bank, query, one) + gated_read(bank, query, two)) / 2)


def test_09_candidates_are_nested_and_counted() -> None:
    counts = removal_counts(torch.tensor([6, 5, 2, 1, 0]))
    assert counts.tolist() == [[0, 3, 4], [0, 2, 3], [0, 1, 1], [0, 0, 0], [0, 0, 0]]
    bank = filled_bank(8, batch=3)
    sets = bank.candidates()
    assert sets.sum(-1).tolist() == [[8, 5, 4]] * 3
    assert (sets[:, 0] >= sets[:, 1]).all()
    assert (sets[:, 1] >= sets[:, 2]).all()
    assert sets[:, :, 0].all()  # the annotated frame
    assert sets[:, :, -1].all()  # the newest frame


def test_10_gate_gradients() -> None:
    torch.manual_seed(0)
    gate = DynamicMemoryBank(key_dim=8, capacity=None).double()
    source = filled_bank(7)
    keys = source.keys.detach().requires_grad_()
    query = torch.randn(1, 5, 8, dtype=torch.float64)

    def loss() -> Tensor:
        gate.reset()
        for t in range(7):
            gate.remember(keys[:, t], source.values[:, t], torch.ones(1, 6, dtype=torch.float64), t, t == 0)
        return gate.train().read(query).pow(2).sum()

    loss().backward()
    last, first = gate.gate.last, gate.gate.first
    assert last.bias.grad.abs().max() > 0
    assert first.weight.grad.abs().max() == 0  # the last layer's weight is 0
    with torch.no_grad():
        for parameter in gate.gate.parameters():
            parameter -= 0.1 * parameter.grad
            parameter.grad = None
    loss().backward()
    assert first.weight.grad.abs().max() > 0
    kappa = torch.randn(1, 7, 8, dtype=torch.float64, requires_grad=True)
    assert not torch.autograd.grad(
        gate.gate(kappa, torch.ones(1, 7, dtype=torch.bool)).sum(), kappa, allow_unused=True
    )[0]  # no gradient reaches the keys through z


def test_gate_starts_open() -> None:
    logits = ModulationGate(8)(torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool))
    torch.testing.assert_close(logits.softmax(-1)[0], torch.tensor([0.909, 0.045, 0.045]), rtol=0, atol=1e-3)


def test_11_efficiency_loss() -> None:
    assert efficiency_loss(torch.ones(4), 0.6).item() == pytest.approx(0.16)
    keep = torch.tensor([0.2, 1.0], requires_grad=True)  # the mean is at the target: the easy clip pays for the other
    loss = efficiency_loss(keep, 0.6)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert keep.grad.abs().max() < 1e-6


def test_inactive_gate_reads_plainly() -> None:
    bank, query = filled_bank(8).train(), torch.randn(1, 5, 8, dtype=torch.float64)
    bank.gate_active = False
    plain = filled_bank(8, enabled=False).train()
    torch.testing.assert_close(bank.read(query), plain.read(query), rtol=0, atol=1e-12)
    assert bank.kept == []


def test_redundancy_against_loops() -> None:
    torch.manual_seed(0)
    keys, foreground = torch.randn(5, 1, 6, 8, dtype=torch.float64), torch.rand(5, 1, 6, dtype=torch.float64)
    foreground[3] = 0.01  # less than one cell: mu falls back to kappa
    described = []
    for t in range(5):
        kappa = keys[t, 0].mean(0)
        weight = foreground[t, 0]
        mu = kappa if weight.sum() < 1 else (keys[t, 0] * weight[:, None]).sum(0) / weight.sum()
        expected = torch.cat([mu / mu.norm(), kappa / kappa.norm()]) / math.sqrt(2)
        kappa_out, descriptor = describe(keys[t], foreground[t])
        torch.testing.assert_close(kappa_out[0], kappa)
        torch.testing.assert_close(descriptor[0], expected)
        described.append(descriptor)
    stacked = torch.stack(described, dim=1)
    valid = torch.tensor([[True, True, False, True, True]])
    out = redundancy(stacked, valid)
    for t, before in ((1, 0), (3, 1), (4, 3)):  # slot 2 belongs to another clip
        cosine = torch.cosine_similarity(stacked[0, t], stacked[0, before], dim=0)
        assert out[0, t].item() == pytest.approx(1e4 * cosine.item(), abs=0.5)


@pytest.mark.slow
def test_12_gate_learns_to_prune_redundant_and_to_keep_diverse_clips() -> None:
    """Appendix A of the specification: a synthetic task that the gate must solve."""
    torch.manual_seed(0)
    steps, frames, positions, dim = 1500, 7, 16, 16
    bank = DynamicMemoryBank(key_dim=dim, capacity=None).train()
    optimizer = torch.optim.Adam(bank.parameters(), lr=1e-3)

    def clips(batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        redundant = torch.rand(batch) < 0.5
        diverse_keys = 2 * torch.randn(batch, frames, positions, dim) + 1.5 * torch.randn(batch, frames, 1, dim)
        copies = (2 * torch.randn(batch, 1, positions, dim)).expand(-1, frames, -1, -1)
        copies = copies + 0.05 * torch.randn(batch, frames, positions, dim)
        diverse_values = torch.randn(batch, frames, positions, 8)
        same_values = torch.randn(batch, 1, positions, 8).expand(-1, frames, -1, -1)
        pick = redundant.view(-1, 1, 1, 1)
        keys, values = torch.where(pick, copies, diverse_keys), torch.where(pick, same_values, diverse_values)
        source = torch.randint(0, frames, (batch, positions))
        b, i = torch.arange(batch)[:, None], torch.arange(positions)[None]
        return (
            redundant,
            keys,
            values,
            keys[b, source, i] + 0.05 * torch.randn(batch, positions, dim),
            values[b, source, i],
        )

    def fill(keys: Tensor, values: Tensor) -> None:
        bank.reset()
        for t in range(frames):
            foreground = torch.zeros(keys.shape[0], positions)  # only the kappa part of the descriptor
            bank.remember(keys[:, t], values[:, t].unsqueeze(2), foreground, t, protected=t == 0)

    for step in range(steps):
        bank.temperature = 0.1 ** min(1.0, step / 1200)
        _, keys, values, query, target = clips(32)
        fill(keys, values)
        loss = F.mse_loss(bank.read(query).squeeze(2), target) + efficiency_loss(bank.kept[0], bank.settings.target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    redundant, keys, values, _, _ = clips(512)
    fill(keys, values)
    choice = bank.gate(bank.kappa, bank.valid).argmax(dim=1)
    keep = torch.tensor([1.0, 0.5, 0.25])[choice]
    assert keep[redundant].mean() <= 0.35
    assert keep[~redundant].mean() >= 0.9
