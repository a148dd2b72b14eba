"""Convolutions of ``[object; frame]`` in two parts against the plain form: one convolution of the joined channels."""

from __future__ import annotations

import pytest
import torch
from conftest import small, squares
from torch import Tensor, nn

from lightning_vos.blocks import decoder as blocks
from lightning_vos.blocks.decoder import ResBlock
from lightning_vos.blocks.objects import add_frame, conv_frame, conv_objects, per_object
from lightning_vos.functional import one_hot
from lightning_vos.methods.hmmn import network as hmmn


def joined(x: Tensor, frame: Tensor) -> Tensor:
    return torch.cat([x, per_object(frame, len(x) // len(frame))], dim=1)


def plain_frame(conv: nn.Conv2d, frame: Tensor) -> Tensor:
    """Leaves all work to :func:`plain_objects`, which needs the frame itself."""
    return frame


def plain_objects(conv: nn.Conv2d, x: Tensor, frame: Tensor) -> Tensor:
    return conv(joined(x, frame))


def inputs(objects: int, channels: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """``(2 * K, C, 5, 6)`` and ``(2, C', 5, 6)`` that take gradients."""
    torch.manual_seed(0)
    shapes = ((2 * objects, channels[0], 5, 6), (2, channels[1], 5, 6))
    x, frame = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    return x, frame


def same_with_gradients(actual: Tensor, expected: Tensor, leaves: list[Tensor]) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    weights = torch.randn_like(expected)
    gradients = [torch.autograd.grad((out * weights).sum(), leaves) for out in (actual, expected)]
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-11)


@pytest.mark.parametrize("objects", [1, 3])
@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), [(3, 1, 1, 1), (1, 1, 0, 1), (3, 2, 2, 2)])
def test_two_parts_are_the_convolution(objects: int, kernel: int, stride: int, padding: int, dilation: int) -> None:
    x, frame = inputs(objects, (3, 4))
    conv = nn.Conv2d(7, 5, kernel, stride, padding, dilation).double()
    out = conv_objects(conv, x, conv_frame(conv, frame))
    same_with_gradients(out, conv(joined(x, frame)), [x, frame, *conv.parameters()])


@pytest.mark.parametrize("objects", [1, 3])
@pytest.mark.parametrize("out_channels", [5, 7])  # with and without a convolution in the skip
def test_residual_block_of_object_and_frame(objects: int, out_channels: int) -> None:
    x, frame = inputs(objects, (3, 4))
    block = ResBlock(7, out_channels).double()
    same_with_gradients(block(x, frame), block(joined(x, frame)), [x, frame, *block.parameters()])


@pytest.mark.parametrize("objects", [1, 3])
@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("method", ["REMN", "HMMN"])
def test_a_clip_and_its_gradients(method: str, is_late: bool, objects: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With objects that are there from the first frame, or whose last one starts on the third."""
    model = small(method).double()
    frames, labels = squares(2, 5, objects)
    masks = one_hot(labels[:, 0], objects).double()
    late = one_hot(labels[:, 2], objects).double()
    late[:, :-1] = 0
    given = {0: masks[:, :-1] if is_late and objects > 1 else masks, 2: late} if is_late else {0: masks}

    def run() -> Tensor:
        with model.sequence():
            features = [model.encode(model.normalize(frames[:, t])) for t in range(5)]
            logits = [model.advance(features[t], given.get(t)) for t in range(5)]
        return torch.cat([x.softmax(1)[:, 1:].flatten() for x in logits])

    actual = run()
    for module in (blocks, hmmn):
        monkeypatch.setattr(module, "conv_frame", plain_frame)
        monkeypatch.setattr(module, "conv_objects", plain_objects)
    expected = run()
    parameters = [p for p in model.parameters() if p.requires_grad]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    weights = torch.randn_like(expected)
    ours, plain = (torch.autograd.grad((x * weights).sum(), parameters, allow_unused=True) for x in (actual, expected))
    for a, b in zip(ours, plain, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_the_frame_is_added_to_its_own_objects() -> None:
    frame = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    assert add_frame(torch.zeros(6, 1, 1, 1), frame).flatten().tolist() == [1, 1, 1, 2, 2, 2]
