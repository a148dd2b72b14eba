"""Sizes, symmetry and correlation of SiamDyn's layers."""

from __future__ import annotations

import pytest
import torch
from siam_dyn_cases import close, random
from torch import nn
from torchvision.models import resnet50

from lightning_vos.blocks.backbone import build_backbone
from lightning_vos.methods.siam_dyn.cells import cell_positions, map_size
from lightning_vos.methods.siam_dyn.correlation import depthwise_correlation
from lightning_vos.methods.siam_dyn.dynamic_head import DynamicHead, HeadSettings
from lightning_vos.methods.siam_dyn.network import SiameseNetwork


def network() -> SiameseNetwork:
    torch.manual_seed(0)
    return SiameseNetwork("resnet10", "group", None, 16, DynamicHead(HeadSettings(mask_dim=16))).eval()


@torch.inference_mode()
def test_5_sizes() -> None:
    net = network()
    pyramid = net.trunk(torch.zeros(1, 3, 257, 257))
    assert [feature.shape[-1] for feature in pyramid] == [65, 33, 33]
    assert [feature.shape[-1] for feature in net.trunk(torch.zeros(1, 3, 129, 129))] == [33, 17, 17]
    seen = []
    net.locate.template.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[-1]))
    kernels = net.template(torch.zeros(2, 3, 129, 129))
    assert seen == [7]
    assert [kernel.shape for kernel in kernels] == [(2, 16, 5, 5)] * 2
    assert net.locate.search(net.adjust(pyramid.f16)).shape[-1] == 31
    out = net(torch.zeros(2, 3, 257, 257), kernels)
    assert [part.shape[1:] for part in out] == [(27, 27), (27, 27), (4, 27, 27), (169, 27, 27), (8, 65, 65)]
    assert [map_size(size) for size in (257, 129)] == [27, 11]
    cells = cell_positions(27, out.cls)
    assert cells[0].tolist() == [24, 24]
    assert cells[-1].tolist() == [232, 232]
    assert cells[13 * 27 + 13].tolist() == [128, 128]
    assert cells[1].tolist() == [32, 24]  # x first, row by row


def test_parameters_at_full_size() -> None:
    with torch.device("meta"):
        model = SiameseNetwork("resnet50", "frozen_batch", None, 256, DynamicHead())
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert count["trunk"] == 8_543_296
    assert sum(p.numel() for p in model.parameters()) == 18_952_440


@pytest.mark.parametrize(("size", "symmetric"), [(257, True), (129, True), (65, True), (255, False), (256, False)])
@torch.inference_mode()
def test_7_a_mirrored_window_has_mirrored_features(size: int, symmetric: bool) -> None:
    trunk = network().trunk
    for conv in trunk.modules():
        if isinstance(conv, nn.Conv2d):
            conv.weight.copy_((conv.weight + conv.weight.flip(-1)) / 2)
    image = random(1, 3, size, size, dtype=torch.float32)
    plain, mirrored = trunk(image).f16, trunk(image.flip(-1)).f16.flip(-1)
    error = (plain - mirrored).abs().max() / plain.abs().max()
    assert (error < 1e-4) == symmetric


@torch.inference_mode()
def test_dilated_trunks() -> None:
    """A dilated stage keeps what the strided one computes, at every second cell; bottlenecks are torchvision's."""
    image = random(1, 3, 65, 65, dtype=torch.float32)
    for name in ("resnet18", "resnet50"):
        strided, dilated = (build_backbone(name, stride=stride).eval() for stride in (16, 8))
        dilated.load_state_dict(strided.state_dict())
        assert [a.shape == b.shape for a, b in zip(strided(image), dilated(image), strict=True)] == [True, True, False]
        torch.testing.assert_close(dilated(image).f16[..., ::2, ::2], strided(image).f16, rtol=1e-4, atol=1e-4)
    stock = resnet50(replace_stride_with_dilation=[False, True, False]).eval()
    dilated = build_backbone("resnet50", stride=8).eval()
    parts = ((dilated.stem[0], stock.conv1), (dilated.stem[1], stock.bn1), (dilated.layer1, stock.layer1))
    for ours, theirs in (*parts, (dilated.layer2, stock.layer2), (dilated.layer3, stock.layer3)):
        ours.load_state_dict(theirs.state_dict())
    x = stock.maxpool(stock.relu(stock.bn1(stock.conv1(image))))
    assert torch.equal(dilated(image).f16, stock.layer3(stock.layer2(stock.layer1(x))))


def test_8_depthwise_correlation_is_the_double_loop() -> None:
    maps, kernels = random(3, 4, 9, 10), random(3, 4, 5, 5, seed=1)
    out = depthwise_correlation(maps, kernels)
    assert out.shape == (3, 4, 5, 6)
    for n, channel, row, column in ((0, 0, 0, 0), (1, 3, 2, 5), (2, 1, 4, 3)):
        expected = sum(
            maps[n, channel, row + i, column + j] * kernels[n, channel, i, j] for i in range(5) for j in range(5)
        )
        close(out[n, channel, row, column], expected)
    other = kernels.clone()
    other[1] += 1
    changed = (depthwise_correlation(maps, other) != out).flatten(1).any(dim=1)
    assert changed.tolist() == [False, True, False]


def test_14_at_the_start_every_box_is_of_about_8_pixels_and_few_cells_are_believed() -> None:
    net = network()
    with torch.inference_mode():
        out = net(random(2, 3, 129, 129, dtype=torch.float32), net.template(random(2, 3, 65, 65, dtype=torch.float32)))
    assert (out.box - 8).abs().mean() < 1
    assert (torch.sigmoid(out.cls) - 0.01).abs().mean() < 0.002
