"""The inference form of a network: batch norms as part of the filters before them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import fuse_conv_bn_eval

from lightning_vos.blocks.backbone import Backbone


@contextmanager
def folded_norms(net: nn.Module) -> Iterator[None]:
    """Within, in eval mode, convolutions do the work of the batch norms that follow them.

    With stored statistics ``gamma (W x + b - mean) / deviation + beta`` is one convolution. Where gradients are asked
    for, the network computes as ever. Its parameters and state dict are never touched: weights that are loaded within
    count from the next time on.

    Args:
        net: any network. In training mode nothing is folded.
    """
    pairs = [] if net.training else foldable(net)
    for conv, norm in pairs:
        _fold(conv, norm)
    try:
        yield
    finally:
        for conv, norm in pairs:
            del conv.folded, conv.forward, norm.forward


def foldable(net: nn.Module) -> list[tuple[nn.Conv2d, _BatchNorm]]:
    """Convolutions with the batch norm that alone takes what they give, for certain.

    That is so for neighbours in a ``Sequential`` and in blocks that a trunk vouches for (:attr:`Backbone.in_order`).
    """
    trunks = [part for part in net.modules() if isinstance(part, Backbone)]
    vouched_for: list[type[nn.Module]] = [kind for trunk in trunks for kind in trunk.in_order]
    known = {kind.forward for kind in [nn.Sequential, *vouched_for]}
    return [
        (conv, norm)
        for block in net.modules()
        if type(block).forward in known
        for conv, norm in pairwise(block.children())
        if isinstance(conv, nn.Conv2d) and isinstance(norm, _BatchNorm) and not (conv.training or norm.training)
    ]


@torch.no_grad()
def _fold(conv: nn.Conv2d, norm: _BatchNorm) -> None:
    folded = fuse_conv_bn_eval(conv, norm)
    for name in ("weight", "bias"):  # as buffers that no state dict holds and that follow the module to any device
        value = getattr(folded, name).detach()
        delattr(folded, name)
        folded.register_buffer(name, value, persistent=False)
    conv.folded = folded
    conv.forward = MethodType(_convolve, conv)  # type: ignore[method-assign]
    norm.forward = MethodType(_activate, norm)  # type: ignore[method-assign]


def _convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return type(conv).forward(conv, x) if torch.is_grad_enabled() else conv.folded(x)  # type: ignore[operator]


def _activate(norm: _BatchNorm, x: Tensor) -> Tensor:
    if torch.is_grad_enabled():
        return type(norm).forward(norm, x)
    for part in norm.children():  # timm's batch norms hold the activation that follows
        x = part(x)
    return x
