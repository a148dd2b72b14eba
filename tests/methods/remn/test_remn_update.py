"""REMN's adaptive memory update (numbers as in its specification)."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from conftest import small, squares
from torch import Tensor

from lightning_vos.functional import one_hot
from lightning_vos.methods.remn.update import AdaptiveMemoryUpdate, UpdateSettings


def square(left: int, side: int = 96, size: int = 256) -> Tensor:
    probs = torch.zeros(1, 1, size, size)
    probs[..., 32 : 32 + side, left : left + side] = 1
    return probs


@pytest.mark.parametrize(("shift", "change", "writes"), [(8, 0.153846, False), (20, 0.344828, True)])
def test_16_shape_change_of_a_shifted_square(shift: int, change: float, writes: bool) -> None:
    update = AdaptiveMemoryUpdate()
    key = torch.ones(1, 256, 4)  # one key everywhere: no appearance change
    update.observe(square(32), key, 0, square(32))
    moved = F.avg_pool2d(square(32 + shift), 4)
    overlap = torch.minimum(moved, update.shape).sum() / torch.maximum(moved, update.shape).sum()
    assert (1 - overlap).item() == pytest.approx(change, abs=1e-6)
    decision = update.observe(square(32 + shift), key, 5, None)
    assert (decision is not None) == writes


def test_16b_appearance_alone_triggers() -> None:
    update = AdaptiveMemoryUpdate()
    update.observe(square(32), torch.ones(1, 256, 4), 0, square(32))
    turned = torch.tensor([1.0, 1.0, 1.0, -1.0]).expand(1, 256, 4)  # cosine 0.5
    assert update.observe(square(32), turned, 3, None) is not None


@pytest.mark.parametrize("frames", [15, 16, 100])
def test_17_static_clip_is_written_every_fifteenth_frame(frames: int) -> None:
    update, key, probs = AdaptiveMemoryUpdate(), torch.ones(1, 256, 4), square(32)
    writes = [t for t in range(frames) if update.observe(probs, key, t, probs if t == 0 else None) is not None]
    assert len(writes) - 1 == (frames - 1) // 15


def test_17b_gap_between_writes_is_at_least_three() -> None:
    update, key = AdaptiveMemoryUpdate(), torch.ones(1, 256, 4)
    writes = [
        t for t in range(60) if update.observe(square(20 * (t % 8)), key, t, square(0) if t == 0 else None) is not None
    ]
    assert min(b - a for a, b in pairwise(writes)) == 3


@pytest.mark.parametrize("min_confidence", [0.0, 0.8])
def test_18_vanished_object_is_not_written_and_its_return_is(min_confidence: float) -> None:
    update, key = AdaptiveMemoryUpdate(UpdateSettings(min_confidence=min_confidence)), torch.ones(1, 256, 4)
    update.observe(square(32), key, 0, square(32))
    gone = torch.zeros(1, 1, 256, 256)
    assert all(update.observe(gone, key, t, None) is None for t in range(1, 40))
    assert update.observe(square(64), key, 40, None) is not None


def test_unconfident_frames_are_not_written() -> None:
    update, key = AdaptiveMemoryUpdate(), torch.ones(1, 256, 4)
    update.observe(square(32), key, 0, square(32))
    assert update.observe(0.7 * square(96), key, 20, None) is None
    assert update.observe(0.9 * square(96), key, 21, None) is not None


def test_clips_of_a_batch_decide_for_themselves() -> None:
    update = AdaptiveMemoryUpdate()
    key = torch.ones(2, 256, 4)
    start = torch.cat([square(32), square(32)])
    update.observe(start, key, 0, start)
    writes = update.observe(torch.cat([square(32), square(80)]), key, 4, None)
    assert writes.tolist() == [False, True]
    assert update.last_written == [0, 4]


def test_batched_streams_write_different_frames() -> None:
    """The ragged bank is really exercised by the contract test that compares a batch with its clips."""
    model = small("REMN").double()
    frames, labels = squares(3, 14, 2)
    with model.sequence():
        for t in range(14):
            model.step(frames[:, t], one_hot(labels[:, 0], 2) if t == 0 else None)
        valid = model.bank.valid
    assert valid.shape[1] > 2
    assert not valid.all()
