"""SiamDyn on videos: what moves its states, what they leave alone, what does not grow."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import small, squares
from siam_dyn_cases import close, predicted, rectangle

from lightning_vos import SiamDyn
from lightning_vos.functional import one_hot
from lightning_vos.methods.siam_dyn.network import Prediction


def test_two_targets_that_look_alike_do_not_both_follow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = torch.zeros(33, 33)
    mask[12:21, 12:21] = 1
    sure, unsure = predicted(mask=2 * mask), predicted(mask=mask)
    both = Prediction(*(torch.cat(parts) for parts in zip(sure, unsure, strict=True)))
    frames, _ = squares(1, 4, 2, size=(64, 64))
    given = torch.zeros(1, 2, 64, 64)
    given[:, 0, 20:40, 20:40:2], given[:, 1, 20:40, 21:40:2] = 1, 1  # in one place, the first is the surer one
    stayed = []
    for compete in (False, True):
        model = tracker(monkeypatch, both, tracking__compete=compete)
        with model.sequence():
            model.step(frames[:, 0], given)
            start = model.state.centre.clone()
            for t in range(1, 4):
                model.step(frames[:, t])
            stayed.append((model.state.centre - start).abs().amax(dim=2)[0, 1].item())
            assert model.lost_targets is not None
            assert model.lost_targets[0, 1].item() is compete
    assert stayed[1] == 0


def tracker(monkeypatch: pytest.MonkeyPatch, *predictions: Prediction, **settings: Any) -> SiamDyn:
    """A model whose network says what it is told, frame by frame; the last prediction goes on."""
    model = small("SiamDyn", **{"tracking.lost_score": 0.1, "tracking.lost_area": 20.0, **settings})
    left = list(predictions)
    monkeypatch.setattr(model.network, "forward", lambda *inputs: left.pop(0) if len(left) > 1 else left[0])
    return model


def test_a_target_that_leaves_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = torch.zeros(33, 33)
    mask[14:22, 14:22] = 1
    there, gone = predicted(mask=mask), predicted(cls=-9.0)
    model = tracker(monkeypatch, there, gone, gone, gone, there)
    frames, labels = squares(1, 7, 1, size=(64, 64))
    with model.sequence():
        model.step(frames[:, 0], one_hot(labels[:, 0], 1))
        states, lost = [], []
        for t in range(1, 6):
            out = model.step(frames[:, t])
            assert model.lost_targets is not None
            lost.append(model.lost_targets.tolist())
            states.append((model.state.centre.clone(), model.state.size.clone()))
            assert (out.argmax(dim=1).any()).item() == (t in (1, 5))
        assert lost == [[[gone]] for gone in (False, True, True, True, False)]
    assert model.lost_targets is None
    for kept in states[1:4]:
        assert torch.equal(kept[0], states[0][0])
        assert torch.equal(kept[1], states[0][1])
    assert not torch.equal(states[4][0], states[0][0])


@pytest.mark.parametrize(
    ("rows", "columns"), [((0, 8), (0, 8)), ((56, 64), (60, 64)), ((20, 21), (30, 32)), ((0, 64), (0, 64))]
)
def test_targets_at_the_border_tiny_and_as_large_as_the_frame(rows: tuple[int, int], columns: tuple[int, int]) -> None:
    model = small("SiamDyn")
    frames, labels = squares(1, 6, 1, size=(64, 64))
    labels = torch.zeros_like(labels)
    labels[:, 0, rows[0] : rows[1], columns[0] : columns[1]] = 1
    with model.sequence():
        out = model.step(frames[:, 0], one_hot(labels[:, 0], 1))
        assert torch.equal(out.argmax(1), labels[:, 0].long())
        assert (model.state.size >= 10).all()
        for t in range(1, 6):
            assert torch.isfinite(model.step(frames[:, t])).all()
            assert ((model.state.centre >= 0) & (model.state.centre <= 63)).all()
            assert ((model.state.size >= 10) & (model.state.size <= 64)).all()


def test_21_nothing_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = torch.zeros(33, 33)
    mask[10:20, 12:22] = 1
    model = tracker(monkeypatch, predicted(mask=mask))
    frames, labels = squares(1, 2, 1, size=(16, 24))

    def sizes() -> dict[str, tuple[int, ...]]:
        return {name: tuple(buffer.shape) for name, buffer in model.named_buffers()}

    with model.sequence():
        model.step(frames[:, 0], one_hot(labels[:, 0], 1))
        model.step(frames[:, 1])
        before = sizes()
        for _ in range(100):
            model.step(frames[:, 1])
        assert sizes() == before


def test_the_network_sees_windows_of_one_size_whatever_the_frame() -> None:
    model = small("SiamDyn")
    shapes = []
    model.network.trunk.register_forward_pre_hook(lambda module, inputs: shapes.append(tuple(inputs[0].shape)))
    for size in ((40, 40), (90, 130)):
        frames, labels = squares(1, 2, 3, size=size)
        with model.sequence():
            model.step(frames[:, 0], one_hot(labels[:, 0], 3))
            model.step(frames[:, 1])
    assert shapes == [(3, 3, 65, 65), (3, 3, 129, 129)] * 2  # one pass for all objects


def test_an_object_is_tracked_as_if_it_were_alone() -> None:
    model = small("SiamDyn", tracking__compete=False).double()
    frames, labels = squares(1, 6, 2)
    states = []
    for chosen_ones in ([1, 2], [1], [2]):
        with model.sequence():
            masks = one_hot(labels[:, 0], 2)[:, [k - 1 for k in chosen_ones]]
            for t in range(6):
                model.step(frames[:, t], masks if t == 0 else None)
            states.append(torch.cat([model.state.centre, model.state.size], dim=-1)[0])
    close(states[0], torch.cat(states[1:]), atol=1e-9)


def test_a_correction_moves_the_state_and_keeps_the_template() -> None:
    model = small("SiamDyn")
    frames, labels = squares(1, 3, 1, size=(64, 64))
    with model.sequence():
        model.step(frames[:, 0], one_hot(labels[:, 0], 1))
        kernel = model.state.describe
        model.step(frames[:, 1], rectangle(64, 64, 4, 6, 12, 14).float())
        assert torch.equal(model.state.describe, kernel)
        assert model.state.centre[0, 0].tolist() == [9.5, 12.5]
