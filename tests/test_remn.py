"""REMN against plain loops and the numerical invariants of its specification (numbers in the names of the tests)."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from conftest import small, squares
from torch import Tensor

from lightning_vos import REMN
from lightning_vos.functional import aggregate, l2_similarity, one_hot, topk_read
from lightning_vos.methods.remn.contrastive import correspondence_loss, pure_labels
from lightning_vos.methods.remn.memory import (
    DynamicMemoryBank,
    ModulationGate,
    describe,
    efficiency_loss,
    mixture_of_softmaxes,
    redundancy,
    removal_counts,
)
from lightning_vos.methods.remn.network import LocalAttention
from lightning_vos.methods.remn.update import AdaptiveMemoryUpdate


def random_attention(channels: int = 8) -> LocalAttention:
    torch.manual_seed(0)
    attention = LocalAttention(channels).double()
    torch.nn.init.normal_(attention.score.weight)
    torch.nn.init.constant_(attention.score.bias, -1.0)
    return attention


# ------------------------------------------------------------------------------------------------ size


def test_parameter_counts() -> None:
    model = REMN()

    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert count(model.attention) == 103_745
    assert count(model.bank) == 6_275
    assert count(model.key_encoder) == 8_543_296
    assert count(model) - count(model.attention) - count(model.bank) == 54_431_940


# ------------------------------------------------------------------------------------------------ local attention


def test_01_full_previous_mask_changes_nothing_bitwise() -> None:
    attention, feature = random_attention(), torch.randn(2, 8, 6, 7, dtype=torch.float64)
    assert torch.equal(attention(feature, torch.ones(2, 1, 96, 112, dtype=torch.float64)), feature)


def test_02_lost_mask_bypasses_and_fresh_module_is_nearly_identity() -> None:
    attention, feature = random_attention(), torch.randn(1, 8, 12, 12, dtype=torch.float64)
    union = torch.zeros(1, 1, 192, 192, dtype=torch.float64)
    union[0, 0, 0, :9] = 1
    assert torch.equal(attention(feature, union), feature)
    union[0, 0, 0, :10] = 1  # ten pixels are enough
    assert not torch.equal(attention(feature, union), feature)
    fresh = LocalAttention(8).double()
    envelope = fresh.envelope(feature, union)
    assert envelope[0, 0, 11, 11].item() == pytest.approx(0.98201, abs=1e-5)


def test_03_locality() -> None:
    attention, feature = random_attention(), torch.randn(1, 8, 15, 15, dtype=torch.float64)
    union = (torch.rand(1, 1, 240, 240, dtype=torch.float64) > 0.97).double()
    changed = union.clone()
    changed[..., 112:128, 112:128] = 1  # cell (7, 7)
    difference = (attention.envelope(feature, union) != attention.envelope(feature, changed))[0, 0].nonzero()
    distance = (difference - 7).abs().amax(dim=1)
    assert len(difference)
    assert distance.max() <= 5


def test_04_envelope_is_in_range_and_grows_with_the_neighbourhood() -> None:
    attention, feature = random_attention(), torch.randn(1, 8, 8, 8, dtype=torch.float64)
    union = torch.rand(1, 1, 128, 128, dtype=torch.float64)
    envelope = attention.envelope(feature, union)
    assert (envelope > 0).all()
    assert (envelope <= 1).all()
    near = F.max_pool2d(F.avg_pool2d(union, 16), 9, 1, 4)
    assert (envelope >= near).all()  # e = A + (1 - A) a, a > 0


# ------------------------------------------------------------------------------------------------ read


def loop_read(keys: Tensor, values: Tensor, query: Tensor, top_k: int | None) -> Tensor:
    """STCN's read of one clip by loops: ``(M, C), (M, D), (N, C) -> (N, D)``."""
    out = []
    for q in query:
        scores = torch.stack([-(k - q).pow(2).sum() / math.sqrt(len(q)) for k in keys])
        chosen = scores.argsort(descending=True)[: top_k or len(scores)]
        weights = torch.softmax(scores[chosen], dim=0)
        out.append((weights.unsqueeze(1) * values[chosen]).sum(0))
    return torch.stack(out)


