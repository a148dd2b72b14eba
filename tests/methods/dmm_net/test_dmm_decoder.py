"""DMM-Net's encoder and its decoder: the definition of a cell, shapes, what passes from object to object."""

from __future__ import annotations

import pytest
import torch
from conftest import SMALL, small, squares
from dmm_scenes import (
    SIZE,
    close,
    rand,
    randn,
)
from torch import Tensor

from lightning_vos import DMMNetSegmenter
from lightning_vos.functional import one_hot
from lightning_vos.methods.dmm_net.decoder import ConvLSTMCell, Decoder, DecoderSettings
from lightning_vos.methods.dmm_net.encoder import Encoder
from lightning_vos.settings import build, nested


def plain_cell(
    cell: ConvLSTMCell, x: Tensor, masks: Tensor, spatial: tuple[Tensor, Tensor], temporal: Tensor
) -> tuple[Tensor, Tensor]:
    """One convolution of ``[x, mask, hidden of the object before, hidden of the frame before]`` for each mask."""
    runs = []
    for c in range(masks.shape[1]):
        gates = cell.gates(torch.cat([x, masks[:, c : c + 1], spatial[0], temporal], dim=1))
        enter, forget, leave, candidate = gates.chunk(4, dim=1)
        memory = forget.sigmoid() * spatial[1] + enter.sigmoid() * candidate.tanh()
        runs.append((leave.sigmoid() * memory.tanh(), memory))
    return sum(h for h, _ in runs) / len(runs), sum(c for _, c in runs) / len(runs)


@pytest.mark.parametrize("has_below", [True, False])
@pytest.mark.parametrize("has_state", [True, False])
def test_cell_is_the_definition(has_below: bool, has_state: bool) -> None:
    torch.manual_seed(0)
    cell = ConvLSTMCell(3 if has_below else 0, 4, 5).double()
    below, skip, temporal = randn(2, 3, 6, 7, seed=1), randn(2, 4, 6, 7, seed=2), randn(2, 5, 6, 7, seed=3)
    masks = rand(2, 3, 6, 7, seed=4)
    state = (randn(2, 5, 6, 7, seed=5), randn(2, 5, 6, 7, seed=6))
    zeros = (torch.zeros_like(state[0]), torch.zeros_like(state[1]))
    x = torch.cat([below, skip], dim=1) if has_below else skip
    before, known = below if has_below else None, state if has_state else None
    out = cell(cell.shared(skip), masks, before, known, temporal)
    for actual, expected in zip(out, plain_cell(cell, x, masks, known or zeros, temporal), strict=True):
        close(actual, expected)
    same = cell(cell.shared(skip), masks[:, :1].expand(-1, 3, -1, -1), before, known, temporal)
    for actual, expected in zip(same, plain_cell(cell, x, masks[:, :1], known or zeros, temporal), strict=True):
        close(actual, expected)


