"""DMM-Net's boxes, pasted masks, pooled features and proposals against plain loops and torchvision."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from conftest import small, squares
from dmm_scenes import (
    SIZE,
    blob_masks,
    close,
    rand,
    randn,
    random_boxes,
)
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import roi_align

from lightning_vos.functional import tight_boxes
from lightning_vos.methods.dmm_net.boxes import paste_masks, pool, pool_masks
from lightning_vos.methods.dmm_net.proposals import filled, keep_best


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
    close(paste_masks(masks, boxes, SIZE), expected, atol)
    close(paste_masks(masks.view(2, -1, 28, 28), boxes.view(2, -1, 4), SIZE).flatten(0, 1), expected, atol)


def test_what_lies_outside_is_not_pasted() -> None:
    boxes = torch.tensor([[-50, 0, -10, 20], [120, 0, 300, 20], [0, -90, 20, -30], [0, 70, 20, 90]])
    assert not paste_masks(torch.ones(4, 28, 28), boxes.float(), SIZE).any()


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
    model = small("DMMNet", matching__pooling=pooling)
    frames, _ = squares(1, 1, 1, size=SIZE)
    ring = torch.zeros(1, 2, *SIZE)
    ring[:, 0, 4:60, 4:60] = 1
    ring[:, 0, 16:48, 16:48] = 0
    ring[:, 1, 4:60, 4:60] = 1 - ring[:, 0, 4:60, 4:60]
    ring[:, 1, 4, 4] = ring[:, 1, 59, 59] = 1
    ring[:, 0, 4, 4] = ring[:, 0, 59, 59] = 0
    with model.sequence():
        model.step(frames[:, 0], ring)
        ours, theirs = F.normalize(model.state.features, dim=2)[0]
        assert (torch.dot(ours, theirs) < 0.999) == (pooling == "mask")


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
    for tensor, expected in ((found.boxes, boxes), (found.masks, masks), (found.scores, scores)):
        assert torch.equal(tensor, expected[kept])
    assert found.tight.tolist() == [tight[i] for i in kept]
    assert found.valid.all()
    near = torch.tensor([[10.0, 10, 27, 27], [17, 10, 34, 27]], dtype=torch.float64)
    boxes_near = [[10, 10, 26, 26], [17, 10, 33, 26]]  # IoU 0.417, without the last pixels 0.391
    assert tight_boxes(paste_masks(torch.ones(2, 28, 28), near, SIZE) > 0.4)[0].tolist() == boxes_near
    assert len(keep_best(near, torch.ones(2, 28, 28), scores[:2], SIZE, count, limit).valid) == 1 + (limit > 0.417)
    assert len(keep_best(boxes[7:8], masks[7:8], scores[7:8], SIZE, count, limit).valid) == 0


def test_slots_without_a_proposal_hold_zeros() -> None:
    rows = torch.tensor([[1, 2], [3, 4]])
    assert filled(rows, 4).tolist() == [[1, 2], [3, 4], [0, 0], [0, 0]]
    assert filled(rows[:0] > 0, 2).tolist() == [[False, False], [False, False]]
    assert torch.equal(filled(rows, 2), rows)
