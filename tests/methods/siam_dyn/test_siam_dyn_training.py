"""SiamDyn in training: what learns from what, and settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import small, squares
from siam_dyn_cases import clips
from torch import Tensor

from lightning_vos import SiamDyn
from lightning_vos.functional import one_hot
from lightning_vos.methods.siam_dyn.pairs import make_pairs
from lightning_vos.types import Clip, ClipBatch


def trained_parts(model: SiamDyn, batch: ClipBatch, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    parts: dict[str, Tensor] = {}

    def kept(losses: dict[str, Tensor], size: int) -> Tensor:
        parts.update(losses)
        return torch.stack(list(losses.values())).sum()

    monkeypatch.setattr(model, "log_losses", kept)
    parts["sum"] = model.training_step(batch, 0)
    return parts


@pytest.mark.parametrize("hidden", [False, True])
def test_16_17_without_a_positive_pair_only_the_cells_learn(hidden: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("SiamDyn", negatives=0.0 if hidden else 1.0).train()
    batch = clips(2)
    if hidden:
        batch.masks[:, 1:] = 0
    parts = trained_parts(model, batch, monkeypatch)
    assert [parts[name].item() for name in ("box", "centreness", "dice", "mask_entropy")] == [0, 0, 0, 0]
    assert parts["cls"] > 0
    parts["sum"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert not any(p.grad.any() for p in model.network.controller.parameters())
    assert any(p.grad.any() for p in model.network.cls.parameters())


def test_22_what_the_mask_loss_alone_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("SiamDyn", negatives=0.0).train()
    parts = trained_parts(model, clips(2), monkeypatch)
    (parts["dice"] + parts["mask_entropy"]).backward()
    net = model.network
    for moved in (net.controller, net.masks, net.describe.template, net.describe.search, net.trunk.layer3, net.adjust):
        assert all(p.grad.any() for p in moved.parameters() if p.ndim > 1)
    for still in (net.cls, net.ctr, net.locate_tower, net.locate):
        assert not any(p.grad is not None and p.grad.any() for p in still.parameters())


def test_a_single_picture_is_paired_with_itself() -> None:
    model = small("SiamDyn").train()
    assert torch.isfinite(model.training_step(clips(2, frames=1), 0))


def test_every_object_has_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("SiamDyn").train()
    seen: list[list[list[int]]] = []

    def spy(frames: Tensor, labels: Tensor, objects: Tensor, *rest: Any) -> Any:
        seen.append(objects.tolist())
        return make_pairs(frames, labels, objects, *rest)

    monkeypatch.setattr("lightning_vos.methods.siam_dyn.module.make_pairs", spy)
    pictures, labels = squares(2, 4, 3, size=(48, 48))
    labels[1][labels[1] > 1] = 0
    model.training_step(ClipBatch.collate([Clip(pictures[0], labels[0], 3), Clip(pictures[1], labels[1], 1)]), 0)
    assert seen == [[[1, 2, 3], [1, 1, 1]]]


def test_a_pretrained_trunk_is_frozen_at_first_and_its_first_layers_for_good() -> None:
    model = small("SiamDyn", norm="frozen_batch", frozen_until=0.5).train()
    trunk = model.network.trunk
    fixed = [*trunk.stem.parameters(), *trunk.layer1.parameters()]
    assert not any(p.requires_grad for p in fixed)
    groups = model.parameter_groups()
    assert [factor for _, factor in groups] == [1.0, 0.1]
    assert {id(p) for p in groups[1][0]} == {
        id(p) for stage in (trunk.layer2, trunk.layer3) for p in stage.parameters()
    }
    assert sum(len(group) for group, _ in groups) == sum(p.requires_grad for p in model.parameters())
    model.training_step(clips(2), 0).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    model.on_before_optimizer_step(torch.optim.SGD(groups[1][0], lr=1.0))
    assert all(p.grad is None for p in trunk.parameters())
    assert all(p.grad is not None for p in groups[0][0])

    free = small("SiamDyn").train()
    free.training_step(clips(2), 0).backward()
    free.on_before_optimizer_step(torch.optim.SGD(free.parameters(), lr=1.0))
    assert all(p.grad is not None for p in free.parameters())
    assert [factor for group, factor in free.parameter_groups() if group] == [1.0]
    marked = small("SiamDyn", norm="frozen_batch", mask_input=True)  # no pretrained stem knows a mask
    assert all(p.requires_grad for p in marked.network.trunk.stem.parameters())


@pytest.mark.parametrize(
    "form",
    [
        {"head.kernel": "static"},
        {"head.layers": 1, "head.mask_channels": 24, "head.coordinates": False},
        {"head.coordinates": False},
        {"tracking.state_from": "box"},
        {"mask_input": True},
    ],
)
def test_other_forms_train_and_track(form: dict[str, Any]) -> None:
    model = small("SiamDyn", **form)
    frames, labels = squares(1, 3, 2)
    with model.sequence():
        model.step(frames[:, 0], one_hot(labels[:, 0], 2))
        assert torch.isfinite(model.step(frames[:, 1])).all()
    model.train().training_step(clips(2), 0).backward()
    assert all(p.grad is not None for p in model.parameters())
    if form.get("head.kernel") == "static":
        assert model.network.controller is None
        assert model.network.theta.grad.any()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"head.kernel": "none"}, "kernel=none: choose from dynamic, static"),
        ({"tracking.state_from": "x"}, "state_from=x: choose from mask, box"),
        ({"search_size": 255}, "search_size=255: must be 1 mod 16"),
        ({"template_size": 49}, "template_size=49: .*at least 65"),
        ({"head.layers": 0}, r"head\.layers=0: must be at least 1"),
        ({"negatives": 1.5}, "negatives=1.5: must be from 0 to 1"),
        ({"tracking.window": -1}, r"tracking\.window=-1: must be from 0 to 1"),
    ],
)
def test_wrong_settings_are_explained(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small("SiamDyn", **setting)
