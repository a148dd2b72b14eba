"""HMMN's fine reads against the dense ones (numbers as in its specification)."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import small, squares
from hmmn_loops import CELLS, fine_problem
from torch import Tensor

from lightning_vos.functional import one_hot
from lightning_vos.methods.hmmn import fine
from lightning_vos.methods.hmmn.fine import FineMemory, FineSettings, by_cell, guided_attention, to_map
from lightning_vos.methods.hmmn.network import Decoder


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


@pytest.mark.parametrize("side", [2, 4])
def test_pixels_are_grouped_by_cell(side: int) -> None:
    image = torch.arange(3 * 2 * side * 5 * side).view(1, 3, 2 * side, 5 * side)
    grouped = by_cell(image, side)
    for y in range(2 * side):
        for x in range(5 * side):
            pixel = grouped[0, y // side, x // side, y % side, x % side]
            assert torch.equal(pixel, image[0, :, y, x])
    assert torch.equal(to_map(grouped), image)


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
    assert [FineSettings(top_k=k).cells(0) for k in (64, 32, 5, 1)] == [64, 32, 5, 1]
    assert [FineSettings(top_k=k).cells(1) for k in (64, 32, 5, 1)] == [16, 8, 1, 1]


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
    coarse = torch.randn(2, 3, 8, 2, 3)
    skips = decoder.skips(torch.randn(2, 8, 2, 3), torch.randn(2, 6, 4, 6), torch.randn(2, 5, 8, 12))
    read8, read4 = torch.randn(2, 3, 4, 4, 6), torch.randn(2, 3, 3, 8, 12)
    without = decoder(coarse, skips, None, None)
    torch.testing.assert_close(decoder(coarse, skips, 0 * read8, 0 * read4), without)
    assert not torch.allclose(decoder(coarse, skips, read8, None), without)
    assert not torch.allclose(decoder(coarse, skips, None, read4), without)


def test_14_dropout_of_one_trains_without_the_fine_memories() -> None:
    frames, labels = squares(1, 3, 1)

    def trained(spoil: bool = False, **settings: float) -> Tensor:
        model = small("HMMN", **settings).train()
        with model.sequence():
            model.advance(model.encode(model.normalize(frames[:, 0])), one_hot(labels[:, 0], 1))
            if spoil:
                model.fine8.values, model.fine4.values = model.fine8.values + 1, model.fine4.values + 1
            return model.advance(model.encode(model.normalize(frames[:, 1])), None)

    torch.testing.assert_close(trained(fine__dropout=1.0), trained(fine__reads=0))
    assert torch.equal(trained(fine__dropout=1.0, spoil=True), trained(fine__dropout=1.0))
    assert not torch.allclose(trained(fine__dropout=0.0, spoil=True), trained(fine__dropout=0.0))
    assert not torch.allclose(trained(fine__dropout=0.0), trained(fine__reads=0))


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
