"""Residual trunks from torchvision."""

from __future__ import annotations

from collections.abc import Callable
from urllib.error import URLError

from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model_weights
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from lightning_vos.blocks.backbone import (
    Backbone,
    DeepPyramid,
    Pyramid,
    Stride,
    dilate,
    load_whole,
    read_state_dict,
    widened,
)
from lightning_vos.blocks.normalization import Norm, norm_layer

RESNETS: dict[str, tuple[type[BasicBlock | Bottleneck], list[int], int, int]] = {
    "resnet10": (BasicBlock, [1, 1, 1, 1], 1, 64),
    "resnet18": (BasicBlock, [2, 2, 2, 2], 1, 64),
    "resnet34": (BasicBlock, [3, 4, 6, 3], 1, 64),
    "resnet50": (Bottleneck, [3, 4, 6, 3], 1, 64),
    "resnet101": (Bottleneck, [3, 4, 23, 3], 1, 64),
    "resnext101_32x8d": (Bottleneck, [3, 4, 23, 3], 32, 8),
}
"""Block, blocks of each stage, groups, width of a group. ``resnet10`` is not torchvision's: for tests and CPU runs."""


def build_resnet(trunk: str, norm: Norm, weights: str | None = None) -> ResNet:
    """A whole ResNet of torchvision's modules, classifier included.

    Args:
        trunk: one of ``RESNETS``.
        norm: as for :func:`~lightning_vos.blocks.backbone.build_backbone`.
        weights: likewise; ``imagenet`` is downloaded once by torchvision.

    Raises:
        ValueError: weights that do not fit, or that cannot be had.
    """
    resnet = _resnet(trunk, norm_layer(norm))
    if weights is not None:
        if weights == "imagenet" and trunk == "resnet10":
            raise ValueError("backbone_weights=imagenet: there are none for resnet10, use resnet18 or larger")
        released = get_model_weights(trunk).DEFAULT if weights == "imagenet" else None
        state = read_pretrained("backbone_weights", "imagenet", weights, released)
        load_whole(resnet, state, weights, f"{trunk} of torchvision")
    return resnet


class ResNetBackbone(Backbone):
    """ResNet conv1..layer3, or ..layer4; arguments as :func:`~lightning_vos.blocks.backbone.build_backbone`."""

    in_order = (BasicBlock, Bottleneck)

    def __init__(self, trunk: str, norm: Norm, weights: str | None, in_channels: int, stride: Stride) -> None:
        expansion = RESNETS[trunk][0].expansion
        widths = (64, 128, 256, 512)[: 4 if stride == 32 else 3]
        super().__init__([width * expansion for width in widths], in_channels, norm, weights)
        resnet = build_resnet(trunk, norm, weights)
        if in_channels > 3:
            resnet.conv1 = widened(resnet.conv1, in_channels)
        self.stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool)
        self.layer1, self.layer2, self.layer3 = resnet.layer1, resnet.layer2, resnet.layer3
        self.layer4 = resnet.layer4 if stride == 32 else None
        if stride == 8:
            dilate(self.layer3.modules())

    def forward(self, image: Tensor) -> Pyramid | DeepPyramid:
        """As :meth:`Backbone.forward`."""
        f4 = self.layer1(self.stem(image))
        f8 = self.layer2(f4)
        f16 = self.layer3(f8)
        return Pyramid(f4, f8, f16) if self.layer4 is None else DeepPyramid(f4, f8, f16, self.layer4(f16))

    def shallow(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The first convolution with its normalisation, and layer1."""
        return list(self.stem.parameters()), list(self.layer1.parameters())


def _resnet(trunk: str, norm: Callable[[int], nn.Module]) -> ResNet:
    block, layers, groups, width = RESNETS[trunk]
    return ResNet(block, layers, groups=groups, width_per_group=width, norm_layer=norm)


def read_pretrained(option: str, name: str, source: str, released: WeightsEnum | None) -> dict[str, Tensor]:
    """State dict that torchvision releases, or one from a file.

    Args:
        option: the setting that asks for it, for the messages.
        name: what the setting calls the released one, likewise.
        source: the setting's value: ``name`` or a path.
        released: where torchvision has it (downloaded once); ``None`` to read the file ``source``.

    Raises:
        ValueError: it cannot be had, or the file is something else.
    """
    if released is None:
        return read_state_dict(option, name, source)
    try:
        return dict(released.get_state_dict(progress=False, check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        raise ValueError(
            f"{option}={name}: {released.url} cannot be had ({error}); copy that file here by hand and "
            f"give its path instead, or train from scratch with {option}=null"
        ) from error
