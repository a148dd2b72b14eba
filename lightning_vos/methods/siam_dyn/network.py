"""SiamDyn's layers put together: Siamese trunk, two depth-wise correlations, heads, and the mask branch."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_vos.blocks.backbone import build_backbone
from lightning_vos.blocks.decoder import conv3x3
from lightning_vos.blocks.normalization import Norm
from lightning_vos.functional import to_float
from lightning_vos.methods.siam_dyn.cells import KEPT, STRIDE
from lightning_vos.methods.siam_dyn.correlation import Correlation, Template, group_norm, neck_norm
from lightning_vos.methods.siam_dyn.dynamic_head import DynamicHead
from lightning_vos.methods.siam_dyn.mask_branch import MaskBranch

TOWER = 4  # convolutions of a tower
PRIOR = 0.01  # probability that a cell lies on the target, at the start


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


class SiameseNetwork(nn.Module):
    """From template and search windows to a kernel on every cell and the features to convolve with it.

    Window sides are 1 mod 16: the cells of a padded trunk then lie symmetrically in the window, and one in its centre.

    Args:
        trunk: see :func:`~lightning_vos.blocks.backbone.build_backbone`; its last stage is dilated.
        norm: of the trunk.
        weights: likewise.
        dim: width of correlation and towers, 256.
        head: the dynamic head that theta is for, whose settings say how theta and the mask features are made.
        in_channels: of the windows: RGB, or RGB and a mask.
        new_norm: the layers behind the trunk have batch norm with ``frozen_batch``, group norm with ``group``;
            ``None``: as ``norm``.
    """

    def __init__(
        self,
        trunk: str,
        norm: Norm,
        weights: str | None,
        dim: int,
        head: DynamicHead,
        in_channels: int = 3,
        new_norm: Norm | None = None,
    ) -> None:
        super().__init__()
        settings, new_norm = head.settings, new_norm or norm
        self.trunk = build_backbone(trunk, norm, weights, in_channels, stride=8)
        self.adjust = nn.Sequential(nn.Conv2d(self.trunk.channels[-1], dim, 1, bias=False), neck_norm(new_norm, dim))
        self.locate = Correlation(dim, new_norm)
        self.describe = Correlation(dim, new_norm)
        self.locate_tower = _tower(dim)
        self.describe_tower = _tower(dim)
        self.cls = conv3x3(dim, 1)
        self.ctr = conv3x3(dim, 1)
        self.box = conv3x3(dim, 4)
        self.box_scale = nn.Parameter(torch.ones(1))
        self.controller = conv3x3(dim, head.numbers) if settings.kernel == "dynamic" else None
        self.theta = nn.Parameter(torch.zeros(1, head.numbers)) if settings.kernel == "static" else None
        self.masks = MaskBranch(self.trunk.channels, settings.mask_dim, settings.mask_channels)
        self._initialise(head)

    @torch.no_grad()
    def _initialise(self, head: DynamicHead) -> None:
        """Towers and predictions as in FCOS, the other new layers Kaiming-uniform with a = 1."""
        for conv in _convolutions(
            self.locate_tower, self.describe_tower, self.cls, self.ctr, self.box, self.controller
        ):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.get_parameter("bias"))
        for conv in _convolutions(self.adjust, self.locate, self.describe, self.masks):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        nn.init.constant_(self.cls.get_parameter("bias"), -math.log((1 - PRIOR) / PRIOR))
        if self.theta is not None:
            for weight in head.split(self.theta)[0]:
                nn.init.kaiming_uniform_(weight[0], a=1)

    def template(self, windows: Tensor) -> Template:
        """Kernels of both correlations, ``(n, D, 5, 5)`` each, from template windows ``(n, C, m, m)``."""
        features = self.adjust(self.trunk(windows).f16)
        edge = (features.shape[-1] - KEPT) // 2
        centre = features[..., edge : edge + KEPT, edge : edge + KEPT]
        return Template(self.locate.template(centre), self.describe.template(centre))

    def forward(self, windows: Tensor, template: Template) -> Prediction:
        """Search windows ``(n, C, m, m)`` and the templates of their n targets."""
        pyramid = self.trunk(windows)
        search = self.adjust(pyramid.f16)
        located = self.locate_tower(self.locate(search, template.locate))
        described = self.describe_tower(self.describe(search, template.describe))
        box = STRIDE * torch.exp((self.box_scale * self.box(described)).clamp(max=5))
        if self.controller is not None:
            theta = self.controller(described)
        else:
            theta = self.get_parameter("theta")[..., None, None].expand(box.shape[0], -1, *box.shape[-2:])
        cls, ctr = self.cls(located).squeeze(1), self.ctr(located).squeeze(1)
        return Prediction(cls, ctr, box, theta, self.masks(pyramid))


def _convolutions(*parts: nn.Module | None) -> list[nn.Conv2d]:
    return [m for part in parts if part is not None for m in part.modules() if isinstance(m, nn.Conv2d)]


def _tower(dim: int) -> nn.Sequential:
    layers = [(conv3x3(dim, dim), group_norm(dim), nn.ReLU(inplace=True)) for _ in range(TOWER)]
    return nn.Sequential(*(part for layer in layers for part in layer))
