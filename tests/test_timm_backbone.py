"""Networks of timm's as trunks: strides, ImageNet weights from a package, normalisation, and every method on one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import METHODS, SMALL, small, squares
from torch import nn

from lightning_vos.blocks import timm_backbone
from lightning_vos.blocks.backbone import Backbone, Stride, build_backbone
from lightning_vos.blocks.normalization import GroupNorm, Norm
from lightning_vos.types import Clip, ClipBatch

LITE, CONVNEXT, MOBILENET = "efficientnet_lite0", "timm/convnext_atto", "timm/mobilenetv3_small_100"


@pytest.fixture(scope="module")
def lite() -> timm_backbone.TimmBackbone:
    """With ImageNet weights and two channels for masks."""
    return build_backbone(LITE, weights="imagenet", in_channels=5)


@pytest.mark.parametrize("norm", ["frozen_batch", "group"])
@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("trunk", [LITE, MOBILENET, "timm/regnetx_002"])
def test_strides_and_channels(trunk: str, stride: Stride, norm: Norm) -> None:
    net = build_backbone(trunk, norm, in_channels=4, stride=stride)
    levels = net(torch.randn(1, 4, 64, 96))
    strides = (4, 8, 8) if stride == 8 else (4, 8, 16, 32)
    assert [tuple(level.shape[1:]) for level in levels] == [
        (channels, 64 // s, 96 // s) for channels, s in zip(net.channels, strides, strict=False)
    ]
    assert len(levels) == (4 if stride == 32 else 3)


def test_lite_is_timms_on_pictures_from_minus_one_to_one() -> None:
    ours = build_backbone(LITE, weights="imagenet").double()
    theirs = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(1, 2, 3)).double().eval()
    packaged = timm_backbone._packaged(LITE)
    whole = timm.create_model("tf_efficientnet_lite0")
    state = dict(zip(whole.state_dict(), packaged.values(), strict=True))
    theirs.load_state_dict({name: state[name] for name in theirs.state_dict()})
    picture = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    mean, std = (torch.tensor(x, dtype=torch.float64).view(3, 1, 1) for x in (Backbone.mean, Backbone.std))
    for own, their in zip(ours.features((picture - mean) / std), theirs((picture - 0.5) / 0.5), strict=True):
        assert own.std() > 0.1
        torch.testing.assert_close(own, their, rtol=0, atol=1e-6 * float(their.abs().max()))


def test_features_come_at_unit_scale(lite: timm_backbone.TimmBackbone) -> None:
    """Of every picture alone: a batch is its pictures one by one."""
    images = torch.randn(2, 5, 64, 96) * torch.tensor([1.0, 0.2]).view(2, 1, 1, 1)
    for level, (feature, plain) in enumerate(zip(lite(images), lite.features(images), strict=True)):
        torch.testing.assert_close(feature.square().mean(dim=(1, 2, 3)), torch.ones(2))
        torch.testing.assert_close(feature[1] * plain[1].square().mean().sqrt(), plain[1])
        torch.testing.assert_close(feature[1:], lite(images[1:])[level], rtol=1e-4, atol=1e-4)


def test_masks_come_beside_the_picture(lite: timm_backbone.TimmBackbone) -> None:
    """Without a mask the widened trunk is the trunk of pictures; a mask changes what it finds."""
    pictures = build_backbone(LITE, weights="imagenet")
    image, mask = torch.randn(1, 3, 64, 64), torch.ones(1, 2, 64, 64)
    for wide, narrow in zip(lite(torch.cat([image, 0 * mask], dim=1)), pictures(image), strict=True):
        torch.testing.assert_close(wide, narrow, rtol=1e-4, atol=1e-4)
    assert (lite(torch.cat([image, mask], dim=1)).f4 - pictures(image).f4).abs().max() > 0.1


def test_statistics_of_a_pretrained_trunk_stay(lite: timm_backbone.TimmBackbone) -> None:
    before = {name: value.clone() for name, value in lite.named_buffers()}
    image = torch.randn(2, 5, 64, 64)
    trained = lite.train()(image)
    assert all(torch.equal(value, before[name]) for name, value in lite.named_buffers())
    assert all(torch.equal(*pair) for pair in zip(trained, lite.eval()(image), strict=True))


def test_group_norm_takes_the_place_of_batch_norm_before_the_same_activation() -> None:
    net = build_backbone(LITE, "group").net
    theirs = timm.create_model("tf_efficientnet_lite0")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    x = torch.randn(2, 32, 8, 8)
    weight = net.bn1.state_dict()["0.weight"]
    expected = theirs.bn1.act(nn.functional.group_norm(x, 32, weight, torch.zeros(32), eps=1e-5))
    torch.testing.assert_close(net.bn1(x), expected)
    assert sum(isinstance(module, GroupNorm) for module in net.modules()) == 1 + sum(
        isinstance(module, nn.BatchNorm2d) for module in theirs.blocks[:5].modules()
    )


@pytest.mark.parametrize("trunk", ["resnet10", LITE, CONVNEXT])
@pytest.mark.parametrize("channels", [3, 4])
def test_what_makes_the_first_features_is_frozen(trunk: str, channels: int) -> None:
    """But for the first layers where they see a mask."""
    net = build_backbone(trunk, "group", in_channels=channels)
    net.freeze_shallow()
    f4, f8, _ = net(torch.randn(1, channels, 64, 64))
    assert f4.requires_grad == (channels > 3)
    f8.square().mean().backward()
    learning = [name for name, p in net.named_parameters() if p.grad is not None and p.grad.any()]
    frozen = [name for name, p in net.named_parameters() if not p.requires_grad]
    assert learning
    assert frozen


@pytest.mark.parametrize(
    ("method", "trunk"), [(method, CONVNEXT if method != "SiamDyn" else MOBILENET) for method in METHODS]
)
def test_every_method_learns_on_any_trunk(method: str, trunk: str) -> None:
    trunks = {name.replace(".", "__"): trunk for name in SMALL[method] if name.endswith("trunk")}
    model = small(method, lr=1e-3, **trunks).train()
    frames, labels = squares(2, 3, 2, size=(64, 64))
    batch = ClipBatch.collate([Clip(frames[b], labels[b], 2) for b in range(2)])
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.training_step(batch, 0).backward()
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if name in before and not torch.equal(p, before[name])}
    assert any(".net." in name and "conv" in name for name in moved)
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize(
    ("method", "settings", "slow"),
    [
        ("REMN", {"key_trunk": LITE}, "key_encoder."),
        ("HMMN", {"query_trunk": LITE}, "query_encoder."),
        ("DMMNet", {"trunk": LITE}, "encoder.trunk."),
        ("SiamDyn", {"trunk": LITE}, "network.trunk."),
    ],
)
def test_a_pretrained_trunk_has_a_rate_of_its_own(method: str, settings: dict[str, Any], slow: str) -> None:
    """What sees masks and starts from scratch beside it learns at full speed, normalised by groups."""
    changes = {"norm": "frozen_batch", "backbone_weights": "imagenet", "scratch_norm": "group", "trunk_lr": 0.3}
    if method == "DMMNet":
        changes |= {"detector__trunk": LITE}
    model = small(method, **settings, **changes)
    names = {id(p): name for name, p in model.named_parameters()}
    factors = {names[id(p)]: factor for group, factor in model.parameter_groups() for p in group}
    assert {name for name, factor in factors.items() if factor == 0.3} == {
        name for name, p in model.named_parameters() if name.startswith(slow) and p.requires_grad
    }
    trunks = [m for trunk in model.modules() if isinstance(trunk, Backbone) for m in trunk.modules()]
    known = {id(module) for module in trunks}
    assert not [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and id(m) not in known]


@pytest.mark.parametrize(
    ("trunk", "stride", "message"),
    [
        ("timm/nix", 16, "trunk=timm/nix: timm has no such network"),
        ("vgg", 16, "trunk=vgg: there is none of that name; use resnet10, .*, efficientnet_lite2 or timm/<name>"),
        ("timm/vit_tiny_patch16_224", 16, "trunk=timm/vit_tiny_patch16_224: no features at stride 4, 8 "),
        (CONVNEXT, 8, f"trunk={CONVNEXT}: its last stage cannot be dilated, which stride 8 needs; use another"),
    ],
)
def test_trunks_that_there_are_not(trunk: str, stride: Stride, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_backbone(trunk, "group", stride=stride)


def test_weights_of_a_file_and_of_another_network(tmp_path: Path) -> None:
    torch.manual_seed(3)
    state = timm.create_model("resnet10t").state_dict()
    torch.save(state, tmp_path / "x.pth")
    net = build_backbone("timm/resnet10t", weights=str(tmp_path / "x.pth"))
    assert torch.equal(net.net.layer1[0].conv1.weight, state["layer1.0.conv1.weight"])
    with pytest.raises(ValueError, match=r"not a resnet14t of timm, .* are missing, unexpected or of another shape"):
        build_backbone("timm/resnet14t", weights=str(tmp_path / "x.pth"))
    with pytest.raises(ValueError, match="needs norm=frozen_batch"):
        build_backbone("timm/resnet10t", "group", str(tmp_path / "x.pth"))


def test_a_package_that_is_missing_or_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(timm_backbone.LITE, LITE, "0" * 64)
    with pytest.raises(ValueError, match=r"trunk=efficientnet_lite0, .* is not the file that is known; pip install"):
        build_backbone(LITE, weights="imagenet")
    monkeypatch.setitem(timm_backbone.LITE, "efficientnet_lite3", "")
    with pytest.raises(ValueError, match="the package efficientnet-lite3-pytorch-model is missing; pip install"):
        build_backbone("efficientnet_lite3", weights="imagenet")
