"""HMMN against plain loops and the numerical invariants of its specification (numbers in the names of the tests)."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SHARED, small, squares
from tiny_runs import commands, started, tiny, write_tiny_demo
from torch import Tensor

from lightning_vos import HMMN, official
from lightning_vos.functional import aggregate, l2_similarity, one_hot
from lightning_vos.methods.hmmn import fine, memory
from lightning_vos.methods.hmmn.alignment import alignment_loss
from lightning_vos.methods.hmmn.fine import FineMemory, by_cell, guided_attention, to_map
from lightning_vos.methods.hmmn.kernel import global_centres, hop, squared_distance, window
from lightning_vos.methods.hmmn.memory import KernelGuidedBank
from lightning_vos.methods.hmmn.network import Decoder
from lightning_vos.methods.hmmn.official import sources

GRID = (5, 7)
CELLS = 35
GOLDEN = SHARED / "golden" / "hmmn"
ALL = slice(None)


def keys(*shape: int, seed: int = 0, channels: int = 6) -> Tensor:
    """Random keys or values ``(*shape, CELLS, channels)``."""
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*shape, CELLS, channels, generator=generator, dtype=torch.float64)


def filled(frames: int, objects: int = 2, **settings: Any) -> KernelGuidedBank:
    """A bank after ``frames`` frames that all stay, each tracked into the next."""
    bank = KernelGuidedBank(None, **settings).eval()
    for t in range(frames):
        if t and bank.kernel != "none":
            bank.track(keys(1, seed=100 + t), GRID)
        bank.write(keys(1, objects, seed=t), keys(1, objects, seed=50 + t, channels=4), t)
    return bank


def read(bank: KernelGuidedBank, query: Tensor, top_k: int = 0, start: int = 0) -> tuple[Tensor, Tensor]:
    if bank.kernel != "none":
        bank.track(query, GRID)
    return bank.read(query, GRID, ALL, start, top_k)


# ------------------------------------------------------------------------------------------------ plain loops


def place(cell: int) -> tuple[int, int]:
    return cell // GRID[1], cell % GRID[1]


def looped_hop(stored: Tensor, query: Tensor, radius: int = 3) -> list[int]:
    """``(N, C)`` twice: the best query cell of every memory cell within its window."""
    best = []
    for p in range(CELLS):
        near = [q for q in range(CELLS) if max(abs(a - b) for a, b in zip(place(p), place(q), strict=True)) <= radius]
        best.append(max(near, key=lambda q: float(stored[p] @ query[q])))
    return best


def looped_read(
    stored: Tensor, values: Tensor, query: Tensor, centres: list[list[int]] | None, sigmas: list[float]
) -> tuple[Tensor, Tensor]:
    """One object: softmax, times the kernel, divided by its sum.

    ``(T, N, C), (T, N, E), (N, C)`` to the readout ``(N, E)`` and the attention ``(N, T, N)``.
    """
    frames = len(stored)
    out, attention = torch.zeros(CELLS, values.shape[-1], dtype=torch.float64), torch.zeros(CELLS, frames, CELLS)
    attention = attention.double()
    for q in range(CELLS):
        for t in range(frames):
            for p in range(CELLS):
                gauss = 1.0
                if centres is not None:
                    squared = math.dist(place(q), place(centres[t][p])) ** 2
                    gauss = math.exp(-squared / (2 * sigmas[t] ** 2))
                attention[q, t, p] = math.exp(float(stored[t, p] @ query[q]) / math.sqrt(stored.shape[-1])) * gauss
        attention[q] /= attention[q].sum()
        for t in range(frames):
            for p in range(CELLS):
                out[q] += attention[q, t, p] * values[t, p]
    return out, attention


def dense_read(query: Tensor, stored: Tensor, values: Tensor, allowed: Tensor) -> Tensor:
    """Attention of every fine query pixel to all fine memory pixels that a mask allows: ``(N, S, C)`` and so on.

    ``allowed (N, M)`` bool says which memory cells a query cell may look at.
    """
    out = torch.zeros(*query.shape[:2], values.shape[-1], dtype=query.dtype)
    for cell in range(query.shape[0]):
        for pixel in range(query.shape[1]):
            weights, total = [], []
            for other in range(stored.shape[0]):
                if allowed[cell, other]:
                    for near in range(stored.shape[1]):
                        dot = stored[other, near] @ query[cell, pixel] / math.sqrt(query.shape[-1])
                        weights.append(dot)
                        total.append(values[other, near])
            out[cell, pixel] = torch.stack(weights).softmax(0) @ torch.stack(total)
    return out


# ------------------------------------------------------------------------------------------------ kernel


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


# ------------------------------------------------------------------------------------------------ coarse read


def test_01_wide_kernel_is_the_plain_read() -> None:
    query = keys(1, seed=99)
    wide, plain = read(filled(3, sigma=1e9), query)[0], read(filled(3, kernel="none"), query)[0]
    torch.testing.assert_close(wide, plain, rtol=0, atol=1e-12)
    bank = filled(3, kernel="none")
    for k in range(2):
        expected = looped_read(bank.keys[0, :, k], bank.values[0, :, k], query[0], None, [])[0]
        torch.testing.assert_close(plain[0, k], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("hop_twice", [False, True])
def test_02_07_tracked_read_is_the_loop(hop_twice: bool) -> None:
    """Softmax times the kernel, normalised; centres composed hop by hop, officially with the last one twice."""
    bank, query = filled(3, hop_twice=hop_twice), keys(1, seed=99)
    out, cells = read(bank, query, top_k=6)
    for k in range(2):
        stored = bank.keys[0, :, k]
        hops = [looped_hop(stored[t], (keys(1, seed=100 + t + 1) if t < 2 else query)[0]) for t in range(3)]
        centres = []
        for first in range(3):
            centre = list(range(CELLS))
            for phi in hops[first:]:
                centre = [phi[c] for c in centre]
            if hop_twice and first < 2:
                centre = [hops[2][c] for c in centre]
            centres.append(centre)
        expected, attention = looped_read(stored, bank.values[0, :, k], query[0], centres, [6.0, 4.5, 3.0])
        torch.testing.assert_close(out[0, k], expected, rtol=0, atol=1e-12)
        guide = torch.cat([attention[:, 0], attention[:, 2]], dim=1)  # after the kernel, first and newest frame
        assert cells[0, k].tolist() == guide.topk(6, dim=1).indices.tolist()


def test_03_attention_sums_to_one() -> None:
    bank = filled(3)
    bank.values = torch.ones_like(bank.values)
    torch.testing.assert_close(read(bank, keys(1, seed=99))[0], torch.ones(1, 2, CELLS, 4).double(), rtol=0, atol=1e-12)


def test_06_one_frame() -> None:
    bank, query = filled(1), keys(1, seed=99)
    out, cells = read(bank, query, top_k=64)
    assert cells.shape == (1, 2, CELLS, CELLS)  # no more cells than there are
    for k in range(2):
        phi = looped_hop(bank.keys[0, 0, k], query[0])
        expected = looped_read(bank.keys[0, :, k], bank.values[0, :, k], query[0], [phi], [3.0])[0]
        torch.testing.assert_close(out[0, k], expected, rtol=0, atol=1e-12)


def test_07_a_frame_that_is_not_kept_still_moves_the_centres() -> None:
    """Memory {0, 2} at t = 3: the centres of frame 0 follow phi_3(phi_2(phi_1(p)))."""
    frames = [keys(1, 1, seed=t) for t in range(3)]
    queries = [keys(1, seed=100 + t) for t in range(4)]
    bank = KernelGuidedBank(None).eval()
    for t, key in enumerate(frames):
        if t:
            bank.track(queries[t], GRID)
        bank.write(key, key, t, temporary=t == 1)
    bank.track(queries[3], GRID)
    hops = [looped_hop(frames[t][0, 0], queries[t + 1][0]) for t in range(3)]
    assert bank.frame_ids == [0, 2]
    assert bank.kernel_centres()[0, 0, 0].tolist() == [hops[2][hops[1][hops[0][p]]] for p in range(CELLS)]
    assert bank.kernel_centres()[0, 1, 0].tolist() == hops[2]
    assert torch.equal(bank.centres[0, 1, 0], torch.arange(CELLS))  # reading alone moves nothing


def test_kmn_kernel_is_the_best_cell_anywhere() -> None:
    bank, query = filled(3, kernel="global"), keys(1, seed=99)
    out, _ = read(bank, query)
    for k in range(2):
        stored = bank.keys[0, :, k]
        centres = [[int((stored[t, p] @ query[0].T).argmax()) for p in range(CELLS)] for t in range(3)]
        assert global_centres(bank.keys, query)[0, :, k].tolist() == centres
        expected = looped_read(stored, bank.values[0, :, k], query[0], centres, [3.0] * 3)[0]
        torch.testing.assert_close(out[0, k], expected, rtol=0, atol=1e-12)


def test_12_a_duplicated_frame_changes_nothing() -> None:
    query = keys(1, seed=99)
    bank = filled(1, growth=0.0)
    once = read(bank, query)[0]
    for name in ("keys", "values", "centres", "arrived"):
        setattr(bank, name, getattr(bank, name).repeat(1, 2, *(1,) * (getattr(bank, name).ndim - 2)))
    bank.frame_ids = [0, 1]
    torch.testing.assert_close(bank.read(query, GRID, ALL, 0, 0)[0], once, rtol=0, atol=1e-12)


def test_h3_a_best_cell_far_from_its_kernel_is_no_nan() -> None:
    """Softmax first and kernel second would be 0 / 0 here."""
    bank = KernelGuidedBank(None, sigma=0.1).eval()
    key = torch.zeros(1, 1, CELLS, 6)
    key[..., 0, :] = 1000
    bank.write(key, torch.rand(1, 1, CELLS, 4), 0)
    out, _ = read(bank, key[:, 0])
    assert torch.isfinite(out).all()


def test_pieces_of_the_affinity_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    query = keys(1, seed=99)
    whole, whole_cells = read(filled(3), query, top_k=5)
    monkeypatch.setattr(memory, "CHUNK_BYTES", 1)
    pieces, cells = read(filled(3), query, top_k=5)
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-12)
    assert torch.equal(cells, whole_cells)


def test_bank_is_bounded_and_keeps_first_and_previous_for_ten_thousand_frames() -> None:
    bank, grid = KernelGuidedBank(6).eval(), (2, 3)
    generator = torch.Generator().manual_seed(0)
    expected: list[int] = []
    for t in range(10_000):
        key = torch.randn(1, 1, 6, 2, generator=generator)
        if t:
            bank.track(key[:, 0], grid)
        bank.write(key, key, t, protected=t == 0, temporary=t % 5 != 0)
        kept = [frame for frame in range(0, t, 5) if frame] + [t] * (t > 0)
        expected = [0, *kept[-5:]]
        assert bank.frame_ids == expected
    assert bank.keys.shape == (1, 6, 1, 6, 2)
    assert bank.centres.shape == (1, 6, 1, 6)


# ------------------------------------------------------------------------------------------------ fine reads


@pytest.mark.parametrize("side", [2, 4])
def test_pixels_are_grouped_by_cell(side: int) -> None:
    image = torch.arange(3 * 2 * side * 5 * side).view(1, 3, 2 * side, 5 * side)
    grouped = by_cell(image, side)
    for y in range(2 * side):
        for x in range(5 * side):
            pixel = grouped[0, y // side, x // side, y % side, x % side]
            assert torch.equal(pixel, image[0, :, y, x])
    assert torch.equal(to_map(grouped), image)


def fine_problem(frames: int = 2, pixels: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    query = 2 * torch.randn(1, CELLS, pixels, 5, generator=generator, dtype=torch.float64)
    stored = 2 * torch.randn(1, frames * CELLS, pixels, 5, generator=generator, dtype=torch.float64)
    values = torch.randn(1, frames * CELLS, pixels, 3, generator=generator, dtype=torch.float64)
    return query, stored, values


def test_04_all_cells_are_the_dense_read() -> None:
    query, stored, values = fine_problem(frames=1)
    cells = torch.arange(CELLS).expand(1, CELLS, CELLS)
    expected = dense_read(query[0], stored[0], values[0], torch.ones(CELLS, CELLS, dtype=torch.bool))
    torch.testing.assert_close(guided_attention(query, stored, values, cells)[0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 2**23])
def test_05_chosen_cells_are_the_masked_dense_read(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fine, "CHUNK_BYTES", chunk)
    query, stored, values = fine_problem()
    cells = torch.rand(1, CELLS, 2 * CELLS, generator=torch.Generator().manual_seed(1)).topk(5).indices
    allowed = torch.zeros(CELLS, 2 * CELLS, dtype=torch.bool).scatter(1, cells[0], True)
    expected = dense_read(query[0], stored[0], values[0], allowed)
    torch.testing.assert_close(guided_attention(query, stored, values, cells)[0], expected, rtol=0, atol=1e-12)


def test_04_a_quarter_of_the_list_serves_the_next_scale() -> None:
    assert [HMMN(**{**tiny_sizes(), "top_k": k}).top_k4 for k in (64, 32, 5, 1)] == [16, 8, 1, 1]


def tiny_sizes() -> dict[str, Any]:
    sizes = {"key_dims": (8, 8, 8), "value_dims": (8, 8, 8), "decoder_dim": 8}
    return {"query_trunk": "resnet10", "memory_trunk": "resnet10", "norm": "group", **sizes}


def test_16_cells_that_were_not_chosen_get_no_gradient() -> None:
    query, stored, values = (tensor.requires_grad_() for tensor in fine_problem())
    cells = torch.tensor([3, 4, 40]).expand(1, CELLS, 3)
    guided_attention(query, stored, values, cells).pow(2).sum().backward()
    for tensor in (stored, values):
        touched = tensor.grad[0].flatten(1).any(dim=1).nonzero().flatten().tolist()
        assert touched == [3, 4, 40]
    assert query.grad.flatten(2).any(dim=2).all()


def test_first_frame_of_a_late_object_is_its_own() -> None:
    state = FineMemory(2)
    maps = [torch.randn(1, 2, 3, 4, 6) for _ in range(4)]
    with torch.inference_mode():
        state.write(maps[0][:, :1], maps[0][:, :1], [True])
        state.write(maps[1][:, :1], maps[1][:, :1], [False])
        state.write(maps[2], maps[2], [False, True])
        state.write(maps[3], maps[3], [False, False])
    assert torch.equal(to_map(state.keys[:, :, 0])[:, 0], maps[0][:, 0])
    assert torch.equal(to_map(state.keys[:, :, 0])[:, 1], maps[2][:, 1])
    assert torch.equal(to_map(state.values[:, :, 1]), maps[3])


def test_14_a_fine_read_that_is_left_out_is_a_read_of_zeros() -> None:
    torch.manual_seed(0)
    decoder = Decoder(8, (6, 5), (4, 3), 8)
    coarse = torch.randn(2, 3, 16, 2, 3)
    skips = decoder.skips(torch.randn(2, 6, 4, 6), torch.randn(2, 5, 8, 12))
    read8, read4 = torch.randn(2, 3, 4, 4, 6), torch.randn(2, 3, 3, 8, 12)
    without = decoder(coarse, skips, None, None)
    torch.testing.assert_close(decoder(coarse, skips, 0 * read8, 0 * read4), without)
    assert not torch.allclose(decoder(coarse, skips, read8, None), without)
    assert not torch.allclose(decoder(coarse, skips, None, read4), without)


def test_14_dropout_of_one_trains_without_the_fine_memories() -> None:
    frames, labels = squares(1, 3, 1)

    def trained(spoil: bool = False, **settings: Any) -> Tensor:
        model = small("HMMN", **settings).train()
        with model.sequence():
            model.advance(model.encode(model.normalize(frames[:, 0])), one_hot(labels[:, 0], 1))
            if spoil:
                model.fine8.values, model.fine4.values = model.fine8.values + 1, model.fine4.values + 1
            return model.advance(model.encode(model.normalize(frames[:, 1])), None)

    torch.testing.assert_close(trained(fine_dropout=1.0), trained(fine_reads=0))
    assert torch.equal(trained(fine_dropout=1.0, spoil=True), trained(fine_dropout=1.0))
    assert not torch.allclose(trained(fine_dropout=0.0, spoil=True), trained(fine_dropout=0.0))
    assert not torch.allclose(trained(fine_dropout=0.0), trained(fine_reads=0))


def test_fine_dropout_is_one_draw_for_all_devices() -> None:
    """A function of seed, step, frame and scale; about half of the draws leave the read out."""
    model = small("HMMN").train()
    draws = []
    for t in range(200):
        model.tracks.t = t
        draws.append([model._left_out(level) for level in range(2)])
        torch.rand(3)  # other draws of a process make no difference
    model.tracks.t = 7
    assert [model._left_out(level) for level in range(2)] == draws[7]
    shares = torch.tensor(draws).double()
    assert (shares.mean(0) - 0.5).abs().max() < 0.12
    assert 0.3 < (shares[:, 0] == shares[:, 1]).double().mean() < 0.7  # the scales do not draw together
    assert not any(model.eval()._left_out(level) for level in range(2))


# ------------------------------------------------------------------------------------------------ the whole network


def stream(model: HMMN, frames: Tensor, labels: Tensor, objects: int) -> Tensor:
    with model.sequence():
        logits = [
            model.step(frames[:, t], one_hot(labels[:, 0], objects) if t == 0 else None) for t in range(frames.shape[1])
        ]
    return torch.stack(logits, dim=1)


def test_08_more_objects_than_fit_at_once_take_turns() -> None:
    frames, labels = squares(1, 8, 5)
    at_once = stream(small("HMMN", objects_at_once=8).double(), frames, labels, 5)
    in_turns = stream(small("HMMN", objects_at_once=2).double(), frames, labels, 5)
    torch.testing.assert_close(in_turns, at_once, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("size", "expected"), [((480, 864), 1), ((240, 432), 5), ((112, 160), 8)])
def test_large_frames_on_a_cpu_take_objects_one_by_one(size: tuple[int, int], expected: int) -> None:
    """256 channels of float32 at a quarter of 480 x 864 are 26.5 MB an object."""
    model = HMMN(**{**tiny_sizes(), "decoder_dim": 256})
    assert model._at_once(torch.empty(1, 3, *size)) == expected
    assert model._at_once(torch.empty(1, 3, *size, device="meta")) == 8


@pytest.mark.parametrize("hop", ["paper", "official"])
def test_08_a_late_object_is_read_as_if_earlier_frames_had_never_been(hop: str) -> None:
    frames, labels = squares(1, 9, 1)
    model = small("HMMN", memory_every=3, capacity=None, hop=hop).double()
    mask = one_hot(labels[:, 0], 1)
    with model.sequence():
        late = []
        for t in range(9):
            given = {0: torch.zeros_like(mask), 3: mask}.get(t)
            late.append(model.step(frames[:, t], given))
    with model.sequence():
        fresh = [model.step(frames[:, t], mask if t == 3 else None) for t in range(3, 9)]
    torch.testing.assert_close(torch.stack(late[3:]), torch.stack(fresh), rtol=0, atol=1e-9)


def test_08_first_frames_may_interleave(monkeypatch: pytest.MonkeyPatch) -> None:
    """Births 0, 3, 0: objects that do not follow one another make one group; each equals its run in another order."""
    frames, labels = squares(1, 8, 3)
    masks = one_hot(labels[:, 0], 3)

    def run(order: list[int]) -> Tensor:
        model = small("HMMN", memory_every=2, capacity=None).double()
        early, late = torch.zeros_like(masks), torch.zeros_like(masks)
        early[:, order.index(0)], early[:, order.index(2)] = masks[:, 0], masks[:, 2]
        late[:, order.index(1)] = masks[:, 1]
        with model.sequence():
            out = [model.step(frames[:, t], {0: early, 3: late}.get(t)) for t in range(8)]
            assert model.tracks.births == [0 if k != 1 else 3 for k in order]
        return torch.stack(out)[:, :, [0, *(order.index(k) + 1 for k in range(3))]]

    torch.testing.assert_close(run([0, 1, 2]), run([0, 2, 1]), rtol=0, atol=1e-9)
    torch.testing.assert_close(run([0, 1, 2]), run([1, 2, 0]), rtol=0, atol=1e-9)


def test_eviction_keeps_the_centres_of_the_frames_that_stay() -> None:
    bounded, whole = KernelGuidedBank(4).eval(), KernelGuidedBank(None).eval()
    for t in range(12):
        for bank in (bounded, whole):
            if t:
                bank.track(keys(1, seed=100 + t), GRID)
            bank.write(keys(1, 1, seed=t), keys(1, 1, seed=t), t, protected=t == 0, temporary=t % 2 == 1)
    for bank in (bounded, whole):
        bank.track(keys(1, seed=99), GRID)
    slots = [whole.frame_ids.index(frame) for frame in bounded.frame_ids]
    assert bounded.frame_ids == [0, 8, 10, 11]
    assert torch.equal(bounded.arrived, whole.arrived[:, slots])


def test_kernel_is_off_in_training_unless_asked_for() -> None:
    frames, labels = squares(1, 4, 1)

    def trained(**settings: Any) -> Tensor:
        model = small("HMMN", fine_dropout=0.0, **settings).train()
        with model.sequence(), torch.no_grad():
            model.advance(model.encode(model.normalize(frames[:, 0])), one_hot(labels[:, 0], 1))
            return model.advance(model.encode(model.normalize(frames[:, 1])), None)

    assert torch.equal(trained(), trained(kernel="none"))
    assert not torch.equal(trained(kernel_in_training=True), trained(kernel="none"))


def test_l2_similarity_is_used_for_hop_and_all_reads() -> None:
    """With l2, keys that all have one length give what the dot product of twice the keys gives."""
    query = torch.nn.functional.normalize(keys(1, seed=99), dim=-1)
    banks = [filled(2), filled(2, similarity=l2_similarity)]
    for bank in banks:
        bank.keys = torch.nn.functional.normalize(bank.keys, dim=-1)
    banks[0].keys = 2 * banks[0].keys
    banks[1].centres = banks[0].centres
    (dot, dot_cells), (l2, l2_cells) = (read(bank, query, top_k=5) for bank in banks)
    torch.testing.assert_close(l2, dot, rtol=0, atol=1e-12)
    assert torch.equal(l2_cells, dot_cells)
    long, stored = query.clone(), banks[1].keys[:, 0]
    long[:, 0] *= 100  # a long key wins every dot product, but is near nothing
    assert (hop(stored.abs(), long.abs(), GRID, 9)[0] == 0).any()
    assert not (hop(stored.abs(), long.abs(), GRID, 9, l2_similarity)[0] == 0).any()
    pixels, near, values = fine_problem()
    cells = torch.arange(4).expand(1, CELLS, 4)
    near = torch.nn.functional.normalize(near, dim=-1)
    torch.testing.assert_close(
        guided_attention(pixels, near, values, cells, l2_similarity), guided_attention(pixels, 2 * near, values, cells)
    )


def test_alignment_loss_is_the_loop() -> None:
    torch.manual_seed(0)
    stored, query = torch.randn(2, 3, 4, 2, 3), torch.randn(2, 4, 2, 3, requires_grad=True)
    present = torch.tensor([[True, False, True], [True, False, False]])
    clips = []
    for b in range(2):
        variance = sum(query[b, c].var(correction=0) for c in range(4)) / 4
        errors = [(stored[b, k] - query[b]).pow(2).mean() / variance for k in range(3) if present[b, k]]
        clips.append(sum(errors) / len(errors))
    out = alignment_loss(stored.requires_grad_(), query, present)
    torch.testing.assert_close(out, sum(clips) / 2)
    out.backward()
    assert query.grad is None  # the query keys are what the memory keys follow
    assert stored.grad is not None
    assert alignment_loss(query.unsqueeze(1), query, present[:, :1]) == 0


def test_alignment_is_a_loss_of_training_only() -> None:
    frames, labels = squares(1, 4, 2)
    model = small("HMMN", alignment_weight=0.5).train()
    with model.sequence():
        for t in range(3):
            mask = one_hot(labels[:, 0], 2) if t == 0 else None
            model.advance(model.encode(model.normalize(frames[:, t])), mask, remember=t < 2)
        assert model.alignment.terms.shape == (2 * 3,)  # written frames, scales
        losses = model.auxiliary_losses(labels)
        torch.testing.assert_close(losses["alignment"], 0.5 * model.alignment.terms.mean())
    model.eval()
    with model.sequence():
        model.step(frames[:, 0], one_hot(labels[:, 0], 2))
        assert model.auxiliary_losses(labels) == {}


def test_same_trunks_start_alike() -> None:
    model = small("HMMN")
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        of_query = model.query16(model.query_encoder(image).f16)[0]
        of_memory = model.memory16(model.memory_encoder(torch.cat([image, torch.zeros(1, 2, 32, 32)], dim=1)).f16)[0]
    torch.testing.assert_close(of_memory, of_query)


@pytest.mark.parametrize(
    ("probs", "expected"),
    [
        ((0.5, 0.5), (1 / 7, 3 / 7, 3 / 7)),
        ((0.9, 0.2), (0.0093, 0.9639, 0.0268)),
        ((0.99,), (0.0001, 0.9999)),
    ],
)
def test_13_soft_aggregation(probs: tuple[float, ...], expected: tuple[float, ...]) -> None:
    out = aggregate(torch.tensor(probs).view(1, -1, 1, 1)).softmax(1).flatten()
    torch.testing.assert_close(out, torch.tensor(expected), rtol=0, atol=1e-4)


def test_bad_settings_are_refused() -> None:
    for name in ("memory_every", "objects_at_once", "top_k"):
        with pytest.raises(ValueError, match=f"{name}=0: must be at least 1"):
            HMMN(**tiny_sizes(), **{name: 0})
    for name in ("kernel", "hop", "similarity", "fine_reads"):
        with pytest.raises(ValueError, match=f"{name}=other: choose from"):
            HMMN(**tiny_sizes(), **{name: "other"})
    with pytest.raises(ValueError, match="capacity=1"):
        HMMN(**tiny_sizes(), capacity=1)


# ------------------------------------------------------------------------------------------------ the released weights


@pytest.fixture(scope="module")
def released() -> dict[str, Tensor]:
    """The released state dict's names and shapes, with values drawn as the golden clip's were."""
    if not GOLDEN.is_dir():
        pytest.skip("needs the golden results of HMMN")
    shapes = json.loads((GOLDEN / "state_dict_shapes.json").read_text())
    return {f"module.{name}": torch.from_numpy(drawn(name, tuple(shape))) for name, shape in shapes.items()}


def drawn(name: str, shape: tuple[int, ...]) -> Any:
    rng = np.random.default_rng([7, zlib.crc32(name.encode())])
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith((".mean", ".std")):
        return np.reshape([0.485, 0.456, 0.406] if name.endswith("mean") else [0.229, 0.224, 0.225], shape)
    if name.endswith("running_mean"):
        return rng.normal(0, 0.05, shape)
    if name.endswith("running_var"):
        return rng.uniform(0.8, 1.2, shape)
    if len(shape) == 4:
        return rng.normal(0, math.sqrt((1.0 if "res" in name else 1.6) / math.prod(shape[1:])), shape)
    return rng.uniform(0.5, 0.9, shape) if name.endswith("weight") else rng.normal(0, 0.05, shape)


@pytest.fixture(scope="module")
def released_file(released: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("released") / "HMMN_weights.pth"
    torch.save(released, path)
    return path


def in_float64(path: Path, **settings: Any) -> HMMN:
    """The network built in float64, so that the weights are not rounded on their way in."""
    torch.set_default_dtype(torch.float64)
    try:
        return HMMN.from_official(str(path), **settings)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
def test_golden_clip(dtype: torch.dtype, tolerance: float, released_file: Path) -> None:
    golden = np.load(GOLDEN / "clip.npz")
    frames = torch.from_numpy(golden["frames"]).permute(0, 3, 1, 2)
    mask = one_hot(torch.from_numpy(golden["first_mask"]).unsqueeze(0), 2)
    model = in_float64(released_file, memory_every=int(golden["memorize_every"])).to(dtype)
    with model.sequence():
        model.step(frames[:1], mask)
        for t in range(1, len(frames)):
            expected = torch.from_numpy(golden["logits"][t - 1])
            out = model.step(frames[t : t + 1])[0]
            torch.testing.assert_close(out, expected.to(dtype), rtol=0, atol=tolerance)
            if dtype == torch.float64:
                assert torch.equal(out.argmax(0), expected.argmax(0))


def test_golden_clip_tells_the_hops_apart(released_file: Path) -> None:
    """The double hop of the released code is in the golden numbers: the paper's single one must differ from them."""
    golden = np.load(GOLDEN / "clip.npz")
    frames = torch.from_numpy(golden["frames"]).permute(0, 3, 1, 2)
    mask = one_hot(torch.from_numpy(golden["first_mask"]).unsqueeze(0), 2)
    model = in_float64(released_file, hop="paper", memory_every=2)
    with model.sequence():
        out = [model.step(frames[t : t + 1], mask if t == 0 else None)[0] for t in range(len(frames))]
    error = (torch.stack(out[1:]) - torch.from_numpy(golden["logits"])).abs().amax(dim=(1, 2, 3))
    assert error[0] < 1e-6  # one memory frame: nothing to hop twice
    assert error[1:].min() > 1e-5


