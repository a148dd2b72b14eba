"""Layers of SiamDyn: Siamese trunk, two depth-wise correlations, heads, and the branch of mask features."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_vos.blocks.backbone import Backbone, GroupNorm, Norm, Pyramid, Trunk
from lightning_vos.blocks.decoder import conv3x3
from lightning_vos.functional import to_float
from lightning_vos.methods.siam_dyn.dynamic_head import DynamicHead

STRIDE = 8  # of the deepest features, crop pixels
KEPT = 7  # central cells of a template on each axis: about the target
FIRST = STRIDE * (KEPT // 2)  # crop pixel of the first cell of the correlation map
TOWER = 4  # convolutions of a tower and of the mask branch
PRIOR = 0.01  # probability that a cell lies on the target, at the start

Kernel = Literal["dynamic", "static"]


class Prediction(NamedTuple):
    """What the network says of n search windows; cell (i, j) of an h x w map is crop pixel (24 + 8j, 24 + 8i).

    Attributes:
        cls: ``(n, h, w)`` logits: the cell lies on the target.
        ctr: ``(n, h, w)`` logits of the centre-ness.
        box: ``(n, 4, h, w)`` distances to left, top, right, bottom of the target, crop pixels.
        theta: ``(n, numbers, h, w)`` kernels.
        features: ``(n, C, 2g - 1, 2g - 1)`` mask features, stride 4; g is the side of the stride-8 maps.
    """

    cls: Tensor
    ctr: Tensor
    box: Tensor
    theta: Tensor
    features: Tensor

    @property
    def score(self) -> Tensor:
        """Probability of a cell times its centre-ness, ``(n, h * w)`` in [0, 1]."""
        return (torch.sigmoid(to_float(self.cls)) * torch.sigmoid(to_float(self.ctr))).flatten(1)


class Correlation(nn.Module):
    """Template and search features, one 3x3 convolution each, and their cross-correlation channel by channel."""

    def __init__(self, dim: int, norm: Norm) -> None:
        """Channels; normalisation as for :func:`neck_norm`."""
        super().__init__()
        self.template = _unpadded(dim, norm)
        self.search = _unpadded(dim, norm)

    def forward(self, search: Tensor, kernels: Tensor) -> Tensor:
        """``(n, D, g, g)`` and kernels ``(n, D, 5, 5)``, of ``self.template``, to ``(n, D, g - 6, g - 6)``."""
        return depthwise_correlation(self.search(search), kernels)


def depthwise_correlation(maps: Tensor, kernels: Tensor) -> Tensor:
    """Slide every kernel over its own map: ``(n, D, h, w)``, ``(n, D, k, k)`` to ``(n, D, h - k + 1, w - k + 1)``.

    In float32 at least: it is little work, and grouped convolutions in half precision are slow where they exist.
    """
    count, channels = maps.shape[:2]
    maps, kernels = to_float(maps), to_float(kernels)
    with torch.autocast(maps.device.type, enabled=False):
        out = F.conv2d(
            maps.reshape(1, -1, *maps.shape[2:]), kernels.reshape(-1, 1, *kernels.shape[2:]), groups=count * channels
        )
    return out.unflatten(1, (count, channels)).squeeze(0)


class MaskFeatures(nn.Module):
    """Features of the search window at stride 4, without knowledge of the template (mask branch of CondInst).

    Args:
        in_channels: of the trunk's maps at stride 4, at stride 8, and of the dilated ones.
        dim: width.
        channels: of the result.
    """

    def __init__(self, in_channels: tuple[int, ...], dim: int, channels: int) -> None:
        super().__init__()
        self.refine = nn.ModuleList(_mask_layer(width, dim) for width in in_channels)
        self.tower = nn.Sequential(*(_mask_layer(dim, dim) for _ in range(TOWER)))
        self.project = nn.Conv2d(dim, channels, 1)

    def forward(self, pyramid: Pyramid) -> Tensor:
        """``(n, C, 2g - 1, 2g - 1)``."""
        fine, *coarse = (refine(level) for refine, level in zip(self.refine, pyramid, strict=True))
        # Resizing is linear: the sum of the coarse maps needs it only once.
        size = fine.shape[-2:]
        fine = fine + F.interpolate(torch.stack(coarse).sum(dim=0), size=size, mode="bilinear", align_corners=True)
        return self.project(self.tower(fine))


class SiameseNetwork(nn.Module):
    """From template and search windows to a kernel on every cell and the features to convolve with it.

    Window sides are 1 mod 16: the cells of a padded trunk then lie symmetrically in the window, and one in its centre.

    Args:
        trunk: ResNet, layer3 dilated.
        norm: of the trunk. The layers behind it have batch norm with pretrained weights (``frozen_batch``), group norm
            from scratch.
        weights: of the trunk, see :class:`~lightning_vos.blocks.backbone.Backbone`.
        dim: width of correlation and towers, 256.
        mask_dim: width of the mask branch, 128.
        head: the dynamic head that theta is for.
        mask_channels: of the mask features.
        kernel: ``dynamic``: theta is predicted on every cell. ``static``: one learned theta for all targets, to see
            what the prediction is worth.
        in_channels: of the windows: RGB, or RGB and a mask.
    """

    def __init__(
        self,
        trunk: Trunk,
        norm: Norm,
        weights: str | None,
        dim: int,
        mask_dim: int,
        head: DynamicHead,
        mask_channels: int,
        kernel: Kernel,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.trunk = Backbone(trunk, norm, weights, in_channels, stride=8)
        self.adjust = nn.Sequential(nn.Conv2d(self.trunk.channels[-1], dim, 1, bias=False), neck_norm(norm, dim))
        self.where = Correlation(dim, norm)
        self.what = Correlation(dim, norm)
        self.where_tower = _tower(dim)
        self.what_tower = _tower(dim)
        self.cls = conv3x3(dim, 1)
        self.ctr = conv3x3(dim, 1)
        self.box = conv3x3(dim, 4)
        self.box_scale = nn.Parameter(torch.ones(1))
        self.controller = conv3x3(dim, head.numbers) if kernel == "dynamic" else None
        self.theta = nn.Parameter(torch.zeros(1, head.numbers)) if kernel == "static" else None
        self.masks = MaskFeatures(self.trunk.channels, mask_dim, mask_channels)
        self._initialise(head)

    @torch.no_grad()
    def _initialise(self, head: DynamicHead) -> None:
        """Towers and predictions as in FCOS, the other new layers Kaiming-uniform with a = 1."""
        small = [self.where_tower, self.what_tower, self.cls, self.ctr, self.box, self.controller]
        large = [self.adjust, self.where, self.what, self.masks]
        for parts, is_small in ((small, True), (large, False)):
            for conv in (m for part in parts if part is not None for m in part.modules() if isinstance(m, nn.Conv2d)):
                if is_small:
                    nn.init.normal_(conv.weight, std=0.01)
                else:
                    nn.init.kaiming_uniform_(conv.weight, a=1)
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)
        nn.init.constant_(self.cls.get_parameter("bias"), -math.log((1 - PRIOR) / PRIOR))
        if self.theta is not None:
            for weight in head.split(self.theta)[0]:
                nn.init.kaiming_uniform_(weight[0], a=1)

    def templates(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Kernels of both correlations, ``(n, D, 5, 5)`` each, from template windows ``(n, C, m, m)``."""
        features = self.adjust(self.trunk(windows).f16)
        edge = (features.shape[-1] - KEPT) // 2
        centre = features[..., edge : edge + KEPT, edge : edge + KEPT]
        return self.where.template(centre), self.what.template(centre)

    def forward(self, windows: Tensor, where: Tensor, what: Tensor) -> Prediction:
        """Search windows ``(n, C, m, m)`` and the kernels of their templates, ``(n, D, 5, 5)`` each."""
        pyramid = self.trunk(windows)
        search = self.adjust(pyramid.f16)
        where = self.where_tower(self.where(search, where))
        what = self.what_tower(self.what(search, what))
        box = STRIDE * torch.exp((self.box_scale * self.box(what)).clamp(max=5))
        if self.controller is not None:
            theta = self.controller(what)
        else:
            theta = self.get_parameter("theta")[..., None, None].expand(len(what), -1, *what.shape[-2:])
        cls, ctr = self.cls(where).squeeze(1), self.ctr(where).squeeze(1)
        return Prediction(cls, ctr, box, theta, self.masks(pyramid))


def cell_positions(size: int, like: Tensor) -> Tensor:
    """Crop pixels of the cells of a square correlation map: ``(size * size, 2)``, x and y, row by row."""
    steps = FIRST + STRIDE * torch.arange(size, device=like.device, dtype=like.dtype)
    return torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).flatten(0, 1)


def neck_norm(norm: Norm, channels: int) -> nn.Module:
    """Batch norm that learns its statistics where the trunk is pretrained, group norm where it is not."""
    return nn.BatchNorm2d(channels) if norm == "frozen_batch" else _group_norm(channels)


def _group_norm(channels: int) -> GroupNorm:
    return GroupNorm(min(32, channels), channels)


def _unpadded(dim: int, norm: Norm) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(dim, dim, 3, bias=False), neck_norm(norm, dim), nn.ReLU(inplace=True))


def _mask_layer(in_channels: int, dim: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, dim, 3, padding=1, bias=False)
    return nn.Sequential(conv, _group_norm(dim), nn.ReLU(inplace=True))


def _tower(dim: int) -> nn.Sequential:
    layers = [(conv3x3(dim, dim), _group_norm(dim), nn.ReLU(inplace=True)) for _ in range(TOWER)]
    return nn.Sequential(*(part for layer in layers for part in layer))
