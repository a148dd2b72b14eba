"""Targets and their windows, against slices and plain loops."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from siam_dyn_cases import UNIT, close, rectangle, target, uniform
from torch import Tensor

from lightning_vos.methods.siam_dyn.crop import (
    crop_frames,
    crop_masks,
    offsets,
    paste_windows,
    to_frame,
    to_window,
)
from lightning_vos.methods.siam_dyn.target import Target, centre_of_mass, target_of


def test_1_a_window_of_128_is_a_slice() -> None:
    frame = uniform(1, 3, 300, 340)
    place = target(150, 140, 64, 64)
    assert place.side.item() == 128
    close(crop_frames(frame, place, UNIT, 257), frame[..., 140 - 128 : 140 + 129, 150 - 128 : 150 + 129])
    single = crop_frames(frame.float(), Target(*(x.float() for x in place)), UNIT, 257)
    # The coordinates themselves are rounded to 1e-5 of a pixel.
    close(single, frame[..., 12:269, 22:279].float(), atol=5e-5)
    small_window = crop_frames(frame, place, UNIT, 129)
    close(small_window, frame[..., 140 - 64 : 140 + 65, 150 - 64 : 150 + 65])


@pytest.mark.parametrize(("size", "side"), [((120, 120), 240), ((200, 60), 250.40), ((60, 60), 120), ((1, 2), 20)])
def test_2_side_with_context(size: tuple[int, int], side: float) -> None:
    assert target(0, 0, *size).side.item() == pytest.approx(side, abs=5e-3)
    if size[0] == size[1]:
        assert size[0] * UNIT / side == 64


@pytest.mark.parametrize("size", [(120, 120), (200, 60), (60, 60)])
def test_3_pasting_undoes_cropping(size: tuple[int, int]) -> None:
    mask = rectangle(300, 400, 101, 93, *size).double()
    place = target(101 + size[0] / 2 + 0.37, 93 + size[1] / 2 - 0.21, *size)
    # Cropping fills with the mean of the frame; far from the rectangle that is below a half.
    back = paste_windows(crop_frames(mask, place, UNIT, 257), place, UNIT, (300, 400)) > 0.5
    both, either = (back & (mask > 0)).sum(), (back | (mask > 0)).sum()
    assert both / either > 0.999


@pytest.mark.parametrize("factor", [2, 4])
def test_a_shrinking_window_is_the_mean_of_what_it_covers(factor: int) -> None:
    frame = uniform(1, 3, 72 * factor, 72 * factor)
    # Its centre lies where a crop pixel covers `factor` whole pixels of the frame.
    middle = 36 * factor + (factor - 1) / 2
    place = target(middle, middle, 64 * factor, 64 * factor)  # side 128 factor
    covered = F.avg_pool2d(frame, factor)[..., 36 - 32 : 36 + 33, 36 - 32 : 36 + 33]
    close(crop_frames(frame, place, UNIT, 65), covered)


def test_4_a_picture_twice_as_large_gives_the_same_window() -> None:
    def picture(scale: int) -> Tensor:
        y, x = torch.meshgrid(
            *(torch.arange(scale * side, dtype=torch.float64) / scale for side in (260, 280)), indexing="ij"
        )
        return torch.sin(x / 23 + y / 31)[None, None]

    one = crop_frames(picture(1), target(140, 130, 50, 40), UNIT, 257)
    two = crop_frames(picture(2), target(280, 260, 100, 80), UNIT, 257)
    close(one, two, atol=1e-3)


def test_the_window_against_a_plain_loop_with_the_mean_outside() -> None:
    frame = uniform(2, 2, 9, 12)
    place = Target(uniform(2, 3, 2, seed=1) * 9, 4 + 20 * uniform(2, 3, 2, seed=2))
    windows = crop_frames(frame, place, 16, 17).view(2, 3, 2, 17, 17)
    for b, k, row, column in ((0, 0, 3, 4), (0, 2, 16, 0), (1, 1, 8, 8), (1, 2, 0, 16), (1, 0, 12, 5)):
        scale = place.side[b, k] / 16
        middle = [float(place.centre[b, k, axis] + (at - 8) * scale) for axis, at in ((0, column), (1, row))]
        reach = max(0.0, min(float(scale - 1) / 2, float(scale) / 4))  # of the four readings
        for channel in range(2):
            mean, value = float(frame[b, channel].mean()), 0.0
            for x, y in ((middle[0] + dx * reach, middle[1] + dy * reach) for dx in (-1, 1) for dy in (-1, 1)):
                for j, i in ((math.floor(y) + dj, math.floor(x) + di) for dj in (0, 1) for di in (0, 1)):
                    pixel = float(frame[b, channel, j, i]) if 0 <= j < 9 and 0 <= i < 12 else mean
                    value += pixel * (1 - abs(y - j)) * (1 - abs(x - i)) / 4
            assert float(windows[b, k, channel, row, column]) == pytest.approx(value, abs=1e-12)


def test_masks_are_sampled_at_every_second_pixel_of_the_window() -> None:
    mask = (uniform(1, 40, 50) > 0.5).double()
    place = target(20, 18, 8, 8)  # clamped to 10: a side of 20
    window = crop_masks(mask, place, 32, 65, 2)
    assert window.shape == (1, 1, 33, 33)
    steps = (torch.arange(0, 65, 2) - 32) * 20 / 32
    for row, column in ((0, 0), (16, 16), (5, 30), (31, 2)):
        x, y = 20 + float(steps[column]), 18 + float(steps[row])
        if abs(x % 1 - 0.5) > 1e-6 and abs(y % 1 - 0.5) > 1e-6:
            inside = 0 <= round(y) < 40 and 0 <= round(x) < 50
            assert float(window[0, 0, row, column]) == (float(mask[0, round(y), round(x)]) if inside else 0)


def test_window_coordinates_and_their_inverse() -> None:
    place = Target(uniform(5, 2) * 100, 20 + uniform(5, 2, seed=1) * 100)
    points = uniform(5, 2, seed=2) * 300
    close(to_frame(to_window(points, place, UNIT, 257), place, UNIT, 257), points, atol=1e-10)
    close(to_window(place.centre, place, UNIT, 257), torch.full((5, 2), 128.0))
    assert offsets(257)[0] == -128
    assert offsets(257, 2).tolist() == list(range(-128, 129, 2))


def test_targets_of_masks() -> None:
    masks = torch.cat([rectangle(20, 30, 3, 5, 7, 4), torch.zeros(1, 1, 20, 30, dtype=torch.bool)], dim=1)
    masks[0, 0, 6, 5] = False
    place, seen = target_of(masks)
    assert place.centre[0].tolist() == [[6, 6.5], [14.5, 9.5]]
    assert place.size[0].tolist() == [[7, 4], [30, 20]]
    assert seen.tolist() == [[True, False]]
    far = Target(torch.tensor([-5.0, 50.0]), torch.tensor([2.0, 400.0])).clamped((20, 30))
    assert [x.tolist() for x in far] == [[0, 19], [10, 20]]


def test_centre_of_mass() -> None:
    mask = rectangle(10, 12, 2, 3, 4, 2)[0, 0] | rectangle(10, 12, 8, 8, 1, 1)[0, 0]
    points = mask.nonzero().float()
    close(centre_of_mass(mask), points.mean(dim=0).flip(0), atol=1e-6)
    assert centre_of_mass(torch.zeros(3, 3, dtype=torch.bool)).tolist() == [0, 0]
