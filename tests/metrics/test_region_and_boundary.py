"""J and F of single masks against what the official code does, and values that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from lightning_vos.metrics import boundary_accuracy, region_and_boundary, region_similarity
from lightning_vos.metrics.boundary import _count_pixels
from lightning_vos.metrics.masks import object_masks
from lightning_vos.metrics.packed import count_pixels
from tests import reference

SIZES = [(1, 1), (1, 9), (8, 1), (2, 2), (7, 13), (24, 31), (61, 40), (9, 64), (6, 129), (5, 191)]


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
def test_equals_the_official_way(size: tuple[int, int], with_void: bool) -> None:
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


@pytest.mark.parametrize("radius", [0, 1, 3, 8, 18, 36, 66])
def test_any_radius_at_any_place(radius: int) -> None:
    """Tolerances of 480p, 1080p and 4K and beyond a word; boxes that begin and end at any bit, or at the frame's."""
    generator = torch.Generator().manual_seed(radius)
    for _ in range(12):
        size = torch.randint(1, 200, (2,), generator=generator).tolist()
        pair = []
        for _ in range(2):
            density = 10 ** -(4 * float(torch.rand((), generator=generator)))
            mask = torch.rand(size, generator=generator) < density
            top, left = (int(n * torch.rand((), generator=generator)) for n in size)
            height, width = torch.randint(1, 200, (2,), generator=generator).tolist()
            inside = torch.zeros_like(mask)
            inside[top : top + height, left : left + width] = True
            pair.append(mask & inside)
        on = [reference.boundary_map(mask.numpy()) for mask in pair]
        near = [reference.dilate(bounds, radius) for bounds in on]
        counts = count_pixels(pair[0].numpy(), pair[1].numpy(), radius)
        assert counts[:3] == ((pair[0] & pair[1]).sum(), (on[0] & near[1]).sum(), (on[1] & near[0]).sum())
        assert counts[3:] == ((pair[0] | pair[1]).sum(), on[0].sum(), on[1].sum())


def test_the_official_dilation_is_a_distance() -> None:
    """The reference itself: a pixel is near when its distance to the nearest boundary pixel is within the radius."""
    for mask in _masks(33, 47, seed=2)[1:]:
        distance = ndimage.distance_transform_edt(~mask.numpy())
        for radius in (0, 1, 4, 8):
            assert np.array_equal(reference.dilate(mask.numpy(), radius), distance <= radius)


@pytest.mark.parametrize(("size", "cases"), [((480, 854), 4), ((2160, 3840), 1)])
def test_equals_the_official_way_at_full_size(size: tuple[int, int], cases: int) -> None:
    """DAVIS, where the tolerance is 8 pixels, and 4K, where it is 36; masks at the border, full and empty ones."""
    generator = torch.Generator().manual_seed(3)
    pred, target = reference.blobs(*size, generator), reference.blobs(*size, generator)
    full = torch.ones_like(pred)
    for a, b in [(~pred, target), (pred, target), (full, target), (full, ~full)][:cases]:
        assert float(boundary_accuracy(a, b)) == reference.boundary_accuracy(a, b)


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


def test_the_way_of_other_devices_counts_the_same() -> None:
    """All pairs in one pass, a byte a pixel, as on a GPU."""
    masks = _masks(17, 29, seed=6)
    pairs = [(a, b) for a in masks for b in masks]
    preds, targets = torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs])
    for radius in (0, 1, 5, 40):
        expected = torch.tensor([count_pixels(a.numpy(), b.numpy(), radius) for a, b in pairs])
        assert torch.equal(_count_pixels(preds, targets, radius), expected)
    assert _count_pixels(preds[:0], targets[:0], 5).shape == (0, 6)


def test_both_at_once_equal_each_alone() -> None:
    masks = torch.stack(_masks(61, 40, seed=9))
    region, boundary = region_and_boundary(masks, masks.flip(0), void=masks[6], tolerance=3)
    assert torch.equal(region, region_similarity(masks, masks.flip(0), masks[6]))
    assert torch.equal(boundary, boundary_accuracy(masks, masks.flip(0), masks[6], tolerance=3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu() -> None:
    """Same digits on the GPU."""
    masks = torch.stack(_masks(61, 40, seed=7))
    for measure in (region_similarity, boundary_accuracy):
        assert torch.equal(measure(masks.cuda(), masks.flip(0).cuda()).cpu(), measure(masks, masks.flip(0)))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float64])
def test_masks_of_labels(dtype: torch.dtype) -> None:
    labels = torch.tensor([[0, 1, 2], [1, 255, 0]]).to(dtype)
    assert torch.equal(object_masks(labels, 3), torch.stack([labels.long() == k for k in (1, 2, 3)]))


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
