"""ResNet trunks: sizes, normalisation."""

from __future__ import annotations

import pytest
import torch

from lightning_vos.blocks.backbone import build_backbone
from lightning_vos.blocks.normalization import Norm
from lightning_vos.blocks.resnet import build_resnet


@pytest.mark.parametrize("retrained", [False, True])
@pytest.mark.parametrize("trunk", ["resnet10", "efficientnet_lite0", "timm/mobilenetv3_small_100"])
def test_frozen_statistics_stay_as_they_are(trunk: str, retrained: bool) -> None:
    """Also in a network that nobody has called ``train()`` or ``eval()`` on: Lightning starts with such a one."""
    net = build_backbone(trunk, "frozen_batch")
    if retrained:
        net.train()
    before = {name: value.clone() for name, value in net.named_buffers()}
    image = torch.randn(2, 3, 32, 32)
    trained = net(image)
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())
    assert all(torch.equal(*pair) for pair in zip(trained, net.eval()(image), strict=True))


@pytest.mark.parametrize("norm", ["frozen_batch", "group"])
@pytest.mark.parametrize("stride", [16, 32])
def test_pyramid(norm: Norm, stride: int) -> None:
    trunk = build_backbone("resnet10", norm, stride=stride)  # type: ignore[arg-type]  # a loop over literals
    levels = trunk(torch.randn(1, 3, 64, 96))
    assert [tuple(level.shape[1:]) for level in levels] == [
        (channels, 64 // s, 96 // s) for channels, s in zip(trunk.channels, (4, 8, 16, 32), strict=False)
    ]
    assert len(levels) == len(trunk.channels) == (3 if stride == 16 else 4)


def test_resnext_is_torchvisions() -> None:
    from torchvision.models import resnext101_32x8d

    with torch.device("meta"):
        ours, theirs = build_resnet("resnext101_32x8d", "frozen_batch"), resnext101_32x8d()
    assert {name: value.shape for name, value in ours.state_dict().items()} == {
        name: value.shape for name, value in theirs.state_dict().items()
    }
