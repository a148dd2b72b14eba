"""HMMN's coarse read against plain loops, and what its bank keeps (numbers as in its specification)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hmmn_loops import ALL, CELLS, GRID, filled, keys, looped_hop, looped_read, read

from lightning_vos.methods.hmmn import memory
from lightning_vos.methods.hmmn.kernel import global_centres
from lightning_vos.methods.hmmn.memory import KernelGuidedBank, KernelSettings


def test_01_wide_kernel_is_the_plain_read() -> None:
    query = keys(1, seed=99)
    wide, plain = read(filled(3, sigma=1e9), query)[0], read(filled(3, kernel=KernelSettings("none")), query)[0]
    torch.testing.assert_close(wide, plain, rtol=0, atol=1e-12)
    bank = filled(3, kernel=KernelSettings("none"))
    for k in range(2):
        expected = looped_read(bank.keys[0, :, k], bank.values[0, :, k], query[0], None, [])[0]
        torch.testing.assert_close(plain[0, k], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("hop", ["paper", "official"])
def test_02_07_tracked_read_is_the_loop(hop: Any) -> None:
    """Softmax times the kernel, normalised; centres composed hop by hop, officially with the last one twice."""
    bank, query = filled(3, kernel=KernelSettings(hop=hop)), keys(1, seed=99)
    out, cells = read(bank, query, top_k=6)
    for k in range(2):
        stored = bank.keys[0, :, k]
        hops = [looped_hop(stored[t], (keys(1, seed=100 + t + 1) if t < 2 else query)[0]) for t in range(3)]
        centres = []
        for first in range(3):
            centre = list(range(CELLS))
            for phi in hops[first:]:
                centre = [phi[c] for c in centre]
            if hop == "official" and first < 2:
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
    bank, query = filled(3, kernel=KernelSettings("global")), keys(1, seed=99)
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


def test_bank_is_bounded_and_keeps_first_and_previous_for_two_thousand_frames() -> None:
    bank, grid = KernelGuidedBank(6).eval(), (2, 3)
    generator = torch.Generator().manual_seed(0)
    expected: list[int] = []
    for t in range(2_000):
        key = torch.randn(1, 1, 6, 2, generator=generator)
        if t:
            bank.track(key[:, 0], grid)
        bank.write(key, key, t, protected=t == 0, temporary=t % 5 != 0)
        kept = [frame for frame in range(0, t, 5) if frame] + [t] * (t > 0)
        expected = [0, *kept[-5:]]
        assert bank.frame_ids == expected
    assert bank.keys.shape == (1, 6, 1, 6, 2)
    assert bank.centres.shape == (1, 6, 1, 6)


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