def test_17_parameter_count() -> None:
    assert sum(parameter.numel() for parameter in HMMN().parameters()) == 42_760_194


def test_15_shapes_and_17_names(released: dict[str, Tensor]) -> None:
    model = HMMN().eval()
    own = [
        name
        for entry in model.state_dict()
        for name in sources(entry, ".query8" not in f".{entry}" and ".query4" not in f".{entry}")
    ]
    means = [f"Encoder_{encoder}.{name}" for encoder in "MQ" for name in ("mean", "std")]
    assert sorted([*own, *means]) == sorted(name.removeprefix("module.") for name in released)
    assert len(released) == 572
    with torch.inference_mode(), model.sequence():
        mask = torch.zeros(1, 2, 160, 176)
        mask[:, 0, :50, :50] = mask[:, 1, 60:, 60:] = 1
        frame = torch.zeros(1, 3, 160, 176, dtype=torch.uint8)
        assert model.step(frame, mask).shape == (1, 3, 160, 176)
        assert model.bank.keys.shape == (1, 1, 2, 110, 128)
        assert model.bank.values.shape == (1, 1, 2, 110, 512)
        assert to_map(model.fine8.keys[:, :, 1]).shape == (1, 2, 128, 20, 22)
        assert to_map(model.fine8.values[:, :, 1]).shape == (1, 2, 256, 20, 22)
        assert to_map(model.fine4.keys[:, :, 1]).shape == (1, 2, 64, 40, 44)
        assert to_map(model.fine4.values[:, :, 1]).shape == (1, 2, 128, 40, 44)
        assert model.step(frame).shape == (1, 3, 160, 176)


