"""Targets of cells and losses, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from siam_dyn_cases import close, predicted, random, uniform
from torch import Tensor

from lightning_vos.methods.siam_dyn.cells import box_distances, cell_positions, distances_to_box
from lightning_vos.methods.siam_dyn.losses import best_positives, detection_losses, dice, mask_losses
from lightning_vos.methods.siam_dyn.network import Prediction
from lightning_vos.methods.siam_dyn.targets import CellTargets, cell_targets, centreness


def test_14_boxes_as_distances() -> None:
    boxes, cells = torch.tensor([[50.0, 60.0, 90.0, 100.0]]), cell_positions(27, torch.zeros(1))
    distances = box_distances(boxes, cells)
    close(distances_to_box(distances, cells), boxes.expand(1, 729, 4), atol=1e-4)
    assert centreness(torch.tensor([20.0, 30.0, 20.0, 30.0])).item() == 1
    assert centreness(torch.tensor([8.0, 16.0, 24.0, 16.0])).item() == pytest.approx(0.57735, abs=1e-5)
    assert centreness(torch.tensor([-8.0, 16.0, 24.0, 16.0])).item() == 0


def test_cells_near_the_middle_are_positive() -> None:
    boxes = torch.tensor([[96.0, 96.0, 160.0, 160.0], [100.0, 124.0, 180.0, 131.0], [96.0, 96.0, 160.0, 160.0]])
    middle = torch.tensor([[128.0, 128.0], [130.0, 127.0], [128.0, 128.0]])
    targets = cell_targets(boxes, middle, torch.tensor([True, True, False]), 27)
    expected = torch.zeros(3, 27, 27, dtype=torch.bool)
    for n in range(2):
        for i in range(27):
            for j in range(27):
                x, y = 8 * (j + 3), 8 * (i + 3)
                inside = boxes[n, 0] < x < boxes[n, 2] and boxes[n, 1] < y < boxes[n, 3]
                expected[n, i, j] = inside and max(abs(x - middle[n, 0]), abs(y - middle[n, 1])) <= 12
    assert torch.equal(targets.positive, expected)
    assert targets.positive.sum(dim=(1, 2)).tolist() == [9, 3, 0]
    assert targets.distances[0, :, 13, 14].tolist() == [40, 32, 24, 32]


def cell_losses(positive: Tensor, box: Tensor, wanted: Tensor, ctr: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of one window with 3 x 3 cells; box and wanted ``(4,)``."""
    grid = torch.zeros(1, 3, 3).double()
    maps = [x.view(1, 4, 1, 1).expand(1, 4, 3, 3) for x in (box, wanted)]
    prediction = Prediction(random(1, 3, 3), random(1, 3, 3, seed=1), maps[0], grid, grid)
    return detection_losses(prediction, CellTargets(positive, maps[1], grid + ctr))


def test_15_generalised_iou_without_a_pixel_more() -> None:
    positive = torch.ones(1, 3, 3, dtype=torch.bool)
    ten, twenty = torch.full((4,), 10.0).double(), torch.full((4,), 20.0).double()
    close(cell_losses(positive, ten, ten)[1], [0.0])
    close(cell_losses(positive, ten, twenty)[1], [0.75])


def test_focal_loss_and_centreness_by_hand() -> None:
    positive = torch.zeros(1, 3, 3, dtype=torch.bool)
    positive[0, 1, 1] = positive[0, 0, 2] = True
    focal, _, entropy = cell_losses(positive, torch.ones(4).double(), torch.ones(4).double(), ctr=0.5)
    logits, ctr = random(1, 3, 3)[0], random(1, 3, 3, seed=1)[0]
    total, centre = 0.0, 0.0
    for i in range(3):
        for j in range(3):
            p = 1 / (1 + math.exp(-float(logits[i, j])))
            q = 1 / (1 + math.exp(-float(ctr[i, j])))
            hit = bool(positive[0, i, j])
            total -= 0.25 * (1 - p) ** 2 * math.log(p) if hit else 0.75 * p**2 * math.log(1 - p)
            centre -= 0.5 * (math.log(q) + math.log(1 - q)) if hit else 0
    close(focal, [total / 2])
    close(entropy, [centre / 2])


def test_16_dice() -> None:
    mask = (uniform(1, 20, 20) > 0.5).double()
    assert 0 <= dice(mask, mask).item() < 1e-5
    assert dice(mask, 1 - mask).item() == 1
    logits = random(1, 2, 20, 20)
    overlap, entropy = mask_losses(logits, mask, torch.tensor([[True, False]]))
    p = torch.sigmoid(logits[0, 0])
    close(overlap, [1 - 2 * float((p * mask[0]).sum()) / (float((p**2).sum() + mask.sum()) + 1e-5)])
    close(entropy, [-float((mask[0] * p.log() + (1 - mask[0]) * (1 - p).log()).mean())])
    assert [x.item() for x in mask_losses(logits, mask, torch.zeros(1, 2, dtype=torch.bool))] == [0, 0]


def test_17_the_normaliser_is_one_without_positives() -> None:
    focal, box, entropy = cell_losses(
        torch.zeros(1, 3, 3, dtype=torch.bool), torch.ones(4).double(), -torch.ones(4).double()
    )
    p = torch.sigmoid(random(1, 3, 3))
    close(focal, [-float((0.75 * p**2 * (1 - p).log()).sum())])
    assert box.item() == entropy.item() == 0


def test_at_most_eight_kernels_of_a_sample_those_of_the_largest_scores() -> None:
    prediction = predicted()._replace(cls=random(1, 11, 11), ctr=random(1, 11, 11, seed=1))
    positive = torch.zeros(1, 11, 11, dtype=torch.bool)
    positive[0, 3:6, 3:6] = True
    cells, valid = best_positives(prediction, positive)
    score = torch.sigmoid(prediction.cls) * torch.sigmoid(prediction.ctr)
    worst = score.masked_fill(~positive, 2).flatten().argmin()
    assert valid.all()
    assert set(cells[0].tolist()) == set(positive.flatten().nonzero()[:, 0].tolist()) - {int(worst)}
    assert best_positives(prediction, positive & (torch.arange(11) == 4))[1].sum() == 3
