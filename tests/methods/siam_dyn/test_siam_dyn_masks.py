"""Masks as an input of the network: spoiled ones in training, those found before in tracking."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import small, squares
from siam_dyn_cases import clips, close, drawn, predicted, rectangle, uniform
from torch import Tensor

from lightning_vos.functional import one_hot
from lightning_vos.methods.siam_dyn.correlation import Template
from lightning_vos.methods.siam_dyn.crop import crop_masks
from lightning_vos.methods.siam_dyn.network import Prediction
from lightning_vos.methods.siam_dyn.pairs import PairSettings, draw_numbers, make_pairs
from lightning_vos.methods.siam_dyn.previous_mask import NOTHING, PARTS, previous_masks

SPOIL = sum(PARTS)


def test_a_previous_mask_is_moved_with_other_edges_or_nothing() -> None:
    mask = rectangle(129, 129, 40, 50, 32, 24)[0].float()
    draws = torch.full((1, SPOIL), 0.5)
    still = previous_masks(mask, draws, 64, 0.0)
    assert set(still.unique().tolist()) == {0.0, 1.0}
    assert ((still > 0) & (mask > 0)).sum() / ((still > 0) | (mask > 0)).sum() > 0.95  # corners are rounded

    moved = draws.clone()
    moved[:, 0] = 1.0  # seen from 1/16 of the unit further to the right: 4 crop pixels to the left
    close(previous_masks(mask, moved, 64, 1.0)[..., :-4], still[..., 4:])

    spoiled = draws.clone()
    spoiled[:, 4:] = uniform(1, SPOIL - 4)
    differ = (previous_masks(mask, spoiled, 64, 1.0) - still)[0]
    assert 0.02 < differ.abs().sum() / still.sum() < 0.5
    rows, columns = differ.nonzero().unbind(dim=1)  # nowhere but near the edges
    assert (
        ((rows - 50).abs().minimum((rows - 73).abs()) <= 3)
        .logical_or((columns - 40).abs().minimum((columns - 71).abs()) <= 3)
        .all()
    )

    share = torch.linspace(0, 0.999, 1000)
    none = draws.repeat(1000, 1)
    none[:, 3] = share
    found = previous_masks(mask.expand(1000, -1, -1), none, 64, 1.0)
    assert torch.equal(found.flatten(1).any(dim=1), share >= NOTHING)


def test_every_second_pair_sees_the_networks_own_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("SiamDyn", mask_input=True).train()
    own = torch.zeros(33, 33)
    own[10:20, 12:22] = 1
    seen: list[Tensor] = []
    forward = model.network.forward

    def spy(windows: Tensor, template: Template) -> Prediction:
        seen.append(windows)
        if len(seen) > 1:
            return forward(windows, template)
        one = predicted(mask=own)
        return Prediction(*(part.expand(len(windows), *part.shape[1:]) for part in one))

    monkeypatch.setattr(model.network, "forward", spy)
    batch = clips(2, frames=4)  # three pairs a clip
    model.training_step(batch, 0)
    first, second = seen
    assert len(first) == 2
    assert len(second) == 6
    draws = draw_numbers(model.draw, range(2), 3, torch.device("cpu"))
    objects = torch.arange(3).expand(2, 3) % batch.num_objects.unsqueeze(1) + 1
    frames = model.normalize(batch.frames.flatten(0, 1)).unflatten(0, (2, 4))
    pairs = make_pairs(frames, batch.masks, objects, draws, PairSettings(64, 129, 0.2, 1.0))
    expected = previous_masks(pairs.masks, pairs.spoil, 64, 1.0)
    for place, n in enumerate((1, 4)):
        aided = pairs.spoil[n, 3] < 0.5
        assert torch.equal(first[place, 3], expected[n] * aided)
        found = F.interpolate(own[None, None], size=129, mode="bilinear", align_corners=True)[0] > 0.5
        expected[n] = previous_masks(found.float(), pairs.spoil[n : n + 1], 64, 1.0)[0]
    assert torch.equal(second[:, 3], expected)


def test_search_windows_carry_the_mask_found_before_and_templates_their_own() -> None:
    frames, labels = squares(1, 4, 2, size=(64, 64))
    masks = one_hot(labels[:, 0], 2)
    model = small("SiamDyn", mask_input=True)
    with torch.no_grad():
        model.network.controller.bias[-1] += 0.4  # all mask logits: an untrained network would find nothing
    seen: list[Tensor] = []
    model.network.trunk.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))

    def windows(labels: Tensor, size: int) -> Tensor:
        one_each = model.state.target.flattened().one_each()
        return crop_masks(one_hot(labels, 2)[0], one_each, 64, size).squeeze(1)

    with model.sequence():
        model.step(frames[:, 0], masks)
        assert torch.equal(seen[0][:, 3], windows(labels[:, 0], 65))
        found = labels[:, 0]
        for t in range(1, 4):
            expected = windows(found, 129)
            found = model.step(frames[:, t]).argmax(dim=1)
            assert found.any()
            assert torch.equal(seen[t][:, 3], expected)
    batch = clips(2)
    draws = drawn(2, 2)
    objects = torch.ones(2, 2, dtype=torch.long)
    plain, marked = (
        make_pairs(batch.frames.float(), batch.masks, objects, draws, PairSettings(64, 129, mask_input=seen))
        for seen in (False, True)
    )
    assert torch.equal(plain.templates, marked.templates[:, :3])
    assert set(marked.templates[:, 3].unique().tolist()) == {0.0, 1.0}