def test_released_weights_with_and_without_prefix(released: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({name.removeprefix("module."): value for name, value in released.items()}, tmp_path / "bare.pth")
    model = HMMN.from_official(str(tmp_path / "bare.pth"), memory_every=7)
    assert model.hparams["hop"] == "official"
    assert model.memory_every == 7
    assert not model.training
    stem = released["module.Encoder_M.conv1_o.weight"].float()
    assert torch.equal(model.memory_encoder.stem[0].weight[:, 4:5], stem)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: state.pop("module.KV_Q_r3.Key.bias"), "1 entries are missing.*KV_Q_r3.Key.bias is missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "1 are unexpected .extra is unexpected"),
        (
            lambda state: state.update({"module.Decoder.pred2.bias": torch.zeros(1)}),
            r"Decoder.pred2.bias \(1,\) cannot make \(2,\)",
        ),
        (
            lambda state: state.update({"module.Encoder_M.conv1_m.weight": torch.zeros(64, 1, 5, 5)}),
            r"conv1_m.weight \(64, 1, 5, 5\) and .* cannot make \(64, 5, 7, 7\)",
        ),
        (lambda state: state.update({"module.Encoder_M.mean": torch.ones(5)}), "Encoder_M.mean is not ImageNet's"),
        (
            lambda state: state.update({"module.Encoder_M.std": torch.ones(1, 3, 1, 1)}),
            "Encoder_M.std is not ImageNet's",
        ),
    ],
)
def test_released_weights_that_do_not_fit(
    spoil: Any, message: str, released: dict[str, Tensor], tmp_path: Path
) -> None:
    state = dict(released)
    spoil(state)
    torch.save(state, tmp_path / "spoilt.pth")
    with pytest.raises(ValueError, match=f"spoilt.pth: not the released HMMN.*{message}"):
        HMMN.from_official(str(tmp_path / "spoilt.pth"))


