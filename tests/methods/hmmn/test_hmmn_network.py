"""HMMN as a whole: objects in turns, objects that start later, similarities, settings."""

from __future__ import annotations

import pytest
import torch
from conftest import small, squares
from hmmn_loops import CELLS, GRID, filled, fine_problem, keys, read, stream, tiny_sizes
from torch import Tensor

from lightning_vos import HMMN
from lightning_vos.functional import aggregate, l2_similarity, one_hot
from lightning_vos.methods.hmmn.fine import guided_attention
from lightning_vos.methods.hmmn.kernel import hop
from lightning_vos.settings import build, nested


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
    model = small("HMMN", memory_every=3, capacity=None, kernel__hop=hop).double()
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
    for name in ("memory_every", "objects_at_once", "fine.top_k"):
        with pytest.raises(ValueError, match=f"{name.split('.')[-1]}=0: must be at least 1"):
            build(HMMN, {**tiny_sizes(), **nested({name: 0})})
    for name in ("kernel.form", "kernel.hop", "similarity", "fine.reads"):
        with pytest.raises(ValueError, match=f"{name.split('.')[-1]}=other: choose from"):
            build(HMMN, {**tiny_sizes(), **nested({name: "other"})})
    with pytest.raises(ValueError, match="capacity=1"):
        HMMN(**tiny_sizes(), capacity=1)


def test_17_parameter_count() -> None:
    assert sum(parameter.numel() for parameter in HMMN().parameters()) == 42_760_194
