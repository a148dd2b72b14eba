"""DMM-Net's second stage: its losses against plain loops, what it trains, and what it starts from."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import small, squares
from dmm_scenes import (
    SIZE,
    close,
    first_stage,
    overlap,
    rand,
    randn,
    trained,
)
from torch import Tensor

from lightning_vos import DMMNet, official
from lightning_vos.functional import one_hot
from lightning_vos.methods.dmm_net.losses import match_loss, soft_iou_loss
from lightning_vos.types import Clip, ClipBatch
from tests import reference_matching as reference


def test_soft_iou_loss_is_the_loop() -> None:
    probs, masks = rand(2, 3, 5, 6), (rand(2, 3, 5, 6, seed=1) > 0.5).double()
    loss = soft_iou_loss(probs, masks)
    for b in range(2):
        for k in range(3):
            shared = union = 0.0
            for p, y in zip(probs[b, k].flatten().tolist(), masks[b, k].flatten().tolist(), strict=True):
                shared += p * y
                union += p + y - p * y
            assert float(loss[b, k]) == pytest.approx(1 - shared / (union + 1e-6), abs=1e-12)
    assert soft_iou_loss(masks, masks).abs().max() < 1e-6
    empty = torch.zeros(1, 1, 5, 6, requires_grad=True)
    soft_iou_loss(empty, torch.zeros(1, 1, 5, 6)).sum().backward()
    assert torch.isfinite(empty.grad).all()


@pytest.mark.parametrize("balanced", [False, True])
def test_match_loss_is_the_loop(balanced: bool) -> None:
    """Four clips: all found; a faint object, a missing slot and a missing proposal; no proposal; nothing found."""
    labels = torch.zeros(4, 20, 30, dtype=torch.uint8)
    labels[:, 2:10, 2:10], labels[:, 12:18, 3:12], labels[:, 4:16, 16:28] = 1, 2, 3
    masks = one_hot(labels, 3)
    duplicate = masks[0, 2].roll(1, dims=-1)  # after the shift of all by two an IoU of 0.6
    proposals = 0.9 * torch.stack([masks[0, 2], masks[0, 0], masks[0, 1], (masks[0, 0] + masks[0, 1]), duplicate])
    proposals = proposals.roll(2, dims=-1).expand(4, 5, 20, 30).clone()
    proposals[1, 2] = 0
    proposals[1, 3, :, :] = 0
    proposals[1, 3, 12, 3:6] = 1  # 3 of 54 pixels of object 2: an IoU below 0.1
    proposals[3] = 0
    valid = torch.tensor([[True] * 5, [True, True, False, True, True], [False] * 5, [True] * 5])
    present = torch.tensor([[True] * 3, [True, True, False], [True] * 3, [True] * 3])
    cosine = randn(4, 3, 5).requires_grad_()
    losses = []
    for b in range(4):
        columns = [j for j in range(5) if valid[b, j]]
        iou = [[overlap(masks[b, k] > 0.5, proposals[b, j] > 0.5) for j in columns] for k in range(3)]
        rows = [k for k in range(3) if present[b, k] and max(iou[k], default=0) >= 0.1]
        if not rows:
            losses.append(torch.zeros((), dtype=torch.float64))
            continue
        target = reference.greedy(-torch.tensor([iou[k] for k in rows], dtype=torch.float64))
        errors: dict[float, list[Tensor]] = {0.0: [], 1.0: []}
        for row, k in enumerate(rows):
            for column, j in enumerate(columns):
                if balanced and not target[row, column] and iou[k][column] >= 0.5:
                    assert (b, k, j) == (0, 2, 4)
                    continue
                errors[float(target[row, column])].append((cosine[b, k, j] - target[row, column]) ** 2)
        groups = list(errors.values()) if balanced else [errors[0.0] + errors[1.0]]
        losses.append(torch.stack([torch.stack(group).mean() for group in groups]).mean())
    assert [loss.item() == 0 for loss in losses] == [False, False, True, True]
    loss = match_loss(cosine, proposals, valid, masks, present, balanced)
    close(loss, torch.stack(losses).mean())
    (gradient,) = torch.autograd.grad(loss, cosine)
    assert [bool(rows.any()) for rows in gradient[1]] == [True, False, False]  # found, faint, absent
    assert not gradient[2:].any()
    assert bool(gradient[0, 2, 4]) is not balanced  # as good as the chosen one


def test_losses_count_every_frame_of_the_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    frames, labels = squares(2, 3, 2, size=SIZE)
    seen: list[int] = []
    auxiliary = DMMNet.auxiliary_losses

    def spy(self: DMMNet, labels: Tensor) -> dict[str, Tensor]:
        losses = auxiliary(self, labels)
        clip = self.state.clip
        seen.append(len(clip))
        for name in ("matched", "refined"):
            total = 0.0
            for t, (match, refined) in enumerate(clip):
                probs = match.masks if name == "matched" else refined
                total += soft_iou_loss(probs, one_hot(labels[:, t], 2)).mean().item()
            assert losses[name].item() == pytest.approx(total, rel=1e-5)
        pairs = [(match, one_hot(labels[:, t], 2)) for t, (match, _) in enumerate(clip)]
        present = torch.ones(2, 2, dtype=torch.bool)
        errors = [match_loss(m.cosine, m.proposals, m.valid, masks, present).item() for m, masks in pairs]
        assert losses["match"].item() == pytest.approx(0.5 * sum(errors), rel=1e-5)
        return losses

    monkeypatch.setattr(DMMNet, "auxiliary_losses", spy)
    trained(small("DMMNet", match_weight=0.5), frames, labels, 2)
    assert seen == [3]


def test_cross_entropy_of_the_result_is_an_option() -> None:
    model = small("DMMNet", entropy_weight=2.0)
    logits, labels = randn(2, 3, *SIZE, seed=1), (3 * rand(2, *SIZE, seed=2)).to(torch.uint8)
    masks, present = one_hot(labels, 2), torch.ones(2, 2, dtype=torch.bool)
    losses = model.frame_losses(logits, labels, masks, present)
    log_probs = logits.log_softmax(dim=1).gather(1, labels.long().unsqueeze(1))
    close(losses.pop("cross_entropy"), -2 * log_probs.mean())  # at the start of a run all pixels count
    assert not losses
    assert not small("DMMNet").frame_losses(logits, labels, masks, present)


def test_matched_mask_teaches_the_encoder_through_the_weights() -> None:
    frames, labels = squares(1, 2, 2, size=SIZE)
    model = small("DMMNet").train()
    with model.sequence():
        for t in range(2):
            mask = one_hot(labels[:, 0], 2) if t == 0 else None
            model.advance(model.encode(model.normalize(frames[:, t])), mask)
        matched = model.state.clip[1][0].masks
    (matched * rand(*matched.shape, dtype=torch.float32)).sum().backward()
    assert all(parameter.grad.any() for parameter in model.encoder.trunk.parameters())
    assert all(branch[0].weight.grad.any() for branch in model.encoder.matching)
    others = [*model.detector.parameters(), *model.decoder.parameters(), *model.encoder.skips.parameters()]
    assert all(parameter.grad is None for parameter in others)


@pytest.mark.parametrize("straight_through", [False, True])
def test_the_decoder_may_see_one_proposal_with_the_gradient_of_the_blend(straight_through: bool) -> None:
    frames, labels = squares(1, 2, 2, size=SIZE)
    model = small("DMMNet", straight_through=straight_through).train()
    seen = []
    model.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1][:, :, 2]))
    with model.sequence():
        for t in range(2):
            mask = one_hot(labels[:, 0], 2) if t == 0 else None
            model.advance(model.encode(model.normalize(frames[:, t])), mask)
        match, _ = model.state.clip[1]
        blend, proposals = match.masks, match.proposals
    is_one = [any(torch.allclose(mask, p, atol=1e-9) for p in proposals[0]) for mask in seen[1][0]]
    assert is_one == [straight_through] * 2
    assert not torch.allclose(blend, seen[1], atol=1e-3) or not straight_through
    weight = rand(*blend.shape, seed=3)
    parameter = next(model.encoder.parameters())
    ours, theirs = (torch.autograd.grad((m * weight).sum(), parameter, retain_graph=True)[0] for m in (seen[1], blend))
    assert theirs.abs().max() > 0
    close(ours, theirs)


def test_without_refinement_nothing_is_lost_on_it() -> None:
    frames, labels = squares(2, 3, 2, size=SIZE)
    model = small("DMMNet", decoder__refinement=False).train()
    assert not any(p.requires_grad for p in model.decoder.parameters())
    batch = ClipBatch.collate([Clip(frames[b], labels[b], 2) for b in range(2)])
    seen = {}
    model.log_losses = lambda losses, size: seen.update(losses) or torch.stack(list(losses.values())).sum()
    model.training_step(batch, 0).backward()
    assert set(seen) == {"match", "matched"}
    assert all(p.grad is not None for p in model.encoder.matching.parameters())


@pytest.mark.parametrize("trains", ["matching", "proposals"])
def test_what_a_stage_trains(trains: str) -> None:
    model = (small("DMMNet") if trains == "matching" else first_stage()).train()
    trainable = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    frozen = {name.split(".")[0] for name, parameter in model.named_parameters() if not parameter.requires_grad}
    expected = [{"detector"}, {"encoder", "decoder"}]
    assert [trainable, frozen] == (expected if trains == "proposals" else expected[::-1])
    assert model.detector.net.training == (trains == "proposals")
    chosen = [parameter for group, _ in model.parameter_groups() for parameter in group]
    assert len(chosen) == sum(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("trunk_stride", [16, 32])
@pytest.mark.parametrize(("before", "copied"), [("DMMNetProposals", True), ("DMMNet", False), (None, False)])
def test_the_encoder_starts_from_the_detector_where_none_was_trained(
    before: str | None, copied: bool, trunk_stride: int, tmp_path: Path
) -> None:
    stage = partial(small, "DMMNet") if before == "DMMNet" else first_stage
    given = stage(seed=1, trunk_stride=trunk_stride)
    path = tmp_path / "stage.ckpt"
    official.save_checkpoint(given, str(path))
    weights = str(path) if before else None
    model = small("DMMNet", trunk_from_detector=True, trunk_stride=trunk_stride, weights=weights)
    model.configure_model()
    trunk, body = model.encoder.trunk, model.detector.net.backbone.body
    assert torch.equal(trunk.stem[0].weight, body.stem[0].weight) == copied
    assert torch.equal(trunk.layer3[0].conv1.weight, body.layer3[0].conv1.weight) == copied
    if trunk_stride == 32:
        assert torch.equal(trunk.layer4[0].conv1.weight, body.layer4[0].conv1.weight) == copied
    if before:
        assert torch.equal(body.stem[0].weight, given.detector.net.backbone.body.stem[0].weight)
        assert torch.equal(trunk.stem[0].weight, given.encoder.trunk.stem[0].weight) != copied


@pytest.mark.parametrize("trunk_stride", [8, 16])
def test_a_shorter_trunk_gives_means_at_stride_32(trunk_stride: int) -> None:
    if trunk_stride == 8:
        with pytest.raises(ValueError, match="trunk_stride=8"):
            small("DMMNet", trunk_stride=trunk_stride)
        return
    encoder = small("DMMNet", trunk_stride=trunk_stride).eval().double().encoder
    image = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    deepest = encoder.trunk(image).f16
    means = torch.stack([deepest[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]).mean(0)
    for branches, maps in zip((encoder.skips, encoder.matching), encoder(image), strict=True):
        torch.testing.assert_close(maps[0], branches[0](means))
        torch.testing.assert_close(maps[1], branches[1](deepest))


def test_teacher_is_the_truth_at_first_and_a_draw_later(monkeypatch: pytest.MonkeyPatch) -> None:
    model, truth = small("DMMNet", own_masks=(0.25, 0.3)).train(), torch.ones(1, 1, 2, 2)

    def draws() -> list[bool]:
        found = []
        for t in range(400):
            model.tracks.t = t
            torch.rand(2)  # other draws of a process make no difference
            found.append(model.teacher(truth) is truth)
        return found

    assert all(draws())
    monkeypatch.setattr(DMMNet, "progress", 0.3)
    first = draws()
    assert first == draws()
    assert 0.62 < sum(first) / 400 < 0.78
