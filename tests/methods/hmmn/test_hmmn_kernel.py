"""Where HMMN's kernel lies, and how wide it is (numbers as in its specification)."""

from __future__ import annotations

import math

import pytest
import torch
from hmmn_loops import CELLS, GRID, keys, looped_hop, place

from lightning_vos.methods.hmmn.kernel import hop, squared_distance, window


def test_window_is_the_square_clipped_at_the_border() -> None:
    for cell, inside in enumerate(window(GRID, 1, torch.device("cpu")).tolist()):
        y, x = place(cell)
        expected = {
            place_to for place_to in range(CELLS) if max(abs(place(place_to)[0] - y), abs(place(place_to)[1] - x)) <= 1
        }
        assert set(inside) == expected


@pytest.mark.parametrize("radius", [1, 3])
def test_hop_is_the_best_cell_of_the_window(radius: int) -> None:
    stored, query = keys(2, 3, seed=1), keys(2, seed=2)
    phi = hop(stored, query, GRID, radius)
    for b in range(2):
        for k in range(3):
            assert phi[b, k].tolist() == looped_hop(stored[b, k], query[b], radius)


@pytest.mark.parametrize(("down", "right"), [(0, 0), (1, -2), (-3, 3)])
def test_09_hop_follows_a_translation(down: int, right: int) -> None:
    height, width = 12, 13
    torch.manual_seed(0)
    frame = torch.randn(height, width, 16, dtype=torch.float64)
    frame = 10 * frame / frame.norm(dim=-1, keepdim=True)
    moved = torch.randn_like(frame)
    ys = range(max(0, -down), min(height, height - down))
    xs = range(max(0, -right), min(width, width - right))
    for y in ys:
        for x in xs:
            moved[y + down, x + right] = frame[y, x]
    phi = hop(frame.view(1, 1, -1, 16), moved.view(1, -1, 16), (height, width), 3)[0, 0]
    for y in range(3, height - 3):
        for x in range(3, width - 3):
            assert int(phi[y * width + x]) == (y + down) * width + x + right


def test_09_hop_stays_in_the_window() -> None:
    phi = hop(keys(1, 1), keys(1, seed=9), GRID, 3)[0, 0].tolist()
    assert all(max(abs(a - b) for a, b in zip(place(p), place(q), strict=True)) <= 3 for p, q in enumerate(phi))


def test_10_kernel_values() -> None:
    centres = torch.zeros(1, 2, 1, dtype=torch.int64)  # two frames of one cell each, centred at the corner
    sigma = torch.tensor([4.5, 3.0], dtype=torch.float64)
    kernel = torch.exp(-squared_distance(centres, range(8), sigma))[0]
    expected = [
        [1, 0.9756, 0.9060, 0.8007, 0.6736, 0.5394, 0.4111, 0.2982],
        [1, 0.9460, 0.8007, 0.6065, 0.4111, 0.2494, 0.1353, 0.0657],
    ]
    torch.testing.assert_close(kernel.T, torch.tensor(expected, dtype=torch.float64), atol=5e-5, rtol=0)


def test_11_every_query_cell_is_near_the_centre_of_some_cell_of_the_newest_frame() -> None:
    for seed in range(5):
        phi = hop(keys(1, 1, seed=seed), keys(1, seed=seed + 20), GRID, 3)[0, 0].tolist()
        for q in range(CELLS):
            nearest = min(math.dist(place(q), place(centre)) ** 2 for centre in phi)
            assert math.exp(-nearest / (2 * 3**2)) >= math.exp(-1) - 1e-12
