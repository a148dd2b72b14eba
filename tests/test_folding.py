"""The inference form: batch norms folded into the filters before them, for the length of a sequence."""

from __future__ import annotations

import copy
from typing import TypeVar

import pytest
import torch
from conftest import METHODS, small, squares
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_vos.blocks.backbone import Backbone, build_backbone
from lightning_vos.blocks.folding import foldable, folded_norms
from lightning_vos.functional import one_hot
from lightning_vos.segmenter import Segmenter

Net = TypeVar("Net", bound=nn.Module)


def norms(net: nn.Module) -> list[_BatchNorm]:
    return [part for part in net.modules() if isinstance(part, _BatchNorm)]


def is_folded(net: nn.Module) -> bool:
    return any(hasattr(part, "folded") or "forward" in vars(part) for part in net.modules())


def with_statistics(net: Net, seed: int = 0) -> Net:
    """As if batch norms had seen something: statistics and factors far from 0 and 1."""
    torch.manual_seed(seed)
    for norm in norms(net):
        for value in (norm.running_mean, norm.bias):
            nn.init.normal_(value, std=0.3)  # type: ignore[arg-type]
        for value in (norm.running_var, norm.weight):
            nn.init.uniform_(value, 0.5, 1.5)  # type: ignore[arg-type]
    return net.eval()


def trunk(name: str = "resnet10") -> Backbone:
    torch.manual_seed(0)
    return with_statistics(build_backbone(name))


def stream(model: Segmenter) -> Tensor:
    """Logits ``(5, 1, 3, H, W)`` of a clip whose second object starts on the third frame."""
    frames, labels = squares(1, 5, 2)
    late = one_hot(labels[:, 2], 2)
    late[:, :1] = 0
    given = {0: one_hot(labels[:, 0], 2)[:, :1], 2: late}
    with model.sequence():
        out = [model.step(frames[:, t], given.get(t)) for t in range(5)]
    return torch.stack([nn.functional.pad(logits, (0, 0, 0, 0, 0, 3 - logits.shape[1])) for logits in out])


@pytest.mark.parametrize("method", METHODS)
def test_inference_form_is_training_form(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_statistics(small(method, norm="frozen_batch")).double()
    monkeypatch.setattr(model, "folds_norms", True)
    state = copy.deepcopy(model.state_dict())
    assert len(foldable(model)) == len(norms(model)) > 0
    with torch.inference_mode():
        actual = stream(model)
    assert not is_folded(model)
    with model.sequence():
        assert is_folded(model)
        within = model.state_dict()
        assert list(within) == list(state)
        assert len(list(model.parameters())) == len(list(copy.deepcopy(model).parameters()))
    assert all(torch.equal(within[name], value) for name, value in state.items())
    monkeypatch.setattr(model, "folds_norms", False)
    torch.testing.assert_close(actual, stream(model), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["resnet10", "resnet50", "efficientnet_lite0"])
def test_every_batch_norm_of_a_trunk_is_folded(name: str) -> None:
    net, image = trunk(name), torch.randn(2, 3, 32, 48)
    assert len(foldable(net)) == len(norms(net)) > 0
    with torch.no_grad():
        plain = net(image)
        with folded_norms(net):
            calls: list[nn.Module] = []
            handles = [norm.register_forward_hook(lambda part, *_: calls.append(part)) for norm in norms(net)]
            for actual, expected in zip(net(image), plain, strict=True):
                torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
            assert len(calls) == len(handles)
        assert all(torch.equal(*pair) for pair in zip(net(image), plain, strict=True))


def test_a_block_that_nobody_vouches_for_stays_as_it_is() -> None:
    class Residual(nn.Module):
        """What the convolution gives is added to something before the batch norm sees it."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x + self.conv(x))

    assert foldable(nn.Sequential(Residual()).eval()) == []


def test_training_is_untouched() -> None:
    model = small("REMN", norm="frozen_batch").train()
    with model.sequence():
        assert not is_folded(model)


def test_gradients_reach_gains_and_filters_in_eval_mode_too() -> None:
    net = trunk()
    with folded_norms(net):
        net(torch.randn(1, 3, 32, 32)).f16.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in net.parameters())


def test_weights_loaded_between_sequences_count() -> None:
    model, other = (with_statistics(small("REMN", seed, norm="frozen_batch"), seed) for seed in (0, 1))
    assert not torch.equal(stream(model), stream(other))
    model.load_state_dict(other.state_dict())
    assert torch.equal(stream(model), stream(other))


@torch.no_grad()
def test_copies_and_other_types_within() -> None:
    net, image = trunk(), torch.randn(1, 3, 32, 32)
    expected = net(image).f16
    with folded_norms(net):
        twin = copy.deepcopy(net)
        for norm in norms(net):
            nn.init.zeros_(norm.weight)
        torch.testing.assert_close(twin(image).f16, net(image).f16)
        net.double()
        torch.testing.assert_close(net(image.double()).f16.float(), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(net(image.double()).f16.float(), expected, atol=1e-2)


def test_unfolded_after_an_exception() -> None:
    net = trunk()
    with pytest.raises(RuntimeError, match="stop"), folded_norms(net):
        raise RuntimeError("stop")
    assert not is_folded(net)
