"""J and F of single masks against textbook code and values that can be checked by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_vos.metrics import boundary_accuracy, region_similarity
from tests import reference

SIZES = [(1, 1), (1, 9), (8, 1), (2, 2), (7, 13), (24, 31), (61, 40)]


def _masks(height: int, width: int, seed: int) -> list[Tensor]:
    """Empty, full, border, single pixel, blob and noise masks."""
    generator = torch.Generator().manual_seed(seed)
    empty = torch.zeros(height, width, dtype=torch.bool)
    border, corner, dot = empty.clone(), empty.clone(), empty.clone()
    border[:, -1] = border[-1] = True
    corner[-1, -1] = True
    dot[height // 2, width // 2] = True
    noise = [torch.rand(height, width, generator=generator) < density for density in (0.03, 0.5)]
    blobs = [reference.blobs(height, width, generator) for _ in range(2)]
    return [empty, ~empty, border, ~border, corner, dot, *noise, *blobs]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("with_void", [False, True])
def test_equals_textbook(size: tuple[int, int], with_void: bool) -> None:
    """Every pair of masks, several tolerances: exactly the full-frame results."""
    masks = _masks(*size, seed=0)
    void = torch.rand(size, generator=torch.Generator().manual_seed(1)) < 0.2 if with_void else None
    for i, pred in enumerate(masks):
        for j, target in enumerate(masks):
            assert float(region_similarity(pred, target, void)) == reference.region_similarity(pred, target, void)
            for tolerance in (0.008, 0.1, 1, 3):
                ours = float(boundary_accuracy(pred, target, void, tolerance))
                theirs = reference.boundary_accuracy(pred, target, void, tolerance)
                assert ours == theirs, (i, j, tolerance)


def test_the_two_textbook_dilations_agree() -> None:
    """Shifts and a convolution are independent ways to the same disk."""
    for mask in _masks(33, 47, seed=2):
        for radius in (0, 1, 4, 8):
            assert torch.equal(reference.dilate_by_shifts(mask, radius), reference.dilate_by_convolution(mask, radius))


def test_equals_textbook_at_full_size() -> None:
    """480 x 854 as in DAVIS, where the tolerance is 8 pixels."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(2):
        pred, target = reference.blobs(480, 854, generator), reference.blobs(480, 854, generator)
        assert float(boundary_accuracy(pred, target)) == reference.boundary_accuracy(pred, target, convolve=True)


def test_worked_examples() -> None:
    """Values that can be checked by hand."""
    empty = torch.zeros(20, 20, dtype=torch.bool)
    left, right = empty.clone(), empty.clone()
    left[:, :10] = True
    right[:, :14] = True
    assert float(region_similarity(left, right)) == pytest.approx(10 / 14)
    assert float(boundary_accuracy(left, right, tolerance=3)) == 0.0  # the boundaries are 4 columns apart
    assert float(boundary_accuracy(left, right, tolerance=4)) == 1.0
    assert float(boundary_accuracy(left, right, tolerance=0.008)) == 0.0  # ceil(0.008 * 28.3) = 1
    for measure in (region_similarity, boundary_accuracy):
        assert float(measure(empty, empty)) == 1.0
        assert float(measure(left, empty)) == 0.0
        assert float(measure(empty, left)) == 0.0
        assert float(measure(left, empty, left)) == 1.0  # all of it is void
        assert measure(left, right).dtype == torch.float64


def test_leading_dimensions() -> None:
    """A batch gives what its members give, in place; void is broadcast."""
    masks = torch.stack(_masks(19, 23, seed=4)[:6]).view(2, 3, 19, 23)
    others = masks.flip(1)
    void = torch.rand(19, 23, generator=torch.Generator().manual_seed(5)) < 0.1
    for measure in (region_similarity, boundary_accuracy):
        batched = measure(masks, others, void)
        assert batched.shape == (2, 3)
        for i in range(2):
            for j in range(3):
                assert batched[i, j] == measure(masks[i, j], others[i, j], void)
        assert measure(masks[:0], others[:0]).shape == (0, 3)


def test_mixed_precision_changes_nothing() -> None:
    """Lightning's evaluation steps run under autocast; a count in bfloat16 would be wrong above 256."""
    generator = torch.Generator().manual_seed(8)
    pred, target = torch.rand(2, 64, 96, generator=generator) < 0.3
    with torch.autocast("cpu", torch.bfloat16):
        mixed = [measure(pred, target) for measure in (region_similarity, boundary_accuracy)]
    assert [float(value) for value in mixed] == [
        reference.region_similarity(pred, target),
        reference.boundary_accuracy(pred, target),
    ]


def test_batched_counts_do_not_mix() -> None:
    """The path of other devices, all maps in one pass, equals the boxes of the CPU."""
    from lightning_vos.metrics.boundary import _match_table

    masks = _masks(17, 29, seed=6)
    pairs = [(a, b) for a in masks for b in masks]
    preds, targets = torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs])
    for radius in (1, 5, 40):
        together = _match_table(preds, targets, radius)
        apart = torch.cat([_match_table(a[None], b[None], radius) for a, b in pairs])
        assert torch.equal(together[:, 4:], apart[:, 4:])  # codes from 4 on: boundary pixels
        near = torch.stack([reference.dilate_by_shifts(reference.boundary_map(b), radius) for _, b in pairs])
        bounds = torch.stack([reference.boundary_map(a) for a, _ in pairs])
        matched = together.view(-1, 2, 2, 2, 2)[:, :, 1, 1].sum((1, 2))  # bits: on target, on pred, near target, ...
        assert torch.equal(matched, (bounds & near).sum((1, 2)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu() -> None:
    """Same digits on the GPU."""
    masks = torch.stack(_masks(61, 40, seed=7))
    for measure in (region_similarity, boundary_accuracy):
        assert torch.equal(measure(masks.cuda(), masks.flip(0).cuda()).cpu(), measure(masks, masks.flip(0)))


def test_refuses_what_is_not_a_mask() -> None:
    """Shapes, dtypes and tolerances."""
    mask = torch.ones(4, 5, dtype=torch.bool)
    for measure in (region_similarity, boundary_accuracy):
        with pytest.raises(ValueError, match="same"):
            measure(mask, mask[:3])
        with pytest.raises(ValueError, match="bool"):
            measure(mask.float(), mask)
    with pytest.raises(ValueError, match="tolerance"):
        boundary_accuracy(mask, mask, tolerance=-1)
