"""The tracking rule: which cell is believed, and where the target is thought to be next."""

from __future__ import annotations

import pytest
import torch
from siam_dyn_cases import close, predicted, random, uniform
from torch import Tensor

from lightning_vos.functional import merge_by_maximum
from lightning_vos.methods.siam_dyn.target import Target
from lightning_vos.methods.siam_dyn.tracking import (
    Choice,
    TrackingSettings,
    change_penalty,
    choose,
    follow,
    hann,
    largest_components,
)


def test_18_penalty_and_window() -> None:
    previous = torch.tensor([64.0, 64.0]).double()
    for size, value in (((64, 64), 1.0), ((80, 64), 0.98397), ((32, 32), 0.96079)):
        assert change_penalty(torch.tensor(size).double(), previous, 0.04).item() == pytest.approx(value, abs=1e-5)
    window = hann(27, previous)
    assert window[13, 13] == 1
    assert window[13, 12].item() == pytest.approx(0.98547, abs=1e-5)
    assert window[0].abs().max() < 1e-12


def test_the_best_cell_against_a_loop() -> None:
    cls, ctr, box = random(2, 11, 11), random(2, 11, 11, seed=1), 8 * random(2, 4, 11, 11, seed=2).exp()
    prediction = predicted()._replace(cls=cls, ctr=ctr, box=box)
    previous = torch.tensor([[30.0, 40.0], [20.0, 20.0]]).double()
    found = choose(prediction, previous, TrackingSettings())
    window = hann(11, cls)
    for n in range(2):
        best = (-1.0, 0)
        for i in range(11):
            for j in range(11):
                score = float(torch.sigmoid(cls[n, i, j]) * torch.sigmoid(ctr[n, i, j]))
                left, top, right, bottom = box[n, :, i, j].tolist()
                penalty = float(
                    change_penalty(torch.tensor([left + right, top + bottom], dtype=torch.float64), previous[n], 0.04)
                )
                best = max(best, (0.6 * penalty * score + 0.4 * float(window[i, j]), i * 11 + j, score, penalty))
        assert int(found.cell[n]) == best[1]
        assert (float(found.score[n]), float(found.penalty[n])) == pytest.approx(best[2:], abs=1e-9)
        i, j = divmod(best[1], 11)
        assert found.position[n].tolist() == [24 + 8 * j, 24 + 8 * i]
        expected = [24 + 8 * j - box[n, 0, i, j], 24 + 8 * i - box[n, 1, i, j]]
        close(found.box[n, :2], [float(x) for x in expected], atol=1e-9)


def flooded(mask: Tensor) -> list[int]:
    """Box of the largest 8-connected part by flood fill."""
    todo, best = {tuple(p) for p in mask.nonzero().tolist()}, []
    while todo:
        part, stack = [], [todo.pop()]
        while stack:
            y, x = stack.pop()
            part.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & todo
            todo -= near
            stack += near
        best = part if len(part) > len(best) else best
    rows, columns = [y for y, _ in best], [x for _, x in best]
    return [min(columns), min(rows), max(columns), max(rows)]


def test_largest_parts_touch_at_corners() -> None:
    masks = torch.zeros(3, 8, 9, dtype=torch.bool)
    masks[0, 0, 0] = masks[0, 1, 1] = masks[0, 2, 2] = True  # a diagonal of three
    masks[0, 5, 5:7] = True
    masks[1] = uniform(8, 9) > 0.6
    boxes = largest_components(masks)
    assert boxes[0].tolist() == [0, 0, 2, 2]
    assert boxes[1].tolist() == flooded(masks[1])
    assert boxes[2].tolist() == [0, 0, 0, 0]


def chosen(score: float, penalty: float, box: list[float]) -> Choice:
    values = [torch.tensor([x]) for x in (score, penalty)]
    return Choice(torch.zeros(1, dtype=torch.long), torch.zeros(1, 2), *values, torch.tensor([box]))


