"""What HMMN does in training alone, and how it starts."""

from __future__ import annotations

from typing import Any

import torch
from conftest import small, squares
from torch import Tensor

from lightning_vos.functional import one_hot
from lightning_vos.methods.hmmn.alignment import alignment_loss


def test_kernel_is_off_in_training_unless_asked_for() -> None:
    frames, labels = squares(1, 4, 1)

    def trained(**settings: Any) -> Tensor:
        model = small("HMMN", fine__dropout=0.0, **settings).train()
        with model.sequence(), torch.no_grad():
            model.advance(model.encode(model.normalize(frames[:, 0])), one_hot(labels[:, 0], 1))
            return model.advance(model.encode(model.normalize(frames[:, 1])), None)

    assert torch.equal(trained(), trained(kernel__form="none"))
    assert not torch.equal(trained(kernel__in_training=True), trained(kernel__form="none"))


def test_alignment_loss_is_the_loop() -> None:
    torch.manual_seed(0)
    stored, query = torch.randn(2, 3, 4, 2, 3), torch.randn(2, 4, 2, 3, requires_grad=True)
    present = torch.tensor([[True, False, True], [True, False, False]])
    clips = []
    for b in range(2):
        variance = sum(query[b, c].var(correction=0) for c in range(4)) / 4
        errors = [(stored[b, k] - query[b]).pow(2).mean() / variance for k in range(3) if present[b, k]]
        clips.append(sum(errors) / len(errors))
    out = alignment_loss(stored.requires_grad_(), query, present)
    torch.testing.assert_close(out, sum(clips) / 2)
    out.backward()
    assert query.grad is None  # the query keys are what the memory keys follow
    assert stored.grad is not None
    assert alignment_loss(query.unsqueeze(1), query, present[:, :1]) == 0


def test_alignment_is_a_loss_of_training_only() -> None:
    frames, labels = squares(1, 4, 2)
    model = small("HMMN", alignment_weight=0.5).train()
    with model.sequence():
        for t in range(3):
            mask = one_hot(labels[:, 0], 2) if t == 0 else None
            model.advance(model.encode(model.normalize(frames[:, t])), mask, remember=t < 2)
        assert model.alignment.terms.shape == (2 * 3,)  # written frames, scales
        losses = model.auxiliary_losses(labels)
        torch.testing.assert_close(losses["alignment"], 0.5 * model.alignment.terms.mean())
    model.eval()
    with model.sequence():
        model.step(frames[:, 0], one_hot(labels[:, 0], 2))
        assert model.auxiliary_losses(labels) == {}


def test_same_trunks_start_alike() -> None:
    model = small("HMMN")
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        of_query = model.query16(model.query_encoder(image).f16)[0]
        of_memory = model.memory16(model.memory_encoder(torch.cat([image, torch.zeros(1, 2, 32, 32)], dim=1)).f16)[0]
    torch.testing.assert_close(of_memory, of_query)
