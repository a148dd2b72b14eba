"""REMN's losses, and what the order of objects must not change (numbers as in its specification)."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import small, squares

from lightning_vos.functional import aggregate, one_hot
from lightning_vos.methods.remn.contrastive import correspondence_loss, pure_labels


def test_19_aggregation_of_one_object() -> None:
    p = torch.tensor([0.8, 0.5, 0.01], dtype=torch.float64).view(1, 1, 1, 3)
    out = torch.softmax(aggregate(p), dim=1)
    torch.testing.assert_close(out[:, 1:], p**2 / (p**2 + (1 - p) ** 2), rtol=0, atol=1e-9)
    assert out[0, 1, 0, 0].item() == pytest.approx(0.941176, abs=1e-6)
    torch.testing.assert_close(out.sum(1), torch.ones(1, 1, 3, dtype=torch.float64))


def test_20_contrastive_loss_of_a_uniform_and_of_a_pure_affinity() -> None:
    memory_labels = torch.tensor([[1] + [0] * 9])
    query_labels = torch.tensor([[1]])
    uniform = correspondence_loss(torch.zeros(1, 1, 4), query_labels, torch.zeros(1, 10, 4), memory_labels)
    assert uniform.item() == pytest.approx(2.302585, abs=1e-5)
    keys = 100 * F.one_hot(memory_labels, 4).double()
    pure = correspondence_loss(keys[:, :1], query_labels, keys, memory_labels)
    assert pure.item() == pytest.approx(0, abs=1e-6)


def test_20b_contrastive_loss_against_loops() -> None:
    torch.manual_seed(0)
    query, memory = torch.randn(2, 6, 4, dtype=torch.float64), torch.randn(2, 9, 4, dtype=torch.float64)
    query_labels, memory_labels = torch.randint(-1, 3, (2, 6)), torch.randint(-1, 3, (2, 9))
    clips = []
    for b in range(2):
        per_label: dict[int, list[float]] = {}
        pure = [j for j in range(9) if memory_labels[b, j] >= 0]
        for i in range(6):
            label = int(query_labels[b, i])
            if label < 0:
                continue
            weights = {j: math.exp(-float((memory[b, j] - query[b, i]).pow(2).sum()) / 2) for j in pure}
            mass = sum(w for j, w in weights.items() if memory_labels[b, j] == label) / sum(weights.values())
            per_label.setdefault(label, []).append(-math.log(mass + 1e-8))
        clips.append(sum(sum(v) / len(v) for v in per_label.values()) / len(per_label))
    out = correspondence_loss(query, query_labels, memory, memory_labels)
    assert out.item() == pytest.approx(sum(clips) / 2, rel=1e-6)


def test_pure_labels_of_cells() -> None:
    labels = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    labels[..., :16, :16] = 2
    labels[..., 16:, :8] = 1
    labels[..., 0, 0] = 0  # 1 of 256 pixels does not matter
    assert pure_labels(labels, 16).tolist() == [[[2, 0, -1, 0]]]


def test_21_object_order_changes_neither_the_bank_nor_the_update() -> None:
    model = small("REMN").double()
    frames, labels = squares(1, 12, 2)
    written = []
    for first, second in ((1, 2), (2, 1)):
        masks = torch.stack([labels[:, 0] == first, labels[:, 0] == second], dim=1).double()
        with model.sequence():
            for t in range(12):
                model.step(frames[:, t], masks if t == 0 else None)
            written.append(list(model.bank.frame_ids))
    assert written[0] == written[1]
    assert len(written[0]) > 1


def test_contrastive_and_efficiency_terms_reach_the_network() -> None:
    model = small("REMN", contrastive_weight=0.1, gate__start=0.0).train()
    frames, labels = squares(2, 6, 1, size=(64, 64))
    with model.sequence():
        features = model.encode(model.normalize(frames.flatten(0, 1)))
        for t in range(6):
            part = type(features)(*(x.unflatten(0, (2, 6))[:, t] for x in features))
            model.advance(part, one_hot(labels[:, 0], 1) if t == 0 else None, remember=t < 5)
        losses = model.auxiliary_losses(labels)
    assert losses.keys() == {"efficiency", "contrastive"}
    losses["efficiency"].backward(retain_graph=True)
    assert model.bank.gate.last.bias.grad.abs().max() > 0
    losses["contrastive"].backward()
    assert model.projection.key.weight.grad.abs().max() > 0
