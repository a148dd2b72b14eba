"""Trunks as one protocol: a picture to features at strides 4, 8, 16 (and 32), whatever network makes them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from lightning_vos.blocks.normalization import Norm

Stride = Literal[8, 16, 32]


class Pyramid(NamedTuple):
    """Features of one trunk: ``f4 (B, C_4, H/4, W/4)``, ``f8``, ``f16`` likewise.

    Of a dilated trunk ``f16`` is as large as ``f8``.
    """

    f4: Tensor
    f8: Tensor
    f16: Tensor


class DeepPyramid(NamedTuple):
    """As :class:`Pyramid`, down to ``f32 (B, C_32, H/32, W/32)``."""

    f4: Tensor
    f8: Tensor
    f16: Tensor
    f32: Tensor


class Backbone(nn.Module):
    """What methods know of a trunk; :func:`build_backbone` makes one.

    Attributes:
        channels: of the features at strides 4, 8, 16 (and 32).
        in_channels: of the picture: 3 (RGB), or more, of which no pretrained weights know.
        norm: of the trunk.
        in_order: blocks whose convolutions give what they make to the batch norm registered next, and to nothing else.
        statistics_are_random: normalises by frozen statistics that come from nowhere: weights must follow.
    """

    mean: ClassVar = (0.485, 0.456, 0.406)  # of ImageNet: how Segmenter.normalize makes pictures
    std: ClassVar = (0.229, 0.224, 0.225)
    in_order: ClassVar[tuple[type[nn.Module], ...]] = ()

    def __init__(
        self, channels: Sequence[int], in_channels: int, norm: Norm, weights: str | None, has_batch_norm: bool = True
    ) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.in_channels = in_channels
        self.norm = norm
        self.statistics_are_random = norm == "frozen_batch" and weights is None and has_batch_norm
        if weights is not None and norm != "frozen_batch":
            raise ValueError(f"backbone_weights={weights} needs norm=frozen_batch: norm={norm} has no statistics")

    @abstractmethod
    def forward(self, image: Tensor) -> Pyramid | DeepPyramid:
        """``(B, C, H, W)`` normalised by ImageNet's mean and deviation, sides multiples of the stride: the features."""

    @abstractmethod
    def shallow(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Parameters of the first layers, which see the picture, and the others that make ``f4``."""

    def freeze_shallow(self) -> None:
        """Leave as it is what makes ``f4``, but for the first layers where they see more than RGB."""
        stem, rest = self.shallow()
        for parameter in stem:
            parameter.requires_grad_(self.in_channels > 3)
        for parameter in rest:
            parameter.requires_grad_(False)


def build_backbone(
    trunk: str = "resnet50",
    norm: Norm = "frozen_batch",
    weights: str | None = None,
    in_channels: int = 3,
    stride: Stride = 16,
) -> Backbone:
    """A trunk by name.

    Args:
        trunk: a ResNet of torchvision's (``resnet18``, ...; ``resnet10`` is ours), ``efficientnet_lite0`` to ``2``,
            whose ImageNet weights are installed with this project, or ``timm/<name>`` for any network of timm's that
            has features at these strides.
        norm: ``frozen_batch`` for pretrained weights (statistics are never updated), ``group`` (32 groups, Wu & He
            2018) for training from scratch, where frozen statistics would mean no normalisation at all. Of a trunk
            without batch norms it changes nothing.
        weights: ``imagenet``, the path of a state dict of the same network, or ``None`` for a random start.
        in_channels: channels of the input. Filters of those beyond the first 3 (RGB) are orthogonally initialised, also
            when weights are given (as STCN does).
        stride: of the deepest features: 16 (a :class:`Pyramid`) or 32 (a :class:`DeepPyramid`), or 8: a
            :class:`Pyramid` whose last stage is dilated instead of strided.

    Raises:
        ValueError: no such trunk, or weights that do not fit or cannot be had.
    """
    # Here: both files need what stands above, and timm takes seconds to import.
    from lightning_vos.blocks.resnet import RESNETS, ResNetBackbone

    if trunk in RESNETS:
        return ResNetBackbone(trunk, norm, weights, in_channels, stride)
    from lightning_vos.blocks.timm_backbone import LITE, TimmBackbone

    if trunk in LITE or trunk.startswith("timm/"):
        return TimmBackbone(trunk, norm, weights, in_channels, stride)
    raise ValueError(f"trunk={trunk}: there is none of that name; use {', '.join([*RESNETS, *LITE])} or timm/<name>")


def dilate(stage: Iterable[nn.Module]) -> None:
    """Take the stride out of a stage: filters behind it reach twice as far, so every second cell is what it was.

    For bottlenecks this is torchvision's ``replace_stride_with_dilation``, which refuses basic blocks.
    """
    strided = False
    for conv in (module for module in stage if isinstance(module, nn.Conv2d)):
        if conv.stride == (2, 2):
            conv.stride, strided = (1, 1), True
        elif strided and conv.kernel_size != (1, 1):
            conv.dilation, conv.padding = (2, 2), (conv.kernel_size[0] - 1, conv.kernel_size[1] - 1)


def widened(conv: nn.Conv2d, in_channels: int) -> nn.Conv2d:
    """A first convolution with additional input channels, whose filters are orthogonal."""
    wide = type(conv)(in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=False)  # type: ignore[arg-type]
    extra = torch.empty(conv.out_channels, in_channels - conv.in_channels, *conv.kernel_size)
    nn.init.orthogonal_(extra)
    wide.weight = nn.Parameter(torch.cat([conv.weight.detach(), extra], dim=1))
    wide.bias = conv.bias
    return wide


def read_state_dict(option: str, name: str, source: str) -> dict[str, Tensor]:
    """State dict of a file.

    Args:
        option: the setting that names it, for the messages.
        name: what the setting calls weights that need no file, likewise.
        source: the path.

    Raises:
        ValueError: there is none, or the file is something else.
    """
    if not Path(source).is_file():
        raise ValueError(f"{option}={source}: no such file; give {name}, the path of a state dict, or null")
    try:
        return dict(torch.load(source, map_location="cpu", weights_only=True))
    except Exception as error:  # bytes that are something else make the unpickler fail in any way
        raise ValueError(f"{option}={source}: not a state dict that torch.save has written") from error


def load_whole(net: nn.Module, state: dict[str, Tensor], source: str, what: str) -> None:
    """Load ImageNet weights or those of a file, of which every entry must fit.

    Args:
        net: the whole network, classifier included.
        state: the entries.
        source: the setting's value, for the message.
        what: what was expected, likewise.

    Raises:
        ValueError: entries are missing, unexpected or of another shape.
    """
    expected = {name: value.shape for name, value in net.state_dict().items() if not name.endswith("batches_tracked")}
    given = {name: value for name, value in state.items() if not name.endswith("batches_tracked")}
    wrong = [name for name, shape in expected.items() if name not in given or given[name].shape != shape]
    wrong += [name for name in given if name not in expected]
    if wrong:
        raise ValueError(
            f"backbone_weights={source}: not a {what}, {len(wrong)} entries are missing, unexpected or of another "
            f"shape ({', '.join(wrong[:3])}, ...)"
        )
    net.load_state_dict(given, strict=False)