def refine(decoder: Decoder, masks: Tensor, present: Tensor | None = None, seed: int = 0) -> tuple[Tensor, list]:
    """Decode ``(B, K, 3, H, W)`` with random skips and zero hidden states."""
    (batch, objects), (height, width), dim = masks.shape[:2], masks.shape[-2:], decoder.dims[0]
    skips, hidden = [], []
    for level, channels in enumerate((dim, dim, dim // 2, dim // 4)):
        side = (height // (32 >> level), width // (32 >> level))
        skips.append(randn(batch, channels, *side, seed=seed + level).to(masks.dtype))
        hidden.append(masks.new_zeros(batch, objects, decoder.dims[level], *side))
    present = torch.ones(batch, objects, dtype=torch.bool) if present is None else present
    return decoder(skips, masks, hidden, present)


def flat(result: tuple[Tensor, list[Tensor]]) -> list[Tensor]:
    """Logits and hidden states in one list."""
    return [result[0], *result[1]]


def test_decoder_shapes_and_pyramid() -> None:
    decoder = Decoder()
    assert sum(parameter.numel() for parameter in decoder.parameters()) == 2_940_433
    seen: list[Tensor] = []
    for cell in decoder.cells:
        cell.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    masks = rand(1, 1, 3, 256, 448, dtype=torch.float32)
    with torch.no_grad():
        logits, hidden = refine(decoder, masks)
    assert logits.shape == (1, 1, 256, 448)
    assert [tuple(state.shape[2:]) for state in hidden] == [(128, 8, 14), (64, 16, 28), (32, 32, 56), (16, 64, 112)]
    for level, stride in enumerate((32, 16, 8, 4)):
        blocks = masks[0].unfold(2, stride, stride).unfold(3, stride, stride)
        assert torch.equal(seen[level], blocks.amax(dim=(4, 5)))


def test_encoder_parameters() -> None:
    """The released encoder has 33,781,352 parameters, 2,049,000 of them in the head of ImageNet."""
    encoder = Encoder("resnet50", "frozen_batch", None)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 33_781_352 - 2_049_000


def test_encoder_shapes() -> None:
    encoder = Encoder("resnet10", "group", None, dim=32, matching_dim=16)
    with torch.no_grad():
        skips, maps = encoder(torch.zeros(2, 3, 64, 96))
    assert [tuple(skip.shape[1:]) for skip in skips] == [(32, 2, 3), (32, 4, 6), (16, 8, 12), (8, 16, 24)]
    assert [tuple(level.shape[1:]) for level in maps] == [(16, 2, 3), (16, 4, 6), (16, 8, 12), (16, 16, 24)]


def test_order_of_the_objects_matters_only_across_objects() -> None:
    masks = rand(2, 2, 3, 64, 96)
    for across in (True, False):
        torch.manual_seed(0)
        decoder = Decoder(16, DecoderSettings(across_objects=across)).double()
        out, swapped = flat(refine(decoder, masks)), flat(refine(decoder, masks[:, [1, 0]]))
        changes = [(a[:, [1, 0]] - b).abs().max() for a, b in zip(out, swapped, strict=True)]
        assert (min(changes) > 1e-4) if across else (max(changes) < 1e-12)


def test_an_object_that_is_not_there_passes_the_state_on() -> None:
    torch.manual_seed(0)
    decoder, masks = Decoder(16).double(), rand(2, 3, 3, 64, 96)
    for absent in range(3):
        others = [k for k in range(3) if k != absent]
        present = torch.ones(2, 3, dtype=torch.bool)
        present[1, absent] = False
        out = flat(refine(decoder, masks, present))
        for actual, expected in zip(out, flat(refine(decoder, masks)), strict=True):
            close(actual[0], expected[0])
        for actual, expected in zip(out, flat(refine(decoder, masks[:, others])), strict=True):
            close(actual[1, others], expected[1])


def test_the_decoder_starts_without_a_correction() -> None:
    frames, labels = squares(1, 2, 2, size=SIZE)
    out = []
    for refinement in (True, False):
        torch.manual_seed(0)
        settings = {**SMALL["DMMNet"], "decoder.residual": True, "decoder.refinement": refinement}
        model = build(DMMNetSegmenter, nested(settings)).eval()
        with model.sequence():
            model.step(frames[:, 0], one_hot(labels[:, 0], 2))
            out.append(model.step(frames[:, 1]).argmax(dim=1))
    assert torch.equal(*out)


@pytest.mark.parametrize("chosen", [("previous", "first", "matched"), ("matched", "previous"), ("first",)])
def test_the_decoder_sees_the_masks_that_are_chosen(chosen: tuple[str, ...]) -> None:
    frames, labels = squares(1, 3, 2, size=SIZE)
    given = one_hot(labels[:, 0], 2)
    model = small("DMMNet", decoder__masks=chosen)
    seen: list[Tensor] = []
    model.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    with model.sequence():
        model.step(frames[:, 0], given)
        for t in (1, 2):
            previous = model.state.previous
            model.step(frames[:, t])
            masks = seen[-1].unbind(dim=2)
            assert len(masks) == len(chosen)
            for name, mask in zip(chosen, masks, strict=True):
                if name == "matched":  # one of the proposals
                    proposals = model.state.proposals[0]
                    assert all((proposals == one).flatten(1).all(dim=1).any() for one in mask[0])
                else:
                    assert torch.equal(mask, previous if name == "previous" else given.to(mask.dtype))