def test_the_state_after_a_frame_by_hand() -> None:
    place = Target(torch.tensor([[100.0, 80.0]]), torch.tensor([[32.0, 32.0]]))  # side 64: a crop pixel is a pixel
    probs = torch.zeros(1, 129, 129)
    probs[0, 60:80, 50:90] = 0.9  # 40 x 20, centre (69.5, 69.5)
    probs[0, 0:5, 0:5] = 0.9  # another part, smaller
    arguments = (probs, 64, (200, 220), TrackingSettings())
    moved, lost = follow(place, chosen(0.5, 0.8, [50, 50, 80, 80]), *arguments)
    assert not lost.item()
    close(moved.centre, [[105.5, 85.5]])
    close(moved.size, [[0.6 * 32 + 0.4 * 40, 0.6 * 32 + 0.4 * 20]], atol=1e-5)

    for kept, lost in (follow(place, chosen(0.05, 0.8, [50, 50, 80, 80]), *arguments),):  # a bad score: it stays
        assert lost.item()
        assert [x.tolist() for x in kept] == [x.tolist() for x in place]

    moved, lost = follow(place, chosen(0.5, 0.8, [54, 44, 84, 94]), probs * 0.5, *arguments[1:])  # no mask: the box
    assert lost.item()
    close(moved.centre, [[105.0, 85.0]], atol=1e-5)
    close(moved.size, [[0.6 * 32 + 0.4 * 30, 0.6 * 32 + 0.4 * 50]], atol=1e-5)
    always, _ = follow(place, chosen(0.5, 0.8, [54, 44, 84, 94]), *arguments[:-1], TrackingSettings(state_from="box"))
    close(always.centre, moved.centre)


def test_a_state_stays_where_others_have_taken_the_pixels() -> None:
    place = Target(torch.tensor([[100.0, 80.0]]), torch.tensor([[32.0, 32.0]]))  # a crop pixel is a pixel
    probs = torch.zeros(1, 129, 129)
    probs[0, 60:80, 50:90] = 0.9
    won = torch.ones(1, 129, 129, dtype=torch.bool)
    arguments = (place, chosen(0.5, 1.0, [50, 60, 90, 80]), probs, 64, (200, 220), TrackingSettings())
    for one, two in zip(follow(*arguments, won)[0], follow(*arguments)[0], strict=True):
        assert torch.equal(one, two)
    won[0, :, 70:] = False  # another object has the right half
    moved, lost = follow(*arguments, won)
    assert not lost.item()
    close(moved.centre, [[100 + 59.5 - 64, 80 + 69.5 - 64]])
    won[0, :, 54:] = False  # 80 pixels are left: behind another object
    kept, lost = follow(*arguments, won)
    assert lost.item()
    assert [x.tolist() for x in kept] == [x.tolist() for x in place]


def test_what_lies_outside_of_the_frame_does_not_move_the_state() -> None:
    place = Target(torch.tensor([[2.0, 50.0]]), torch.tensor([[32.0, 32.0]]))
    probs = torch.ones(1, 129, 129)  # everything, and half of it is not there
    moved, _ = follow(place, chosen(1.0, 1.0, [0, 0, 1, 1]), probs, 64, (100, 120), TrackingSettings())
    close(moved.centre, [[33.0, 49.5]])  # columns 0..66 and rows 0..99
    close(moved.size, [[67.0, 100.0]])


def test_19_the_largest_probability_above_a_half_wins() -> None:
    probs = torch.tensor([[0.6, 0.4], [0.7, 0.3]]).view(1, 2, 1, 2)
    assert merge_by_maximum(probs).argmax(dim=1).flatten().tolist() == [2, 0]
    assert merge_by_maximum(probs.flip(1)).argmax(dim=1).flatten().tolist() == [1, 0]
    single = uniform(1, 1, 5, 5)
    close(torch.softmax(merge_by_maximum(single), dim=1)[:, 1], single[:, 0], atol=1e-6)
