"""DMM-Net against plain loops, torchvision and the definitions of its specification; its matching layer has a file."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from conftest import SMALL, small, squares
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import roi_align

from callbacks import PerfectMatcher
from lightning_vos import REMN, DMMNet, official
from lightning_vos.frame_callback import MaskMatcher
from lightning_vos.functional import intersection_over_union, one_hot, tight_boxes
from lightning_vos.methods.dmm_net.boxes import paste, pool, pool_masks
from lightning_vos.methods.dmm_net.detector_weights import OF_CLASSES
from lightning_vos.methods.dmm_net.losses import match_loss, soft_iou_loss
from lightning_vos.methods.dmm_net.matching import relaxed_assignment
from lightning_vos.methods.dmm_net.network import ConvLSTMCell, Decoder, Encoder
from lightning_vos.methods.dmm_net.proposals import ProposalNetwork, Proposals, keep_best
from lightning_vos.types import Clip, ClipBatch
from tests import reference_matching as reference

SIZE = (64, 96)
MATCHERS = ["paper", "official", "exact", "hungarian"]


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(actual: Tensor, expected: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def random_boxes(count: int, seed: int = 0, low: float = 4, high: float = 40) -> Tensor:
    """``(count, 4)`` boxes of ``low`` to ``high`` pixels, many of them partly outside of the frame."""
    height, width = SIZE
    centre = rand(count, 2, seed=seed) * torch.tensor([width, height])
    half = (low + (high - low) * rand(count, 2, seed=seed + 1)) / 2
    return torch.cat([centre - half, centre + half], dim=1)


def blob_masks(count: int, seed: int = 0) -> Tensor:
    """``(count, 28, 28)`` soft blobs."""
    coarse = rand(count, 1, 5, 5, seed=seed)
    return F.interpolate(coarse, size=(28, 28), mode="bilinear", align_corners=False)[:, 0]


def with_proposals(model: DMMNet, boxes: Tensor, masks: Tensor) -> DMMNet:
    """A model whose detector sees the same proposals ``(m, 4), (m, 28, 28)`` in every frame of ``SIZE``."""
    found = tight_boxes(paste(masks, boxes, SIZE) > 0.4)[0]
    scores = torch.linspace(0.9, 0.5, len(boxes), dtype=boxes.dtype)
    one = (boxes, masks, found, scores, torch.ones(len(boxes), dtype=torch.bool))
    model.detector.forward = lambda image: Proposals(*(part.expand(len(image), *part.shape) for part in one))
    return model


def squares_as_proposals(*boxes: tuple[float, float, float, float]) -> tuple[Tensor, Tensor]:
    return torch.tensor(boxes), torch.ones(len(boxes), 28, 28)


def trained(model: DMMNet, frames: Tensor, labels: Tensor, objects: int) -> Tensor:
    """Loss of one training step on clips ``(B, T, 3, H, W), (B, T, H, W)``."""
    clips = [Clip(frames[b], labels[b], objects) for b in range(len(frames))]
    return model.train().training_step(ClipBatch.collate(clips), 0)


def stream(model: DMMNet, frames: Tensor, given: dict[int, Tensor]) -> Tensor:
    """Logits ``(T, B, K+1, H, W)``; ``given`` holds masks by frame number, all with K channels."""
    with model.sequence():
        return torch.stack([model.step(frames[:, t], given.get(t)) for t in range(frames.shape[1])])


# ------------------------------------------------------------------------------------------------ boxes and masks


def some_boxes() -> Tensor:
    """Random, tiny, inverted and integer ones; torchvision cannot paste what lies outside altogether."""
    tiny = random_boxes(20, seed=2, low=0, high=2)
    inverted = random_boxes(60, seed=4, low=0, high=20)[:, [2, 3, 0, 1]]
    inverted = inverted[(inverted[:, :2] < torch.tensor([90, 58])).all(1) & (inverted[:, 2:] > 4).all(1)]
    whole = torch.tensor([[0, 0, 28, 28], [0, 0, 95, 63], [4, 8, 4, 8], [10, 10, 38, 24]], dtype=torch.float64)
    return torch.cat([random_boxes(60), tiny, inverted, inverted[:, [0, 3, 2, 1]], whole])


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_paste_is_torchvisions(dtype: torch.dtype, atol: float) -> None:
    boxes = some_boxes().to(dtype)
    masks = blob_masks(len(boxes)).to(dtype)
    expected = paste_masks_in_image(masks.unsqueeze(1), boxes, SIZE)[:, 0]
    assert expected.flatten(1).any(1).any()
    assert not expected.flatten(1).any(1).all()  # inverted boxes hold nothing
    close(paste(masks, boxes, SIZE), expected, atol)
    close(paste(masks.view(2, -1, 28, 28), boxes.view(2, -1, 4), SIZE).flatten(0, 1), expected, atol)


def test_what_lies_outside_is_not_pasted() -> None:
    boxes = torch.tensor([[-50, 0, -10, 20], [120, 0, 300, 20], [0, -90, 20, -30], [0, 70, 20, 90]])
    assert not paste(torch.ones(4, 28, 28), boxes.float(), SIZE).any()


def looped_box(mask: Tensor) -> list[int] | None:
    pixels = [(x, y) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]]
    if not pixels:
        return None
    columns, rows = zip(*pixels, strict=True)
    return [min(columns), min(rows), max(columns), max(rows)]


def test_tight_boxes_are_the_loop() -> None:
    masks = rand(2, 8, 9, 13) > torch.linspace(0.9, 1, 8, dtype=torch.float64).view(1, 8, 1, 1)
    boxes, seen = tight_boxes(masks)
    expected = [[looped_box(mask) for mask in row] for row in masks]
    assert None in expected[0]
    assert seen.tolist() == [[box is not None for box in row] for row in expected]
    assert boxes.tolist() == [[box or [0, 0, 12, 8] for box in row] for row in expected]


def test_pool_is_the_mean_of_roi_align() -> None:
    maps = [randn(2, 3, SIZE[0] // s, SIZE[1] // s, seed=s) for s in (4, 8, 16, 32)]
    boxes = torch.cat([random_boxes(6), random_boxes(4, seed=3, low=0, high=2)]).view(2, 5, 4)
    out = pool(maps, boxes)
    assert out.shape == (2, 5, 12)
    for level, feature in enumerate(maps):
        bins = roi_align(feature, list(boxes), (14, 14), 1 / 2 ** (level + 2), sampling_ratio=2, aligned=False)
        close(out[:, :, 3 * level : 3 * level + 3], bins.mean(dim=(2, 3)).view(2, 5, 3))


def inclusive_overlap(a: list[int], b: list[int]) -> float:
    def area(box: list[int]) -> int:
        return max(box[2] - box[0] + 1, 0) * max(box[3] - box[1] + 1, 0)

    shared = area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    return shared / (area(a) + area(b) - shared)


@pytest.mark.parametrize(("count", "limit"), [(3, 0.4), (50, 0.4), (50, 0.6)])
def test_keep_best_is_the_loop(count: int, limit: float) -> None:
    boxes, masks, scores = random_boxes(40, low=12), blob_masks(40), rand(40, seed=9)
    masks[7] = 0.39  # nowhere above 0.4
    pasted = paste_masks_in_image(masks.unsqueeze(1), boxes, SIZE)[:, 0]
    tight = [looped_box(mask > 0.4) for mask in pasted]
    kept: list[int] = []
    for i in sorted(range(40), key=lambda i: -float(scores[i])):
        box = tight[i]
        if box is not None and all(inclusive_overlap(box, tight[j] or []) <= limit for j in kept):
            kept.append(i)
    assert 7 not in kept
    assert 3 < len(kept) < 39
    found = keep_best(boxes, masks, scores, SIZE, count, limit)
    kept = kept[:count]
    for tensor, expected in zip(found, (boxes[kept], masks[kept], None, scores[kept]), strict=False):
        assert expected is None or torch.equal(tensor, expected)
    assert found[2].tolist() == [tight[i] for i in kept]
    assert found[4].all()
    near = torch.tensor([[10.0, 10, 27, 27], [17, 10, 34, 27]], dtype=torch.float64)
    boxes_near = [[10, 10, 26, 26], [17, 10, 33, 26]]  # IoU 0.417, without the last pixels 0.391
    assert tight_boxes(paste(torch.ones(2, 28, 28), near, SIZE) > 0.4)[0].tolist() == boxes_near
    assert len(keep_best(near, torch.ones(2, 28, 28), scores[:2], SIZE, count, limit)[0]) == 1 + (limit > 0.417)
    assert len(keep_best(boxes[7:8], masks[7:8], scores[7:8], SIZE, count, limit)[0]) == 0


# ------------------------------------------------------------------------------------------------ network


def plain_cell(
    cell: ConvLSTMCell, x: Tensor, masks: Tensor, spatial: tuple[Tensor, Tensor], temporal: Tensor
) -> tuple[Tensor, Tensor]:
    """One convolution of ``[x, mask, hidden of the object before, hidden of the frame before]`` for each mask."""
    runs = []
    for c in range(masks.shape[1]):
        gates = cell.gates(torch.cat([x, masks[:, c : c + 1], spatial[0], temporal], dim=1))
        enter, forget, leave, candidate = gates.chunk(4, dim=1)
        memory = forget.sigmoid() * spatial[1] + enter.sigmoid() * candidate.tanh()
        runs.append((leave.sigmoid() * memory.tanh(), memory))
    return sum(h for h, _ in runs) / len(runs), sum(c for _, c in runs) / len(runs)


@pytest.mark.parametrize("has_below", [True, False])
@pytest.mark.parametrize("has_state", [True, False])
def test_cell_is_the_definition(has_below: bool, has_state: bool) -> None:
    torch.manual_seed(0)
    cell = ConvLSTMCell(3 if has_below else 0, 4, 5).double()
    below, skip, temporal = randn(2, 3, 6, 7, seed=1), randn(2, 4, 6, 7, seed=2), randn(2, 5, 6, 7, seed=3)
    masks = rand(2, 3, 6, 7, seed=4)
    state = (randn(2, 5, 6, 7, seed=5), randn(2, 5, 6, 7, seed=6))
    zeros = (torch.zeros_like(state[0]), torch.zeros_like(state[1]))
    x = torch.cat([below, skip], dim=1) if has_below else skip
    before, known = below if has_below else None, state if has_state else None
    out = cell(cell.shared(skip), masks, before, known, temporal)
    for actual, expected in zip(out, plain_cell(cell, x, masks, known or zeros, temporal), strict=True):
        close(actual, expected)
    same = cell(cell.shared(skip), masks[:, :1].expand(-1, 3, -1, -1), before, known, temporal)
    for actual, expected in zip(same, plain_cell(cell, x, masks[:, :1], known or zeros, temporal), strict=True):
        close(actual, expected)


def refine(decoder: Decoder, masks: Tensor, present: Tensor | None = None, seed: int = 0) -> tuple[Tensor, list]:
    """Decode ``(B, K, 3, H, W)`` with random skips and zero hidden states."""
    (batch, objects), (height, width), dim = masks.shape[:2], masks.shape[-2:], decoder.dims[0]
    skips, hidden = [], []
    for level, channels in enumerate((dim, dim, dim // 2, dim // 4)):
        side = (height // (32 >> level), width // (32 >> level))
        skips.append(randn(batch, channels, *side, seed=seed + level).to(masks.dtype))
        hidden.append(masks.new_zeros(batch, objects, decoder.dims[level], *side))
    present = torch.ones(batch, objects, dtype=torch.bool) if present is None else present
    return decoder(skips, masks, hidden, present)


def flat(result: tuple[Tensor, list[Tensor]]) -> list[Tensor]:
    """Logits and hidden states in one list."""
    return [result[0], *result[1]]


def test_decoder_shapes_and_pyramid() -> None:
    decoder = Decoder()
    assert sum(parameter.numel() for parameter in decoder.parameters()) == 2_940_433
    seen: list[Tensor] = []
    for cell in decoder.cells:
        cell.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    masks = rand(1, 1, 3, 256, 448, dtype=torch.float32)
    with torch.no_grad():
        logits, hidden = refine(decoder, masks)
    assert logits.shape == (1, 1, 256, 448)
    assert [tuple(state.shape[2:]) for state in hidden] == [(128, 8, 14), (64, 16, 28), (32, 32, 56), (16, 64, 112)]
    for level, stride in enumerate((32, 16, 8, 4)):
        blocks = masks[0].unfold(2, stride, stride).unfold(3, stride, stride)
        assert torch.equal(seen[level], blocks.amax(dim=(4, 5)))


def test_encoder_parameters() -> None:
    """The released encoder has 33,781,352 parameters, 2,049,000 of them in the head of ImageNet."""
    encoder = Encoder("resnet50", "frozen_batch", None)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 33_781_352 - 2_049_000


def test_encoder_shapes() -> None:
    encoder = Encoder("resnet10", "group", None, dim=32, matching_dim=16)
    with torch.no_grad():
        skips, maps = encoder(torch.zeros(2, 3, 64, 96))
    assert [tuple(skip.shape[1:]) for skip in skips] == [(32, 2, 3), (32, 4, 6), (16, 8, 12), (8, 16, 24)]
    assert [tuple(level.shape[1:]) for level in maps] == [(16, 2, 3), (16, 4, 6), (16, 8, 12), (16, 16, 24)]


def test_order_of_the_objects_matters_only_across_objects() -> None:
    masks = rand(2, 2, 3, 64, 96)
    for across in (True, False):
        torch.manual_seed(0)
        decoder = Decoder(16, across).double()
        out, swapped = flat(refine(decoder, masks)), flat(refine(decoder, masks[:, [1, 0]]))
        changes = [(a[:, [1, 0]] - b).abs().max() for a, b in zip(out, swapped, strict=True)]
        assert (min(changes) > 1e-4) if across else (max(changes) < 1e-12)


def test_an_object_that_is_not_there_passes_the_state_on() -> None:
    torch.manual_seed(0)
    decoder, masks = Decoder(16).double(), rand(2, 3, 3, 64, 96)
    for absent in range(3):
        others = [k for k in range(3) if k != absent]
        present = torch.ones(2, 3, dtype=torch.bool)
        present[1, absent] = False
        out = flat(refine(decoder, masks, present))
        for actual, expected in zip(out, flat(refine(decoder, masks)), strict=True):
            close(actual[0], expected[0])
        for actual, expected in zip(out, flat(refine(decoder, masks[:, others])), strict=True):
            close(actual[1, others], expected[1])


# ------------------------------------------------------------------------------------------------ losses


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


def overlap(a: Tensor, b: Tensor) -> float:
    return int((a & b).sum()) / (int((a | b).sum()) + 1e-6)


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
        clip = self.templates.clip
        seen.append(len(clip))
        for name, share in (("matched", 0.5), ("refined", 1.0)):
            total = 0.0
            for t, frame in enumerate(clip):
                probs = frame.matched if name == "matched" else frame.refined.sigmoid()
                total += soft_iou_loss(probs, one_hot(labels[:, t], 2)).mean().item()
            assert losses[name].item() == pytest.approx(share * total, rel=1e-5)
        return losses

    monkeypatch.setattr(DMMNet, "auxiliary_losses", spy)
    trained(small("DMMNet", matched_weight=0.5), frames, labels, 2)
    assert seen == [3]


def test_the_decoder_starts_without_a_correction() -> None:
    frames, labels = squares(1, 2, 2, size=SIZE)
    out = []
    for refinement in (True, False):
        torch.manual_seed(0)
        model = DMMNet(**{**SMALL["DMMNet"], "residual": True, "refinement": refinement}).eval()
        with model.sequence():
            model.step(frames[:, 0], one_hot(labels[:, 0], 2))
            out.append(model.step(frames[:, 1]).argmax(dim=1))
    assert torch.equal(*out)


@pytest.mark.parametrize("chosen", [("previous", "first", "matched"), ("matched", "previous"), ("first",)])
def test_the_decoder_sees_the_masks_that_are_chosen(chosen: tuple[str, ...]) -> None:
    frames, labels = squares(1, 3, 2, size=SIZE)
    given = one_hot(labels[:, 0], 2)
    model = small("DMMNet", decoder_masks=chosen)
    seen: list[Tensor] = []
    model.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    with model.sequence():
        model.step(frames[:, 0], given)
        for t in (1, 2):
            previous = model.templates.previous
            model.step(frames[:, t])
            masks = seen[-1].unbind(dim=2)
            assert len(masks) == len(chosen)
            for name, mask in zip(chosen, masks, strict=True):
                if name == "matched":  # one of the proposals
                    proposals = model.templates.proposals[0]
                    assert all((proposals == one).flatten(1).all(dim=1).any() for one in mask[0])
                else:
                    assert torch.equal(mask, previous if name == "previous" else given.to(mask.dtype))


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
        matched = model.templates.clip[1].matched
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
        blend, proposals = model.templates.clip[1].matched, model.templates.clip[1].proposals
    is_one = [any(torch.allclose(mask, p, atol=1e-9) for p in proposals[0]) for mask in seen[1][0]]
    assert is_one == [straight_through] * 2
    assert not torch.allclose(blend, seen[1], atol=1e-3) or not straight_through
    weight = rand(*blend.shape, seed=3)
    parameter = next(model.encoder.parameters())
    ours, theirs = (torch.autograd.grad((m * weight).sum(), parameter, retain_graph=True)[0] for m in (seen[1], blend))
    assert theirs.abs().max() > 0
    close(ours, theirs)


@pytest.mark.parametrize("trains", ["matching", "proposals"])
def test_what_a_stage_trains(trains: str) -> None:
    model = small("DMMNet", trains=trains).train()
    trainable = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    frozen = {name.split(".")[0] for name, parameter in model.named_parameters() if not parameter.requires_grad}
    expected = [{"detector"}, {"encoder", "decoder"}]
    assert [trainable, frozen] == (expected if trains == "proposals" else expected[::-1])
    assert model.detector.net.training == (trains == "proposals")
    chosen = [parameter for group, _ in model.parameter_groups() for parameter in group]
    assert len(chosen) == sum(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("before", "copied"), [("proposals", True), ("matching", False), (None, False)])
def test_the_encoder_starts_from_the_detector_where_none_was_trained(
    before: str | None, copied: bool, tmp_path: Path
) -> None:
    given = small("DMMNet", trains=before or "proposals")
    path = tmp_path / "stage.ckpt"
    settings = {"trains": before, "trunk_from_detector": False}
    torch.save({"method": "DMMNet", "state_dict": given.state_dict(), "hyper_parameters": settings}, path)
    model = small("DMMNet", trunk_from_detector=True, weights=str(path) if before else None)
    model.configure_model()
    trunk, body = model.encoder.trunk, model.detector.net.backbone.body
    assert torch.equal(trunk.stem[0].weight, body["conv1"].weight) == copied
    assert torch.equal(trunk.layer4[0].conv1.weight, body["layer4"][0].conv1.weight) == copied
    if before:
        assert torch.equal(body["conv1"].weight, given.detector.net.backbone.body["conv1"].weight)
        assert torch.equal(trunk.stem[0].weight, given.encoder.trunk.stem[0].weight) != copied


# ------------------------------------------------------------------------------------------------ robustness


@pytest.mark.parametrize(
    ("objects", "settings"),
    [(2, {"score_threshold": 1.1}), (5, {"proposals": 2}), (8, {}), (1, {"proposals": 1})],
    ids=["no proposal", "fewer proposals than templates", "many objects", "one and one"],
)
def test_few_proposals_and_many_objects(objects: int, settings: dict[str, Any]) -> None:
    frames, labels = squares(2, 3, objects, size=SIZE)
    labels[1] = torch.where(labels[1] == objects, 0, labels[1])  # maybe an object that is never there
    model = small("DMMNet", **settings)
    for matcher in MATCHERS:
        model.matcher = matcher
        out = stream(model, frames, {0: one_hot(labels[:, 0], objects)})
        assert out.shape == (3, 2, objects + 1, *SIZE)
        assert torch.isfinite(out).all()
    if settings.get("score_threshold"):
        assert not model.detector(model.normalize(frames[:, 0])).valid.any()
    model.matcher = "official"  # the contract of all methods covers the default
    loss = trained(model, frames, labels, objects)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


def test_an_object_that_is_empty_at_first_and_comes_later() -> None:
    """Until then the others are followed as if its slot did not exist, also by a decoder that goes over objects."""
    frames, labels = squares(1, 6, 2, size=SIZE)
    masks = one_hot(labels[:, 0], 2)
    first, late = masks.clone(), masks.clone()
    first[:, 0] = late[:, 1] = 0
    model = small("DMMNet").double()
    out = stream(model, frames, {0: first, 3: late})
    alone = stream(model, frames, {0: first[:, 1:]})
    assert torch.isfinite(out).all()
    close(out[:3].softmax(2)[:, :, [0, 2]], alone[:3].softmax(2), atol=1e-5)
    assert (out[:3].softmax(2)[:, :, 1] < 1e-6).all()
    assert (out[3].argmax(1)[masks[:, 0] > 0] == 1).all()
    assert (out[4:].softmax(2)[:, :, 1] > 1e-3).any()


def test_pool_masks_is_the_weighted_mean_over_pixels() -> None:
    maps = [randn(2, 3, SIZE[0] // s, SIZE[1] // s, seed=s) for s in (4, 8, 16, 32)]
    masks = rand(2, 4, *SIZE)
    masks[1, 2] = 0
    out = pool_masks(maps, masks)
    for level, feature in enumerate(maps):
        scale = 2 ** (level + 2)
        pixels = feature.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
        for b, k in itertools.product(range(2), range(4)):
            total = masks[b, k].sum()
            expected = (pixels[b] * masks[b, k]).sum(dim=(1, 2)) / total if total > 0 else torch.zeros(3).double()
            close(out[b, k, 3 * level : 3 * level + 3], expected, atol=1e-9)


@pytest.mark.parametrize("pooling", ["box", "mask"])
def test_two_textures_in_one_box_differ_only_under_their_masks(pooling: str) -> None:
    """A frame and what it holds have the same box: only pooling under the mask can tell them apart."""
    model = small("DMMNet", pooling=pooling)
    frames, _ = squares(1, 1, 1, size=SIZE)
    ring = torch.zeros(1, 2, *SIZE)
    ring[:, 0, 4:60, 4:60] = 1
    ring[:, 0, 16:48, 16:48] = 0
    ring[:, 1, 4:60, 4:60] = 1 - ring[:, 0, 4:60, 4:60]
    ring[:, 1, 4, 4] = ring[:, 1, 59, 59] = 1
    ring[:, 0, 4, 4] = ring[:, 0, 59, 59] = 0
    with model.sequence():
        model.step(frames[:, 0], ring)
        ours, theirs = F.normalize(model.templates.features, dim=2)[0]
        assert (torch.dot(ours, theirs) < 0.999) == (pooling == "mask")


# ------------------------------------------------------------------------------------------------ templates


def test_a_template_is_made_on_the_first_frame_of_its_object_and_stays() -> None:
    frames, labels = squares(1, 6, 2, size=SIZE)
    masks = one_hot(labels[:, 3], 2)
    masks[:, 0] = 0
    model = small("DMMNet")

    def pooled(t: int, mask: Tensor) -> Tensor:
        with torch.inference_mode():
            features = model.encode(model.normalize(frames[:, t]))
            return pool(model.query(features).maps, tight_boxes(mask > 0)[0])

    given = one_hot(labels[:, 0], 1)
    with model.sequence():
        model.step(frames[:, 0], given)
        templates = model.templates
        assert all(state.any() for state in templates.hidden)  # of the run with the given mask
        early = templates.features.clone()
        close(early, pooled(0, given), atol=1e-5)
        for t in (1, 2):
            model.step(frames[:, t])
            assert torch.equal(templates.features, early)
        model.step(frames[:, 3], masks)
        both = templates.features.clone()
        assert torch.equal(both[:, :1], early)
        close(both[:, 1:], pooled(3, masks)[:, 1:], atol=1e-5)
        assert all(state[:, 0].any() and not state[:, 1].any() for state in templates.hidden)
        assert torch.equal(templates.first, torch.cat([given, masks[:, 1:]], dim=1))
        for t in (4, 5):
            model.step(frames[:, t])
        assert torch.equal(templates.features, both)
        assert all(state[:, 1].any() for state in templates.hidden)


# ------------------------------------------------------------------------------------------------ matching


def problem() -> tuple[Tensor, Tensor, Tensor]:
    """Similarities of 3 templates and 6 proposals in two clips, the second with less of both."""
    rows = torch.tensor([[True] * 3, [True, False, True]])
    valid = torch.tensor([[True] * 6, [True, True, False, True, False, True]])
    return rand(2, 3, 6), rows, valid


@pytest.mark.parametrize("matcher", MATCHERS)
def test_rows_are_one_hot_and_official_keeps_values(matcher: str) -> None:
    similarity, rows, valid = problem()
    x = small("DMMNet", matcher=matcher).assign(similarity, rows, valid)
    assert torch.equal((x != 0).sum(2), rows.long())
    assert not x[~valid.unsqueeze(1).expand_as(x)].any()
    if matcher == "official":
        values = relaxed_assignment(-similarity, rows, valid, mode="official")
        close(x, torch.where(x != 0, values, 0))
        assert torch.equal(x.amax(2), values.amax(2))
    else:
        assert torch.equal(x.sum(2), rows.double())


@pytest.mark.parametrize("matcher", MATCHERS)
def test_templates_may_stay_unmatched(matcher: str) -> None:
    similarity, rows, valid = problem()
    model = small("DMMNet", matcher=matcher, absent_similarity=2.0)
    assert not model.assign(similarity, rows, valid).any()
    model = small("DMMNet", matcher=matcher, absent_similarity=-2.0)
    close(model.assign(similarity, rows, valid), small("DMMNet", matcher=matcher).assign(similarity, rows, valid), 0.01)


def test_only_what_is_dissimilar_stays_unmatched() -> None:
    similarity = torch.tensor([[[0.9, 0.2, 0.1], [0.3, 0.1, 0.2]]])
    everything = torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)
    x = small("DMMNet", matcher="exact", absent_similarity=0.5).assign(similarity, *everything)
    assert x[0].tolist() == [[1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("training", [False, True])
def test_a_clip_is_matched_alone_as_in_a_batch_where_templates_may_stay_unmatched(training: bool) -> None:
    similarity, rows, valid = problem()
    model = small("DMMNet", absent_similarity=0.5).train(training)
    alone = model.assign(similarity[1:, rows[1]][:, :, valid[1]], rows[1:, rows[1]], valid[1:, valid[1]])
    close(model.assign(similarity, rows, valid)[1][rows[1]][:, valid[1]], alone[0])


def test_an_unmatched_template_has_an_empty_mask() -> None:
    frames, labels = squares(1, 3, 2, size=SIZE)
    model = small("DMMNet", absent_similarity=2.0, refinement=False)
    out = stream(model, frames, {0: one_hot(labels[:, 0], 2)})
    assert (out[1:].softmax(2)[:, :, 1:] < 1e-6).all()


def test_gate_of_training() -> None:
    similarity, rows, valid = problem()
    similarity = similarity[:1].requires_grad_()
    x = small("DMMNet").train().assign(similarity, rows[:1], valid[:1])
    relaxed = relaxed_assignment(-similarity, mode="paper", steps=10)
    close(x, torch.where(relaxed > 0.01, relaxed, 0))
    assert (x == 0).any()
    assert torch.autograd.grad(x.pow(2).sum(), similarity)[0].any()


def test_similarity_mixes_cosine_overlap_and_score(monkeypatch: pytest.MonkeyPatch) -> None:
    frames, labels = squares(1, 2, 2, size=SIZE)
    model = small("DMMNet", overlap_weight=0.25, score_weight=0.5)
    seen: list[Tensor] = []
    assign = model.assign
    monkeypatch.setattr(model, "assign", lambda *args: seen.append(args[0]) or assign(*args))
    with model.sequence(), torch.inference_mode():
        model.step(frames[:, 0], one_hot(labels[:, 0], 2))
        templates, previous = model.templates.features, model.templates.previous
        features = model.encode(model.normalize(frames[:, 1]))
        pooled = model.query(features).pooled
        model.advance(features, None)
        proposals = model.proposal_masks
    for k in range(2):
        for j in range(proposals.shape[1]):
            cosine = F.cosine_similarity(templates[0, k], pooled[0, j], dim=0)
            iou = overlap(previous[0, k] > 0.5, proposals[0, j] > 0.5)
            expected = 0.75 * cosine + 0.25 * iou + 0.5 * features.scores[0, j]
            assert float(seen[1][0, k, j]) == pytest.approx(float(expected), abs=1e-5)


# ------------------------------------------------------------------------------------------------ merging, perfection


def test_merge() -> None:
    model, p = small("DMMNet"), rand(1, 1, 4, 5)
    close(model.merge(p).softmax(1), torch.cat([1 - p, p], dim=1))
    several = rand(2, 3, 4, 5)
    scores = torch.cat([1 - several.amax(1, keepdim=True), several], dim=1)
    assert torch.equal(model.merge(several).argmax(1), scores.argmax(1))
    certain = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    assert torch.isfinite(model.merge(certain)).all()


def test_revealed_truth_is_matched_perfectly_for_one_frame() -> None:
    """Without refinement every object is then its best proposal; nothing where no proposal meets it."""
    boxes = squares_as_proposals((4, 4, 30, 30), (8, 8, 30, 30), (50, 20, 80, 50), (60, 2, 90, 12))
    truth = torch.zeros(1, 3, *SIZE)
    truth[0, 0, 10:31, 10:31] = truth[0, 1, 21:50, 52:80] = truth[0, 2, 55:60, 2:20] = 1
    model = with_proposals(small("DMMNet", refinement=False), *boxes)
    frames, _ = squares(1, 3, 1, size=SIZE)
    assert isinstance(model, MaskMatcher)
    with model.sequence():
        model.step(frames[:, 0], truth.flip(1))
        model.reveal(truth)
        out = model.step(frames[:, 1])
        best = intersection_over_union(truth > 0.5, model.proposal_masks > 0.5)[0].argmax(1)
        assert best.tolist()[:2] == [1, 2]
        chosen = model.proposal_masks[:, best].clone()
        chosen[:, 2] = 0
        close(out.softmax(1), model.merge(chosen).softmax(1), atol=1e-5)
        assert model.templates.truth is None  # the next frame is on its own again
        similar = model.step(frames[:, 2])
        assert torch.isfinite(similar).all()


def test_truth_of_an_object_that_has_not_started_reveals_nothing() -> None:
    model = with_proposals(small("DMMNet", refinement=False), *squares_as_proposals((4, 4, 30, 30)))
    frames, _ = squares(1, 2, 1, size=SIZE)
    truth = torch.zeros(1, 2, *SIZE)
    truth[:, :, 4:31, 4:31] = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    with model.sequence():
        model.step(frames[:, 0], truth.flip(1))
        model.reveal(truth)
        x = model.assign(torch.ones(1, 2, 1), model.tracks.present, torch.ones(1, 1, dtype=torch.bool))
    assert not x.any()


def test_perfect_matcher_is_for_evaluation() -> None:
    with pytest.raises(ValueError, match=r"callbacks\.PerfectMatcher with DMMNet, fit"):
        PerfectMatcher().setup(None, small("DMMNet"), "fit")
    with pytest.raises(ValueError, match=r"callbacks\.PerfectMatcher with REMN, validate"):
        PerfectMatcher().setup(None, REMN(key_trunk="resnet10", value_trunk="resnet10", norm="group"), "validate")


# ------------------------------------------------------------------------------------------------ training


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


def pictures() -> tuple[Tensor, Tensor]:
    frames, labels = squares(3, 1, 2, size=SIZE)
    labels[2] = 0  # nothing on it
    return frames[:, 0], labels[:, 0]


def test_detector_losses_depend_on_the_seeds_and_on_nothing_else() -> None:
    model = small("DMMNet", trains="proposals").train()
    frames, labels = pictures()
    image = model.normalize(frames)

    def losses(*seeds: int) -> dict[str, float]:
        return {name: value.item() for name, value in model.detector.losses(image, labels, seeds).items()}

    first = losses(1, 2, 3)
    torch.rand(17)
    before = torch.random.get_rng_state()
    assert losses(1, 2, 3) == first
    assert torch.equal(torch.random.get_rng_state(), before)
    assert losses(4, 5, 6) != first
    assert set(first) == {"objectness", "rpn_box_reg", "classifier", "box_reg", "mask"}


def test_detector_losses_are_the_mean_over_the_pictures() -> None:
    model = small("DMMNet", trains="proposals").double().train()
    frames, labels = pictures()
    image = model.normalize(frames)
    together = model.detector.losses(image, labels, [1, 2, 3])
    alone = [model.detector.losses(image[b : b + 1], labels[b : b + 1], [b + 1]) for b in range(3)]
    for name, value in together.items():
        close(value, torch.stack([losses[name] for losses in alone]).mean(), atol=1e-9)
    assert alone[2]["mask"].item() == 0
    assert alone[2]["objectness"].item() > 0


def test_detector_training_step_reaches_every_parameter() -> None:
    for picture in (slice(0, 2), slice(2, 3)):  # with objects; an empty one
        frames, labels = (tensor[picture].unsqueeze(1) for tensor in pictures())
        model = small("DMMNet", trains="proposals")
        loss = trained(model, frames, labels, 2)
        loss.backward()
        assert torch.isfinite(loss)
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == name.startswith("detector."), name
        assert all(torch.isfinite(p.grad).all() for p in model.detector.parameters())


def test_detector_sees_resized_frames() -> None:
    """Boxes of a detector that looks at half the size are in pixels of the frame."""
    frames, _ = pictures()
    model = small("DMMNet", proposal_short_side=32)
    with torch.inference_mode():
        image = model.normalize(frames)
        assert model.detector._resize(image).shape[-2:] == (32, 48)
        found = model.detector(image)
    assert found.valid.any()
    assert found.boxes[..., 2].max() > 48
    for name, shape in (("boxes", (3, 8, 4)), ("masks", (3, 8, 28, 28)), ("tight", (3, 8, 4)), ("scores", (3, 8))):
        assert getattr(found, name).shape == shape
        assert not getattr(found, name)[~found.valid].any()
    assert (found.scores.diff(dim=1) <= 0).all()


def test_bad_settings_are_refused() -> None:
    for name, value, message in (
        ("matcher", "best", "matcher=best: choose from paper, official, exact, hungarian"),
        ("trains", "all", "trains=all: choose from proposals, matching"),
        ("decoder_masks", ["next"], "decoder_masks=['next']: choose from previous, first, matched"),
        ("decoder_masks", [], "decoder_masks=[]: choose from previous, first, matched"),
        ("proposals", 0, "proposals=0: must be at least 1"),
        ("proposal_detections", 1, "proposal_detections=1: must be at least proposals="),
        ("proposal_samples", 0, "proposal_samples=0: must be at least 1"),
        ("score_weight", -1, "score_weight=-1: must be at least 0"),
        ("overlap_weight", 1.5, "overlap_weight=1.5: must be from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            small("DMMNet", **{name: value})


# ------------------------------------------------------------------------------------------------ weights of a detector

TINY_DETECTOR: dict[str, Any] = {"trunk": "resnet10", "pyramid_dim": 16, "box_dim": 16, "mask_layers": 1}
TINY_PROPOSALS = {f"proposal_{name}": value for name, value in TINY_DETECTOR.items() if name != "pyramid_dim"}
TINY_PROPOSALS["proposal_dim"] = 16


def test_detector_of_torchvision_loads_but_for_its_classes(tmp_path: Path) -> None:
    torch.manual_seed(1)
    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    theirs = {name: value for name, value in theirs.items() if not name.endswith("num_batches_tracked")}
    torch.save(theirs, tmp_path / "detector.pth")
    torch.manual_seed(2)
    ours = ProposalNetwork(weights=str(tmp_path / "detector.pth")).net.state_dict()
    assert {name for name in ours if not name.endswith("num_batches_tracked")} == set(theirs)
    for name, value in theirs.items():
        if name.startswith(OF_CLASSES):
            assert len(ours[name]) < len(value)
        else:
            assert torch.equal(ours[name], value), name


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda state: state.pop("rpn.head.bbox_pred.bias"),
            "1 entries do not fit (rpn.head.bbox_pred.bias is missing",
        ),
        (lambda state: state.update(extra=torch.zeros(1)), "1 entries do not fit (extra is unexpected"),
        (
            lambda state: state.update({"roi_heads.box_head.fc6.bias": torch.zeros(7)}),
            "1 entries do not fit (roi_heads.box_head.fc6.bias is (7,) instead of (16,)",
        ),
    ],
)
def test_detector_weights_that_do_not_fit(spoil: Callable[[dict], Any], message: str, tmp_path: Path) -> None:
    state = ProposalNetwork(norm="group", **TINY_DETECTOR).net.state_dict()
    spoil(state)
    path = tmp_path / "detector.pth"
    torch.save(state, path)
    with pytest.raises(ValueError, match=re.escape(f"proposal_weights={path}: {message}")):
        ProposalNetwork(norm="group", weights=str(path), **TINY_DETECTOR)


def test_detector_weights_that_are_something_else(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("nothing")
    with pytest.raises(ValueError, match=r"text.pth: not a state dict that torch.save has written"):
        ProposalNetwork(norm="group", weights=str(tmp_path / "text.pth"), **TINY_DETECTOR)
    with pytest.raises(ValueError, match=r"none.pth: no such file; give coco, the path of a state dict, or null"):
        ProposalNetwork(norm="group", weights=str(tmp_path / "none.pth"), **TINY_DETECTOR)


# ------------------------------------------------------------------------------------------------ the released weights


def released_shapes(resnet: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of ``trainer.pt``, as the specification lists them."""
    shapes = {f"encoder.base.{name}": tuple(value.shape) for name, value in resnet.state_dict().items()}

    def conv(name: str, channels: int, out: int) -> None:
        shapes.update({f"{name}.weight": (out, channels, 3, 3), f"{name}.bias": (out,)})

    def norm(name: str, out: int) -> None:
        shapes.update({f"{name}.{part}": (out,) for part in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.num_batches_tracked"] = ()

    for level, channels, width in ((5, 2048, 128), (4, 1024, 128), (3, 512, 64), (2, 256, 32)):
        conv(f"encoder.sk{level}", channels, width)
        norm(f"encoder.bn{level}", width)
        conv(f"encoder.prop{level}.0", channels, width)
        norm(f"encoder.prop{level}.1", width)
        conv(f"encoder.prop{level}.3", width, 128)
        norm(f"encoder.prop{level}.4", 128)
    for level, (channels, out) in enumerate(((385, 512), (385, 256), (193, 128), (97, 64))):
        conv(f"decoder.clstm_list.{level}.Gates", channels, out)
    conv("decoder.conv_out", 16, 1)
    return shapes


def our_name(entry: str) -> str:
    """Where an entry of the released files belongs."""
    for pattern, name in (
        (r"base\.conv1\.", "trunk.stem.0."),
        (r"base\.bn1\.", "trunk.stem.1."),
        (r"base\.layer", "trunk.layer"),
        (r"encoder\.sk(\d)\.", lambda match: f"encoder.skips.{5 - int(match[1])}.0."),
        (r"encoder\.bn(\d)\.", lambda match: f"encoder.skips.{5 - int(match[1])}.1."),
        (r"encoder\.prop(\d)\.", lambda match: f"encoder.matching.{5 - int(match[1])}."),
        (r"clstm_list\.(\d)\.Gates", r"cells.\1.gates"),
        (r"conv_out", "predict"),
    ):
        entry = re.sub(pattern, name, entry)
    return entry


def light(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Zeros that take no room in a file."""
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def shapes() -> dict[str, tuple[int, ...]]:
    return released_shapes(torchvision.models.resnet50())


@pytest.fixture(scope="module")
def released(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The released state dict's names and shapes, with values that tell every entry apart."""
    generator = torch.Generator().manual_seed(0)

    def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
        if name.endswith("num_batches_tracked"):
            return torch.tensor(7)
        if len(shape) > 1:
            return torch.randn(shape, generator=generator) / shape[1:].numel() ** 0.5
        return 0.5 + torch.rand(shape, generator=generator)

    return {name: drawn(name, torch.Size(shape)) for name, shape in shapes.items()}


def split(state: dict[str, Tensor], prefix: str = "") -> list[dict[str, Tensor]]:
    """Encoder and decoder as files of their own."""
    return [
        {f"{prefix}{name.partition('.')[2]}": value for name, value in state.items() if name.startswith(part)}
        for part in ("encoder.", "decoder.")
    ]


def imported(*paths: Path, **settings: Any) -> DMMNet:
    with pytest.warns(UserWarning, match="no detector, so the proposals are random: give proposal_weights=coco"):
        return DMMNet.from_official(*map(str, paths), **TINY_PROPOSALS, **settings)


def test_released_names_and_shapes(shapes: dict[str, tuple[int, ...]]) -> None:
    parts = [[name for name in shapes if name.startswith(part)] for part in ("encoder.", "decoder.")]
    assert [len(part) for part in parts] == [404, 10]
    model = DMMNet(**TINY_PROPOSALS)
    own = {n: tuple(v.shape) for n, v in model.state_dict().items() if not n.startswith("detector.")}
    assert own == {our_name(name): shape for name, shape in shapes.items() if ".fc." not in name}


def test_released_weights_in_one_file(released: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "trainer.pt"
    torch.save({f"module.{name}": value for name, value in released.items()}, path)
    model = imported(path, proposals=7)
    state = model.state_dict()
    for name, value in released.items():
        assert ".fc." in name or torch.equal(state[our_name(name)].contiguous(), value), name
    settings = {name: model.hparams[name] for name in ("trunk", "matcher", "norm", "proposals")}
    assert settings == {"trunk": "resnet50", "matcher": "official", "norm": "frozen_batch", "proposals": 7}
    assert not model.training

    image = rand(1, 3, 64, 64, dtype=torch.float32)
    resnet = torchvision.models.resnet50().eval()
    resnet.load_state_dict({n.removeprefix("encoder.base."): v for n, v in released.items() if "encoder.base." in n})

    def normed(x: Tensor, name: str) -> Tensor:
        return F.batch_norm(
            x,
            *(released[f"encoder.{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")),
            eps=1e-5,
        )

    def convolved(x: Tensor, name: str) -> Tensor:
        return F.conv2d(x, released[f"encoder.{name}.weight"], released[f"encoder.{name}.bias"], padding=1)

    with torch.no_grad():
        skips, maps = model.encoder(image)
        x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(image))))
        for level, layer in ((2, resnet.layer1), (3, resnet.layer2), (4, resnet.layer3), (5, resnet.layer4)):
            x = layer(x)
            skip = normed(convolved(x, f"sk{level}"), f"bn{level}")
            inner = normed(convolved(x, f"prop{level}.0"), f"prop{level}.1").relu()
            matching = normed(convolved(inner, f"prop{level}.3"), f"prop{level}.4")
            torch.testing.assert_close(skips[5 - level], skip, rtol=1e-4, atol=1e-4 * float(skip.abs().max()))
            torch.testing.assert_close(maps[5 - level], matching, rtol=1e-4, atol=1e-4 * float(matching.abs().max()))


@pytest.mark.parametrize(("prefix", "order"), [("", 1), ("module.", -1)])
def test_released_weights_in_two_files(prefix: str, order: int, released: dict[str, Tensor], tmp_path: Path) -> None:
    paths = [tmp_path / "encoder.pt", tmp_path / "decoder.pt"]
    for path, state in zip(paths, split(released, prefix), strict=True):
        torch.save(state, path)
    state = imported(*paths[::order], matcher="exact").state_dict()
    for name in ("encoder.base.layer3.5.conv2.weight", "encoder.bn2.running_var", "decoder.clstm_list.0.Gates.bias"):
        assert torch.equal(state[our_name(name)].contiguous(), released[name])


def test_a_deeper_trunk_is_recognised(tmp_path: Path) -> None:
    shapes = released_shapes(torchvision.models.resnet101())
    assert len([name for name in shapes if name.startswith("encoder.")]) == 710
    torch.save(light(shapes), tmp_path / "trainer.pt")
    model = imported(tmp_path / "trainer.pt")
    assert model.hparams["trunk"] == "resnet101"
    assert len(model.encoder.trunk.layer3) == 23


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: state.pop("encoder.prop4.1.bias"), "1 entries are missing.*encoder.prop4.1.bias is missing"),
        (lambda state: state.pop("encoder.base.fc.bias"), "1 entries are missing.*encoder.base.fc.bias is missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "1 are unexpected .extra is unexpected"),
        (
            lambda state: state.update({"decoder.clstm_list.3.Gates.weight": torch.zeros(64, 96, 3, 3)}),
            r"decoder.clstm_list.3.Gates.weight is \(64, 96, 3, 3\) instead of \(64, 97, 3, 3\)",
        ),
        (
            lambda state: [state.pop(name) for name in list(state) if name.startswith("decoder.")],
            "10 entries are missing.*encoder and its decoder in two files",
        ),
    ],
)
def test_released_weights_that_do_not_fit(
    spoil: Callable[[dict], Any], message: str, shapes: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    state = light(shapes)
    spoil(state)
    torch.save(state, tmp_path / "spoilt.pt")
    with pytest.raises(ValueError, match=f"spoilt.pt: not the released DMMNet.*{message}"):
        DMMNet.from_official(str(tmp_path / "spoilt.pt"), **TINY_PROPOSALS)


def test_released_weights_that_are_something_else(shapes: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    def refused(*names: str) -> str:
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            DMMNet.from_official(*(str(tmp_path / name) for name in names), **TINY_PROPOSALS)
        return str(caught.value)

    assert re.search("none.pt: no such file; give the released checkpoint of DMM-Net .trainer.pt.", refused("none.pt"))
    for name, state in zip(("encoder.pt", "decoder.pt"), split(light(shapes)), strict=True):
        torch.save(state, tmp_path / name)
    again = refused("encoder.pt", "encoder.pt")
    assert re.search(r"encoder.pt: encoder.base.conv1.weight is in another file too; give", again)
    assert "not the released DMMNet, 10 entries" in refused("encoder.pt")
    torch.save({"Encoder_M.conv1.weight": torch.zeros(2)}, tmp_path / "HMMN_weights.pth")
    other = refused("HMMN_weights.pth")
    assert "not the released DMMNet" in other
    assert "1 are unexpected" in other
    torch.save({"method": "DMMNet", "state_dict": {}}, tmp_path / "ours.ckpt")
    assert "a checkpoint of this project needs no import" in refused("ours.ckpt")
    torch.save({"model": {}, "iteration": 225_000}, tmp_path / "detector.pth")
    assert "not a flat state dict but a dict of model, iteration" in refused("detector.pth")
    whole = (tmp_path / "encoder.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    assert "cannot be read as a state dict" in refused("cut.pt")


def test_released_weights_become_a_checkpoint(shapes: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    """With a detector: it is in the checkpoint, so that whoever loads that needs neither file."""
    trainer, weights, checkpoint = tmp_path / "trainer.pt", tmp_path / "detector.pth", tmp_path / "new" / "last.ckpt"
    torch.save(light(shapes), trainer)
    detector = ProposalNetwork(norm="frozen_batch", **TINY_DETECTOR).net.state_dict()
    torch.save(detector, weights)
    sizes = [f"--model.{name}={value}" for name, value in TINY_PROPOSALS.items()]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*proposals are random.*")
        official.main(["DMMNet", str(trainer), str(checkpoint), *sizes, f"--model.proposal_weights={weights}"])
    trainer.unlink()
    weights.unlink()
    model = DMMNet.load_from_checkpoint(checkpoint, weights_only=True)
    assert model.hparams["matcher"] == "official"
    assert model.hparams["proposal_weights"] is None
    assert not model.state_dict()["decoder.predict.weight"].any()
    name = "backbone.body.layer2.0.conv1.weight"
    assert torch.equal(model.detector.net.state_dict()[name].contiguous(), detector[name])


def test_options_of_the_import_are_settings(tmp_path: Path) -> None:
    for option in ("--proposals=7", "--model.proposals"):
        with pytest.raises(ValueError, match=f"{option}: no such option; settings .* --model.name=value"):
            official.main(["DMMNet", "trainer.pt", str(tmp_path / "x.ckpt"), option])
    torch.save({"encoder.base.conv1.weight": torch.zeros(1)}, tmp_path / "trainer.pt")
    with pytest.raises(ValueError, match=r"DMMNet: .* unexpected keyword argument 'top_k'"):
        official.main(["DMMNet", str(tmp_path / "trainer.pt"), str(tmp_path / "x.ckpt"), "--model.top_k=7"])
    with pytest.raises(ValueError, match=r"HMMN: .* positional argument"):
        official.main(["HMMN", "one.pth", "two.pth", str(tmp_path / "x.ckpt")])
    assert not (tmp_path / "x.ckpt").exists()


def test_the_previous_mask_is_what_each_object_claims() -> None:
    """Merging shares a pixel between objects; what is remembered of each is its own probability again."""
    model = small("DMMNet").double()
    frames, labels = squares(1, 3, 2)
    with model.sequence():
        model.step(frames[:, 0], one_hot(labels[:, 0], 2))
        model.step(frames[:, 1])
        claimed = rand(1, 2, *model.templates.previous.shape[-2:], seed=5)
        merged = model.merge(claimed).softmax(1)[:, 1:]
        model.memorize(model.query(model.encode(torch.zeros(1, 3, 64, 64, dtype=torch.float64))), merged, None)
        close(model.templates.previous, claimed)
