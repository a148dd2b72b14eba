"""The trunk of the detector with its feature pyramid (Lin et al., CVPR 2017)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from lightning_vos.blocks.backbone import build_backbone
from lightning_vos.blocks.normalization import Norm


class FeaturePyramid(nn.Module):
    """Any trunk in the place of torchvision's ``BackboneWithFPN``.

    Args:
        trunk: see :func:`~lightning_vos.blocks.backbone.build_backbone`; likewise ``norm`` and ``weights``.
        dim: channels of every level.
        inner_norm: of the pyramid's layers.
    """

    def __init__(
        self, trunk: str, norm: Norm, weights: str | None, dim: int, inner_norm: Callable[..., nn.Module] | None
    ) -> None:
        super().__init__()
        self.body = build_backbone(trunk, norm, weights, stride=32)
        self.fpn = FeaturePyramidNetwork(list(self.body.channels), dim, LastLevelMaxPool(), inner_norm)
        self.out_channels = dim  # torchvision's detectors ask for it

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """``(B, 3, H, W)`` to maps of ``dim`` channels: "0" to "3" at strides 4 to 32, "pool" at stride 64."""
        return self.fpn(OrderedDict((str(level), feature) for level, feature in enumerate(self.body(image))))