def filled_bank(
    frames: int, batch: int = 1, seed: int = 0, positions: int = 6, **settings: object
) -> DynamicMemoryBank:
    torch.manual_seed(0)
    positions = 6
    bank = DynamicMemoryBank(key_dim=8, **{"capacity": None, "gate_from": 10_000, **settings}).double()
    torch.nn.init.normal_(bank.gate.last.weight)
    for t in range(frames):
        bank.remember(
            torch.randn(batch, positions, 8, dtype=torch.float64),
            torch.randn(batch, positions, 2, 5, dtype=torch.float64),
            torch.rand(batch, positions, dtype=torch.float64),
            frame_id=t,
            protected=t == 0,
        )
    return bank


@pytest.mark.parametrize("top_k", [3, 20, None])
def test_read_equals_plain_loops(top_k: int | None) -> None:
    bank = filled_bank(4, batch=2, top_k=top_k).eval()
    query = torch.randn(2, 5, 8, dtype=torch.float64)
    out = bank.read(query)
    for b in range(2):
        for k in range(2):
            expected = loop_read(bank.keys[b].flatten(0, 1), bank.values[b, :, :, k].flatten(0, 1), query[b], top_k)
            torch.testing.assert_close(out[b, :, k], expected, rtol=0, atol=1e-12)


def test_08_similarity_is_the_squared_distance_up_to_a_constant() -> None:
    memory, query = torch.randn(2, 9, 64, dtype=torch.float64), torch.randn(2, 4, 64, dtype=torch.float64)
    weights = l2_similarity(memory, query).softmax(-1)
    expected = (-(memory.unsqueeze(1) - query.unsqueeze(2)).pow(2).sum(-1) / 8).softmax(-1)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, dtype=torch.float64))


def test_12_masked_positions_are_never_read_even_when_fewer_than_k_are_left() -> None:
    similarity = torch.randn(1, 4, 10, dtype=torch.float64)
    similarity[..., 2:] = -torch.inf
    values = torch.randn(1, 10, 3, dtype=torch.float64)
    values[:, 2:] = 1e9
    expected = similarity[..., :2].softmax(-1) @ values[:, :2]
    torch.testing.assert_close(topk_read(similarity, values, 5), expected, rtol=0, atol=1e-12)


