"""REMN's layers and its baseline against plain loops (numbers as in its specification)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import small, squares
from remn_banks import loop_read
from torch import Tensor

from lightning_vos import REMN
from lightning_vos.functional import one_hot
from lightning_vos.methods.remn.network import LocalAttention


def random_attention(channels: int = 8) -> LocalAttention:
    torch.manual_seed(0)
    attention = LocalAttention(channels).double()
    torch.nn.init.normal_(attention.score.weight)
    torch.nn.init.constant_(attention.score.bias, -1.0)
    return attention


def test_parameter_counts() -> None:
    model = REMN()

    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert count(model.attention) == 103_745
    assert count(model.bank) == 6_275
    assert count(model.key_encoder) == 8_543_296
    assert count(model) - count(model.attention) - count(model.bank) == 54_431_940


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
    off = {"local_attention": False, "gate.enabled": False, "update.enabled": False, "capacity": None}
    model = small("REMN", **off).double()
    frames, labels = squares(1, 13, 2)
    with model.sequence():
        out = [model.step(frames[:, t], one_hot(labels[:, 0], 2) if t == 0 else None) for t in range(13)]
        assert model.bank.frame_ids == [0, 5, 10]
    torch.testing.assert_close(torch.stack(out, 1), reference_stcn(model, frames, labels, 2), rtol=0, atol=1e-8)


def test_parts_that_are_off_keep_their_parameters_frozen() -> None:
    off, on = small("REMN", local_attention=False, gate__enabled=False), small("REMN")
    assert off.state_dict().keys() == on.state_dict().keys()
    frozen = {name for name, p in off.named_parameters() if not p.requires_grad}
    assert {name.split(".")[0] for name in frozen} == {"attention", "bank"}
