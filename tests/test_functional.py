"""Shared arithmetic and losses against plain loops in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_vos.functional import (
    aggregate,
    one_hot,
    pad_to_stride,
    resize_labels,
    shrink_labels,
    to_labels,
    topk_read,
    unpad,
)
from lightning_vos.losses import bootstrap_fraction, bootstrapped_cross_entropy, dice_loss
from lightning_vos.memory import KeyValueBank


def test_one_hot_leaves_void_to_nobody() -> None:
    labels = torch.tensor([[0, 1, 2], [255, 2, 1]], dtype=torch.uint8)
    masks = one_hot(labels, 2)
    assert masks.tolist() == [[[0, 1, 0], [0, 0, 1]], [[0, 0, 1], [0, 1, 0]]]


@pytest.mark.parametrize("size", [(16, 16), (17, 30), (1, 1), (480, 854)])
def test_padding_is_symmetric_and_undone(size: tuple[int, int]) -> None:
    image = torch.rand(2, 3, *size)
    padded, (left, right, top, bottom) = pad_to_stride(image, 16)
    assert padded.shape[-2] % 16 == padded.shape[-1] % 16 == 0
    assert padded.shape[-2] - size[0] < 16
    assert right - left in {0, 1}
    assert bottom - top in {0, 1}
    assert padded.sum() == pytest.approx(image.sum().item(), rel=1e-6)
    assert torch.equal(unpad(padded, (left, right, top, bottom)), image)


def test_aggregation_against_loops() -> None:
    probs = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    probs[0, 0, 0, 0], probs[0, 1, 0, 0] = 0.0, 1.0
    out = aggregate(probs)
    for b in range(2):
        for y in range(4):
            for x in range(5):
                values = probs[b, :, y, x].tolist()
                maps = [math.prod(1 - p for p in values), *values]
                maps = [min(max(p, 1e-7), 1 - 1e-7) for p in maps]
                expected = [math.log(p / (1 - p)) for p in maps]
                torch.testing.assert_close(out[b, :, y, x], torch.tensor(expected, dtype=torch.float64))


def test_aggregation_stays_finite_in_half_precision() -> None:
    probs = torch.tensor([0.0, 1.0, 0.5], dtype=torch.bfloat16).view(1, 1, 1, 3)
    out = aggregate(probs)
    assert out.dtype == torch.float32
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("k", [1, 3, 50])
def test_topk_read_against_loops(k: int) -> None:
    similarity, values = torch.randn(2, 4, 7, dtype=torch.float64), torch.randn(2, 7, 3, dtype=torch.float64)
    out = topk_read(similarity, values, k)
    for b in range(2):
        for n in range(4):
            order = sorted(range(7), key=lambda m, b=b, n=n: -float(similarity[b, n, m]))[:k]
            weights = [math.exp(float(similarity[b, n, m])) for m in order]
            expected = sum(w / sum(weights) * values[b, m] for w, m in zip(weights, order, strict=True))
            torch.testing.assert_close(out[b, n], expected)


def test_labels_are_resized_by_pixel_centres() -> None:
    labels = torch.arange(16, dtype=torch.uint8).view(4, 4)
    assert resize_labels(labels, (8, 8))[::2, ::2].tolist() == labels.tolist()
    assert resize_labels(labels, (2, 2)).tolist() == [[5, 7], [13, 15]]


def test_probabilities_are_upsampled_before_the_argmax() -> None:
    logits = torch.full((1, 2, 1, 2), -4.0)
    logits[0, 0, 0, 0] = 4.0
    logits[0, 1, 0, 1] = 4.0
    assert to_labels(logits, (2, 8))[0].tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]] * 2


def test_bootstrapped_cross_entropy_against_loops() -> None:
    logits, labels = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randint(0, 3, (2, 4, 5))
    expected = []
    for b in range(2):
        pixels = [-math.log(float(logits[b, :, y, x].softmax(0)[labels[b, y, x]])) for y in range(4) for x in range(5)]
        expected.append(sum(sorted(pixels)[-6:]) / 6)
    assert bootstrapped_cross_entropy(logits, labels, 0.3).item() == pytest.approx(sum(expected) / 2)
    plain = torch.nn.functional.cross_entropy(logits, labels)
    assert bootstrapped_cross_entropy(logits, labels, 1.0).item() == pytest.approx(plain.item())


def test_bootstrap_schedule() -> None:
    values = [bootstrap_fraction(p, 0.2, 0.7, 0.15) for p in (0.0, 0.2, 0.45, 0.7, 1.0)]
    assert values == pytest.approx([1.0, 1.0, 0.575, 0.15, 0.15])


def test_dice_counts_only_objects_that_exist() -> None:
    probs, masks = torch.rand(2, 2, 4, 4, dtype=torch.float64), torch.randint(0, 2, (2, 2, 4, 4)).double()
    present = torch.tensor([[True, True], [True, False]])

    def dice(p: Tensor, y: Tensor) -> float:
        return 1 - (2 * float((p * y).sum()) + 1) / (float(p.sum() + y.sum()) + 1)

    first = (dice(probs[0, 0], masks[0, 0]) + dice(probs[0, 1], masks[0, 1])) / 2
    expected = (first + dice(probs[1, 0], masks[1, 0])) / 2
    assert dice_loss(probs, masks, present).item() == pytest.approx(expected)


def test_plain_bank_keeps_the_first_and_the_newest() -> None:
    bank = KeyValueBank(capacity=3).eval()
    for t in range(6):
        bank.write(torch.full((1, 2, 4), float(t)), torch.zeros(1, 2, 1, 3), t, protected=t == 0)
        bank.evict()
    assert bank.frame_ids == [0, 4, 5]
    assert bank.keys[0, :, 0, 0].tolist() == [0, 4, 5]
    bank.reset()
    assert bank.is_empty
    assert len(bank) == 0


def test_no_object_vanishes_when_labels_shrink() -> None:
    labels = torch.zeros(40, 60, dtype=torch.uint8)
    labels[8:32, 8:32] = 1
    for object_, (row, column) in {2: (1, 1), 3: (2, 1), 4: (19, 21), 5: (39, 59)}.items():
        labels[row, column] = object_
    plain, kept = resize_labels(labels, (10, 15)), shrink_labels(labels, (10, 15))
    assert plain.unique().tolist() == [0, 1]
    assert kept.unique().tolist() == [0, 1, 2, 3, 4, 5]
    assert (kept != plain).sum() == 4  # a pixel each, and nothing else has changed
    assert [(kept == object_).nonzero().tolist() for object_ in (4, 5)] == [[[4, 5]], [[9, 14]]]
    assert all((kept == object_).nonzero().max() <= 1 for object_ in (2, 3))  # neighbours, where both would lie at 0, 0
    assert shrink_labels(labels, (40, 60)) is labels
    large = labels.where(labels == 1, torch.zeros_like(labels))
    assert torch.equal(shrink_labels(large, (10, 15)), resize_labels(large, (10, 15)))
    assert shrink_labels(labels, (1, 2)).unique().numel() == 2  # more objects than pixels


def test_bank_refuses_misuse() -> None:
    bank = KeyValueBank()
    with pytest.raises(RuntimeError, match="empty memory bank"):
        bank.read(torch.zeros(1, 2, 4))
    bank.write(torch.zeros(1, 2, 4), torch.zeros(1, 2, 1, 3), 3)
    with pytest.raises(ValueError, match="in order"):
        bank.write(torch.zeros(1, 2, 4), torch.zeros(1, 2, 1, 3), 3)
    with pytest.raises(ValueError, match="room for 2"):
        KeyValueBank(capacity=1)


def test_new_objects_extend_the_stored_values_with_zeros() -> None:
    bank = KeyValueBank().eval()
    bank.write(torch.zeros(1, 2, 4), torch.ones(1, 2, 1, 3), 0, protected=True)
    bank.write(torch.zeros(1, 2, 4), torch.ones(1, 2, 2, 3), 1, protected=True)
    assert bank.values[0, 0, :, 1].abs().sum() == 0
    assert bank.values[0, 1, :, 1].min() == 1