def test_objects_are_read_only_from_frames_since_their_birth() -> None:
    bank = filled_bank(5).eval()
    query = torch.randn(1, 3, 8, dtype=torch.float64)
    out = bank.read(query, births=[0, 3])
    expected = loop_read(bank.keys[0, 3:].flatten(0, 1), bank.values[0, 3:, :, 1].flatten(0, 1), query[0], 20)
    torch.testing.assert_close(out[0, :, 1], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(out[:, :, 0], bank.read(query)[:, :, 0], rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------------------ gate


def gated_read(bank: DynamicMemoryBank, query: Tensor, weights: Tensor) -> Tensor:
    mixture = mixture_of_softmaxes(bank.similarity(query), bank.candidates(), weights)
    return (mixture.flatten(2) @ bank.values.flatten(1, 2).flatten(2)).view(*query.shape[:2], *bank.values.shape[3:])


def test_05_06_one_hot_gate_equals_physical_removal() -> None:
    query = torch.randn(1, 5, 8, dtype=torch.float64)
    for choice, removed in enumerate((0, 3, 4)):
        bank = filled_bank(8, gate=False).train()
        mixed = gated_read(bank, query, torch.eye(3, dtype=torch.float64)[choice : choice + 1])
        bank.keep(bank.candidates()[:, choice])
        assert len(bank) == 8 - removed
        torch.testing.assert_close(mixed, bank.read(query), rtol=0, atol=1e-12)


def test_07_readout_is_affine_in_the_gate() -> None:
    bank, query = filled_bank(8), torch.randn(1, 5, 8, dtype=torch.float64)
    one, two = (torch.softmax(torch.randn(1, 3, dtype=torch.float64), -1) for _ in range(2))
    middle = gated_read(bank, query, (one + two) / 2)
    torch.testing.assert_close(middle, (gated_read(bank, query, one) + gated_read(bank, query, two)) / 2)


def test_09_candidates_are_nested_and_counted() -> None:
    counts = removal_counts(torch.tensor([6, 5, 2, 1, 0]))
    assert counts.tolist() == [[0, 3, 4], [0, 2, 3], [0, 1, 1], [0, 0, 0], [0, 0, 0]]
    bank = filled_bank(8, batch=3)
    sets = bank.candidates()
    assert sets.sum(-1).tolist() == [[8, 5, 4]] * 3
    assert (sets[:, 0] >= sets[:, 1]).all()
    assert (sets[:, 1] >= sets[:, 2]).all()
    assert sets[:, :, 0].all()  # the annotated frame
    assert sets[:, :, -1].all()  # the newest frame


def test_10_gate_gradients() -> None:
    torch.manual_seed(0)
    gate = DynamicMemoryBank(key_dim=8, capacity=None).double()
    source = filled_bank(7)
    keys = source.keys.detach().requires_grad_()
    query = torch.randn(1, 5, 8, dtype=torch.float64)

    def loss() -> Tensor:
        gate.reset()
        for t in range(7):
            gate.remember(keys[:, t], source.values[:, t], torch.ones(1, 6, dtype=torch.float64), t, t == 0)
        return gate.train().read(query).pow(2).sum()

    loss().backward()
    last, first = gate.gate.last, gate.gate.first
    assert last.bias.grad.abs().max() > 0
    assert first.weight.grad.abs().max() == 0  # the last layer's weight is 0
    with torch.no_grad():
        for parameter in gate.gate.parameters():
            parameter -= 0.1 * parameter.grad
            parameter.grad = None
    loss().backward()
    assert first.weight.grad.abs().max() > 0
    kappa = torch.randn(1, 7, 8, dtype=torch.float64, requires_grad=True)
    assert not torch.autograd.grad(
        gate.gate(kappa, torch.ones(1, 7, dtype=torch.bool)).sum(), kappa, allow_unused=True
    )[0]  # no gradient reaches the keys through z


def test_gate_starts_open() -> None:
    logits = ModulationGate(8)(torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool))
    torch.testing.assert_close(logits.softmax(-1)[0], torch.tensor([0.909, 0.045, 0.045]), rtol=0, atol=1e-3)


def test_11_efficiency_loss() -> None:
    assert efficiency_loss(torch.ones(4), 0.6).item() == pytest.approx(0.16)
    keep = torch.tensor([0.2, 1.0], requires_grad=True)  # the mean is at the target: the easy clip pays for the other
    loss = efficiency_loss(keep, 0.6)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert keep.grad.abs().max() < 1e-6


def test_inactive_gate_reads_plainly() -> None:
    bank, query = filled_bank(8).train(), torch.randn(1, 5, 8, dtype=torch.float64)
    bank.gate_active = False
    plain = filled_bank(8, gate=False).train()
    torch.testing.assert_close(bank.read(query), plain.read(query), rtol=0, atol=1e-12)
    assert bank.kept == []


def test_redundancy_against_loops() -> None:
    torch.manual_seed(0)
    keys, foreground = torch.randn(5, 1, 6, 8, dtype=torch.float64), torch.rand(5, 1, 6, dtype=torch.float64)
    foreground[3] = 0.01  # less than one cell: mu falls back to kappa
    described = []
    for t in range(5):
        kappa = keys[t, 0].mean(0)
        weight = foreground[t, 0]
        mu = kappa if weight.sum() < 1 else (keys[t, 0] * weight[:, None]).sum(0) / weight.sum()
        expected = torch.cat([mu / mu.norm(), kappa / kappa.norm()]) / math.sqrt(2)
        kappa_out, descriptor = describe(keys[t], foreground[t])
        torch.testing.assert_close(kappa_out[0], kappa)
        torch.testing.assert_close(descriptor[0], expected)
        described.append(descriptor)
    stacked = torch.stack(described, dim=1)
    valid = torch.tensor([[True, True, False, True, True]])
    out = redundancy(stacked, valid)
    for t, before in ((1, 0), (3, 1), (4, 3)):  # slot 2 belongs to another clip
        cosine = torch.cosine_similarity(stacked[0, t], stacked[0, before], dim=0)
        assert out[0, t].item() == pytest.approx(1e4 * cosine.item(), abs=0.5)


def test_12_gate_learns_to_prune_redundant_and_to_keep_diverse_clips() -> None:
    """Appendix A of the specification: a synthetic task that the gate must solve."""
    torch.manual_seed(0)
    steps, frames, positions, dim = 1500, 7, 16, 16
    bank = DynamicMemoryBank(key_dim=dim, capacity=None).train()
    optimizer = torch.optim.Adam(bank.parameters(), lr=1e-3)

    def clips(batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        redundant = torch.rand(batch) < 0.5
        diverse_keys = 2 * torch.randn(batch, frames, positions, dim) + 1.5 * torch.randn(batch, frames, 1, dim)
        copies = (2 * torch.randn(batch, 1, positions, dim)).expand(-1, frames, -1, -1)
        copies = copies + 0.05 * torch.randn(batch, frames, positions, dim)
        diverse_values = torch.randn(batch, frames, positions, 8)
        same_values = torch.randn(batch, 1, positions, 8).expand(-1, frames, -1, -1)
        pick = redundant.view(-1, 1, 1, 1)
        keys, values = torch.where(pick, copies, diverse_keys), torch.where(pick, same_values, diverse_values)
        source = torch.randint(0, frames, (batch, positions))
        b, i = torch.arange(batch)[:, None], torch.arange(positions)[None]
        return (
            redundant,
            keys,
            values,
            keys[b, source, i] + 0.05 * torch.randn(batch, positions, dim),
            values[b, source, i],
        )

    def fill(keys: Tensor, values: Tensor) -> None:
        bank.reset()
        for t in range(frames):
            foreground = torch.zeros(keys.shape[0], positions)  # only the kappa part of the descriptor
            bank.remember(keys[:, t], values[:, t].unsqueeze(2), foreground, t, protected=t == 0)

    for step in range(steps):
        bank.temperature = 0.1 ** min(1.0, step / 1200)
        _, keys, values, query, target = clips(32)
        fill(keys, values)
        loss = F.mse_loss(bank.read(query).squeeze(2), target) + efficiency_loss(bank.kept[0], bank.keep_target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    redundant, keys, values, _, _ = clips(512)
    fill(keys, values)
    choice = bank.gate(bank.kappa, bank.valid).argmax(dim=1)
    keep = torch.tensor([1.0, 0.5, 0.25])[choice]
    assert keep[redundant].mean() <= 0.35
    assert keep[~redundant].mean() >= 0.9


# ------------------------------------------------------------------------------------------------ bank


@pytest.mark.parametrize("ranking", ["redundancy", "oldest", "random"])
@pytest.mark.parametrize("batch", [1, 3])
def test_13_bank_is_bounded_and_in_order_for_ten_thousand_frames(batch: int, ranking: str) -> None:
    bank = filled_bank(0, gate_from=8, capacity=20, ranking=ranking).eval()
    frames = 10_000 if batch == 1 else 500
    largest = 0
    for t in range(frames):
        writes = torch.rand(batch) < 0.3 if t else torch.ones(batch, dtype=torch.bool)
        if not writes.any():
            continue
        torch.nn.init.normal_(bank.gate.last.bias, std=3.0)  # any decision may come
        key = torch.randn(batch, 1, 8, dtype=torch.float64)
        bank.remember(key, torch.randn(batch, 1, 1, 2, dtype=torch.float64), torch.rand(batch, 1), t, t == 0, writes)
        owned = bank.valid.sum(dim=1)
        largest = max(largest, int(owned.max()))
        assert owned.max() <= 20
        assert bank.valid[:, 0].all()
        assert bank.frame_ids[0] == 0
        assert (bank.valid[:, -1] == writes).all()
        assert bank.frame_ids[-1] == t
        assert all(a < b for a, b in pairwise(bank.frame_ids))
        assert bank.valid.any(dim=0).all()  # no storage that nobody owns
        assert {getattr(bank, name).shape[1] for name in bank._state} == {len(bank)}
    assert largest > 8


@pytest.mark.parametrize(("ratio", "expected"), [(0, {20}), (1, {5, 6, 7}), (2, {4, 5, 6, 7})])
def test_bank_sizes_under_a_constant_gate(ratio: int, expected: set[int]) -> None:
    bank = filled_bank(0, gate_from=8, capacity=20).eval()
    with torch.no_grad():
        bank.gate.last.weight.zero_()
        bank.gate.last.bias.copy_(torch.eye(3)[ratio])
    sizes = []
    for t in range(300):
        key = torch.randn(1, 1, 8, dtype=torch.float64)
        bank.remember(key, torch.randn(1, 1, 1, 2, dtype=torch.float64), torch.rand(1, 1), t, t == 0)
        sizes.append(len(bank))
    assert set(sizes[100:]) <= expected
    assert max(sizes[100:]) == max(expected)


def test_protected_frames_beyond_the_bound_are_all_kept() -> None:
    bank = filled_bank(0, capacity=3).eval()
    for t in range(8):
        key = torch.randn(1, 1, 8, dtype=torch.float64)
        bank.remember(
            key, torch.randn(1, 1, 1, 2, dtype=torch.float64), torch.rand(1, 1), t, protected=t in {0, 2, 4, 6}
        )
    assert bank.frame_ids == [0, 2, 4, 6, 7]  # max(T_max, G + 1)


def test_15_identical_frames_lose_their_older_half() -> None:
    bank = DynamicMemoryBank(key_dim=8, capacity=None, gate_from=10_000).double()
    key, value = torch.randn(1, 6, 8, dtype=torch.float64), torch.randn(1, 6, 1, 2, dtype=torch.float64)
    for t in range(8):
        bank.remember(key, value, torch.ones(1, 6, dtype=torch.float64), t, t == 0)
    assert (redundancy(bank.descriptor, bank.valid)[0, 1:] == 1e4).all()
    assert bank.candidates()[0, 1].nonzero().flatten().tolist() == [0, 4, 5, 6, 7]


# ------------------------------------------------------------------------------------------------ the baseline


def reference_stcn(model: REMN, frames: Tensor, labels: Tensor, objects: int) -> Tensor:
    """STCN as published, with the layers of ``model``: every 5th frame stored, top-20 read, no bound; plain loops."""
    stored_keys: list[Tensor] = []
    stored_values: list[Tensor] = []
    out = []
    for t in range(frames.shape[1]):
        image = model.normalize(frames[:, t])
        f4, f8, f16 = model.key_encoder(image)
        key, thin = model.projection(f16)
        if t == 0:
            probs = one_hot(labels[:, 0], objects).double()
        else:
            query = key[0].flatten(1).T
            memory = torch.cat([k[0].flatten(1).T for k in stored_keys])
            readouts = []
            for k in range(objects):
                values = torch.cat([v[0, k].flatten(1).T for v in stored_values])
                readouts.append(loop_read(memory, values, query, 20).T.reshape(-1, *thin.shape[-2:]))
            logits = [model.decoder(r[None, None], thin, f8, f4)[:, 0] for r in readouts]
            probs = torch.sigmoid(torch.stack(logits, dim=1))
        background = torch.prod(1 - probs, dim=1, keepdim=True)
        clamped = torch.cat([background, probs], dim=1).clamp(1e-7, 1 - 1e-7)
        log_odds = torch.log(clamped / (1 - clamped))
        out.append(log_odds)
        if t % 5 == 0:
            soft = torch.softmax(log_odds, dim=1)[:, 1:]
            others = [sum(soft[:, j] for j in range(objects) if j != k) + 0 * soft[:, 0] for k in range(objects)]
            values = [
                model.value_encoder.refine(x + model.value_encoder.gate(x))
                for x in (
                    model.value_encoder.fuse(
                        torch.cat(
                            [
                                model.value_encoder.backbone(
                                    torch.cat([image, soft[:, k : k + 1], others[k].unsqueeze(1)], dim=1)
                                ).f16,
                                f16,
                            ],
                            dim=1,
                        )
                    )
                    for k in range(objects)
                )
            ]
            stored_keys.append(key)
            stored_values.append(torch.stack(values, dim=1))
    return torch.stack(out, dim=1)


@torch.no_grad()
def test_14_with_all_parts_off_it_is_stcn() -> None:
    off = {"local_attention": False, "gate": False, "adaptive_update": False, "capacity": None}
    model = small("REMN", **off).double()
    frames, labels = squares(1, 13, 2)
    with model.sequence():
        out = [model.step(frames[:, t], one_hot(labels[:, 0], 2) if t == 0 else None) for t in range(13)]
        assert model.bank.frame_ids == [0, 5, 10]
    torch.testing.assert_close(torch.stack(out, 1), reference_stcn(model, frames, labels, 2), rtol=0, atol=1e-8)


def test_parts_that_are_off_keep_their_parameters_frozen() -> None:
    off, on = small("REMN", local_attention=False, gate=False), small("REMN")
    assert off.state_dict().keys() == on.state_dict().keys()
    frozen = {name for name, p in off.named_parameters() if not p.requires_grad}
    assert {name.split(".")[0] for name in frozen} == {"attention", "bank"}


# ------------------------------------------------------------------------------------------------ adaptive update


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
    update, key = AdaptiveMemoryUpdate(min_confidence=min_confidence), torch.ones(1, 256, 4)
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


# ------------------------------------------------------------------------------------------------ the rest


def test_19_aggregation_of_one_object() -> None:
    p = torch.tensor([0.8, 0.5, 0.01], dtype=torch.float64).view(1, 1, 1, 3)
    out = torch.softmax(aggregate(p), dim=1)
    torch.testing.assert_close(out[:, 1:], p**2 / (p**2 + (1 - p) ** 2), rtol=0, atol=1e-9)
    assert out[0, 1, 0, 0].item() == pytest.approx(0.941176, abs=1e-6)
    torch.testing.assert_close(out.sum(1), torch.ones(1, 1, 3, dtype=torch.float64))


def test_20_contrastive_loss_of_a_uniform_and_of_a_pure_affinity() -> None:
    memory_labels = torch.tensor([[1] + [0] * 9])
    query_labels = torch.tensor([[1]])
    uniform = correspondence_loss(torch.zeros(1, 1, 4), query_labels, torch.zeros(1, 10, 4), memory_labels)
    assert uniform.item() == pytest.approx(2.302585, abs=1e-5)
    keys = 100 * F.one_hot(memory_labels, 4).double()
    pure = correspondence_loss(keys[:, :1], query_labels, keys, memory_labels)
    assert pure.item() == pytest.approx(0, abs=1e-6)


def test_20b_contrastive_loss_against_loops() -> None:
    torch.manual_seed(0)
    query, memory = torch.randn(2, 6, 4, dtype=torch.float64), torch.randn(2, 9, 4, dtype=torch.float64)
    query_labels, memory_labels = torch.randint(-1, 3, (2, 6)), torch.randint(-1, 3, (2, 9))
    clips = []
    for b in range(2):
        per_label: dict[int, list[float]] = {}
        pure = [j for j in range(9) if memory_labels[b, j] >= 0]
        for i in range(6):
            label = int(query_labels[b, i])
            if label < 0:
                continue
            weights = {j: math.exp(-float((memory[b, j] - query[b, i]).pow(2).sum()) / 2) for j in pure}
            mass = sum(w for j, w in weights.items() if memory_labels[b, j] == label) / sum(weights.values())
            per_label.setdefault(label, []).append(-math.log(mass + 1e-8))
        clips.append(sum(sum(v) / len(v) for v in per_label.values()) / len(per_label))
    out = correspondence_loss(query, query_labels, memory, memory_labels)
    assert out.item() == pytest.approx(sum(clips) / 2, rel=1e-6)


def test_pure_labels_of_cells() -> None:
    labels = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    labels[..., :16, :16] = 2
    labels[..., 16:, :8] = 1
    labels[..., 0, 0] = 0  # 1 of 256 pixels does not matter
    assert pure_labels(labels, 16).tolist() == [[[2, 0, -1, 0]]]


def test_21_object_order_changes_neither_the_bank_nor_the_update() -> None:
    model = small("REMN").double()
    frames, labels = squares(1, 12, 2)
    written = []
    for first, second in ((1, 2), (2, 1)):
        masks = torch.stack([labels[:, 0] == first, labels[:, 0] == second], dim=1).double()
        with model.sequence():
            for t in range(12):
                model.step(frames[:, t], masks if t == 0 else None)
            written.append(list(model.bank.frame_ids))
    assert written[0] == written[1]
    assert len(written[0]) > 1


def test_contrastive_and_efficiency_terms_reach_the_network() -> None:
    model = small("REMN", contrastive_weight=0.1, gate_start=0.0).train()
    frames, labels = squares(2, 6, 1, size=(64, 64))
    with model.sequence():
        features = model.encode(model.normalize(frames.flatten(0, 1)))
        for t in range(6):
            part = type(features)(*(x.unflatten(0, (2, 6))[:, t] for x in features))
            model.advance(part, one_hot(labels[:, 0], 1) if t == 0 else None, remember=t < 5)
        losses = model.auxiliary_losses(labels)
    assert losses.keys() == {"efficiency", "contrastive"}
    losses["efficiency"].backward(retain_graph=True)
    assert model.bank.gate.last.bias.grad.abs().max() > 0
    losses["contrastive"].backward()
    assert model.projection.key.weight.grad.abs().max() > 0