def test_released_weights_become_a_checkpoint_that_evaluation_takes(released_file: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "new" / "last.ckpt"
    official.main(["HMMN", str(released_file), str(checkpoint)])
    (command,) = commands("eval", "METHOD=hmmn", f"CKPT={checkpoint}")
    data = write_tiny_demo(tmp_path / "data")
    cli, printed = started([*command, *tiny(data, tmp_path / "eval"), "--trainer.limit_val_batches=1"])
    assert cli.model.bank.hop_twice
    assert cli.model.memory_every == 5
    weight = torch.load(released_file, weights_only=True)["module.Decoder.convFM.weight"].float()
    torch.testing.assert_close(cli.model.decoder.compress.weight.contiguous(), weight)
    assert printed.rstrip().splitlines()[-1].startswith("J&F ")


def test_nothing_is_written_for_weights_that_do_not_fit(tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="not the released HMMN"):
        official.main(["HMMN", str(tmp_path / "other.pth"), str(tmp_path / "out" / "last.ckpt")])
    assert not (tmp_path / "out").exists()


def test_released_weights_that_are_something_else(tmp_path: Path, released_file: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        HMMN.from_official(str(tmp_path / "nothing.pth"))
    torch.save({"state_dict": {}, "epoch": 1}, tmp_path / "trainer.pth")
    with pytest.raises(ValueError, match="not a flat state dict but a dict of state_dict, epoch"):
        HMMN.from_official(str(tmp_path / "trainer.pth"))
    torch.save({"method": "HMMN", "state_dict": {}}, tmp_path / "ours.ckpt")
    with pytest.raises(ValueError, match="a checkpoint of this project needs no import"):
        HMMN.from_official(str(tmp_path / "ours.ckpt"))
    torch.save(torch.zeros(2), tmp_path / "tensor.pth")
    with pytest.raises(ValueError, match="not a flat state dict but Tensor"):
        HMMN.from_official(str(tmp_path / "tensor.pth"))
    torch.save({7: torch.zeros(2)}, tmp_path / "numbers.pth")
    with pytest.raises(ValueError, match="not a flat state dict but a dict of 7"):
        HMMN.from_official(str(tmp_path / "numbers.pth"))
    with pytest.raises(TypeError, match="positional"):
        HMMN.from_official("one.pth", "two.pth")  # type: ignore[misc]
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="not the released HMMN"):
        HMMN.from_official(str(tmp_path / "other.pth"))
    (tmp_path / "cut.pth").write_bytes(released_file.read_bytes()[:1_000_000])
    with pytest.raises(ValueError, match="cannot be read as a state dict"):
        HMMN.from_official(str(tmp_path / "cut.pth"))
