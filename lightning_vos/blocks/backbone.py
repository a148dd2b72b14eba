"""Residual trunks from torchvision, with the normalisation that small batches need."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model_weights
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

Trunk = Literal["resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnext101_32x8d"]
Norm = Literal["frozen_batch", "group"]

# Block, blocks of each stage, groups, width of a group.
_BLOCKS: dict[str, tuple[type[BasicBlock | Bottleneck], list[int], int, int]] = {
    "resnet10": (BasicBlock, [1, 1, 1, 1], 1, 64),
    "resnet18": (BasicBlock, [2, 2, 2, 2], 1, 64),
    "resnet34": (BasicBlock, [3, 4, 6, 3], 1, 64),
    "resnet50": (Bottleneck, [3, 4, 6, 3], 1, 64),
    "resnet101": (Bottleneck, [3, 4, 23, 3], 1, 64),
    "resnext101_32x8d": (Bottleneck, [3, 4, 23, 3], 32, 8),
}


class FrozenStatsBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that always uses its stored statistics; gamma and beta stay trainable.

    A batch of a few clips has no statistics worth using, and eval mode makes training and testing the same function.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.eval()  # a module starts in training mode, and Lightning calls train() only after a validation

    def train(self, mode: bool = True) -> FrozenStatsBatchNorm2d:
        """Stay in eval mode whatever is asked."""
        return super().train(False)


class GroupNorm(nn.GroupNorm):
    """``nn.GroupNorm``, in training on contiguous tensors: its channels-last backward is ten times as slow on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` to the same shape and memory format."""
        if x.device.type != "cpu" or x.is_contiguous() or not torch.is_grad_enabled():
            return super().forward(x)
        return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)


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


def build_resnet(trunk: Trunk, norm: Norm, weights: str | None = None) -> ResNet:
    """A whole ResNet of torchvision's modules, classifier included.

    Args:
        trunk: which ResNet. ``resnet10`` (one basic block a stage) is not torchvision's: for tests and CPU runs.
        norm: ``frozen_batch`` for pretrained weights (statistics are never updated), ``group`` (32 groups, Wu & He
            2018) for training from scratch, where frozen statistics would mean no normalisation at all.
        weights: ``"imagenet"`` for torchvision's ImageNet weights (downloaded once by torchvision), the path of a
            state dict of the same ResNet, or ``None`` for a random start.

    Raises:
        ValueError: weights that do not fit, or that cannot be had.
    """
    resnet = _resnet(trunk, norm_layer(norm))
    if weights is not None:
        if norm != "frozen_batch":
            raise ValueError(f"backbone_weights={weights} needs norm=frozen_batch: norm={norm} has no statistics")
        resnet.load_state_dict(_read_weights(trunk, weights))
    return resnet


def norm_layer(norm: Norm, groups: int = 32) -> Callable[[int], nn.Module]:
    """What makes the normalisation of a layer out of its number of channels; at most ``groups`` groups."""
    return FrozenStatsBatchNorm2d if norm == "frozen_batch" else partial(GroupNorm, groups)


class Backbone(nn.Module):
    """ResNet conv1..layer3, or ..layer4.

    Args:
        trunk: as for :func:`build_resnet`.
        norm: likewise.
        weights: likewise.
        in_channels: channels of the input. Beyond the first 3 (RGB), filters are orthogonally initialised, also when
            weights are given.
        stride: of the deepest features: 16 (a :class:`Pyramid`) or 32 (a :class:`DeepPyramid`), or 8: a
            :class:`Pyramid` whose layer3 is dilated instead of strided.

    Attributes:
        channels: of the features at strides 4, 8, 16 (and 32).
        statistics_are_random: normalises by frozen statistics that come from nowhere: weights must follow.

    Raises:
        ValueError: weights that do not fit, or that cannot be had.
    """

    def __init__(
        self,
        trunk: Trunk = "resnet50",
        norm: Norm = "frozen_batch",
        weights: str | None = None,
        in_channels: int = 3,
        stride: Literal[8, 16, 32] = 16,
    ) -> None:
        super().__init__()
        resnet = build_resnet(trunk, norm, weights)
        if in_channels > 3:
            resnet.conv1 = _widen(resnet.conv1, in_channels)
        self.stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool)
        self.layer1, self.layer2, self.layer3 = resnet.layer1, resnet.layer2, resnet.layer3
        self.layer4 = resnet.layer4 if stride == 32 else None
        if stride == 8:
            _dilate(self.layer3)
        self.statistics_are_random = norm == "frozen_batch" and weights is None
        expansion = _BLOCKS[trunk][0].expansion
        self.channels = tuple(width * expansion for width in (64, 128, 256, 512)[: 4 if stride == 32 else 3])

    def forward(self, image: Tensor) -> Pyramid | DeepPyramid:
        """``(B, C, H, W)`` normalised image, sides multiples of ``stride``: features at strides 4, 8, 16 (and 32)."""
        f4 = self.layer1(self.stem(image))
        f8 = self.layer2(f4)
        f16 = self.layer3(f8)
        return Pyramid(f4, f8, f16) if self.layer4 is None else DeepPyramid(f4, f8, f16, self.layer4(f16))


def _resnet(trunk: Trunk, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> ResNet:
    block, layers, groups, width = _BLOCKS[trunk]
    return ResNet(block, layers, groups=groups, width_per_group=width, norm_layer=norm)


def _dilate(stage: nn.Sequential) -> None:
    """Take the stride out of a stage: filters behind it reach twice as far, so every second cell is what it was.

    For bottlenecks this is torchvision's ``replace_stride_with_dilation``, which refuses basic blocks.
    """
    strided = False
    for conv in (module for module in stage.modules() if isinstance(module, nn.Conv2d)):
        if conv.stride == (2, 2):
            conv.stride, strided = (1, 1), True
        elif conv.kernel_size == (3, 3) and strided:
            conv.dilation = conv.padding = (2, 2)


def _widen(conv: nn.Conv2d, in_channels: int) -> nn.Conv2d:
    """The 7x7 stem with additional input channels, orthogonally initialised (as STCN does)."""
    wide = nn.Conv2d(in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=False)  # type: ignore[arg-type]
    extra = torch.empty(conv.out_channels, in_channels - 3, *conv.kernel_size)
    nn.init.orthogonal_(extra)
    wide.weight = nn.Parameter(torch.cat([conv.weight.detach(), extra], dim=1))
    return wide


def _read_weights(trunk: Trunk, source: str) -> dict[str, Tensor]:
    """State dict of the whole ResNet from ImageNet or from a file."""
    if source == "imagenet" and trunk == "resnet10":
        raise ValueError("backbone_weights=imagenet: there are none for resnet10, use resnet18 or larger")
    released = get_model_weights(trunk).DEFAULT if source == "imagenet" else None
    state = read_pretrained("backbone_weights", "imagenet", source, released)
    expected = _resnet(trunk).state_dict()
    wrong = [name for name in expected if name not in state or state[name].shape != expected[name].shape]
    wrong += [name for name in state if name not in expected]
    if wrong:
        raise ValueError(
            f"backbone_weights={source}: not a {trunk} of torchvision, {len(wrong)} entries are missing, unexpected or "
            f"of another shape ({', '.join(wrong[:3])}, ...)"
        )
    return state


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
    if released is not None:
        try:
            return dict(released.get_state_dict(progress=False, check_hash=True))
        except (URLError, OSError, RuntimeError) as error:
            raise ValueError(
                f"{option}={name}: {released.url} cannot be had ({error}); copy that file here by hand and "
                f"give its path instead, or train from scratch with {option}=null"
            ) from error
    if not Path(source).is_file():
        raise ValueError(f"{option}={source}: no such file; give {name}, the path of a state dict, or null")
    try:
        return dict(torch.load(source, map_location="cpu", weights_only=True))
    except Exception as error:  # bytes that are something else make the unpickler fail in any way
        raise ValueError(f"{option}={source}: not a state dict that torch.save has written") from error
