"""DMM-Net with the authors' released encoder and decoder."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from dmm_scenes import (
    rand,
)
from torch import Tensor, nn

from lightning_vos import DMMNet, official
from lightning_vos.checkpoint import read_checkpoint, restore
from lightning_vos.methods.dmm_net.detector import Detector, DetectorSettings
from lightning_vos.settings import build, flat, overlaid

TINY_DETECTOR: dict[str, Any] = {"trunk": "resnet10", "pyramid_dim": 16, "box_dim": 16, "mask_layers": 1}


def released_shapes(resnet: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of ``trainer.pt``, as the specification lists them."""
    shapes = {f"encoder.base.{name}": tuple(value.shape) for name, value in resnet.state_dict().items()}

    def conv(name: str, channels: int, out: int) -> None:
        shapes.update({f"{name}.weight": (out, channels, 3, 3), f"{name}.bias": (out,)})

    def norm(name: str, out: int) -> None:
        shapes.update({f"{name}.{part}": (out,) for part in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.num_batches_tracked"] = ()

    for level, channels, width in ((5, 2048, 128), (4, 1024, 128), (3, 512, 64), (2, 256, 32)):
        conv(f"encoder.sk{level}", channels, width)
        norm(f"encoder.bn{level}", width)
        conv(f"encoder.prop{level}.0", channels, width)
        norm(f"encoder.prop{level}.1", width)
        conv(f"encoder.prop{level}.3", width, 128)
        norm(f"encoder.prop{level}.4", 128)
    for level, (channels, out) in enumerate(((385, 512), (385, 256), (193, 128), (97, 64))):
        conv(f"decoder.clstm_list.{level}.Gates", channels, out)
    conv("decoder.conv_out", 16, 1)
    return shapes


def our_name(entry: str) -> str:
    """Where an entry of the released files belongs."""
    for pattern, name in (
        (r"base\.conv1\.", "trunk.stem.0."),
        (r"base\.bn1\.", "trunk.stem.1."),
        (r"base\.layer", "trunk.layer"),
        (r"encoder\.sk(\d)\.", lambda match: f"encoder.skips.{5 - int(match[1])}.0."),
        (r"encoder\.bn(\d)\.", lambda match: f"encoder.skips.{5 - int(match[1])}.1."),
        (r"encoder\.prop(\d)\.", lambda match: f"encoder.matching.{5 - int(match[1])}."),
        (r"clstm_list\.(\d)\.Gates", r"cells.\1.gates"),
        (r"conv_out", "predict"),
    ):
        entry = re.sub(pattern, name, entry)
    return entry


def light(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Zeros that take no room in a file."""
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def shapes() -> dict[str, tuple[int, ...]]:
    return released_shapes(torchvision.models.resnet50())


@pytest.fixture(scope="module")
def released(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The released state dict's names and shapes, with values that tell every entry apart."""
    generator = torch.Generator().manual_seed(0)

    def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
        if name.endswith("num_batches_tracked"):
            return torch.tensor(7)
        if len(shape) > 1:
            return torch.randn(shape, generator=generator) / shape[1:].numel() ** 0.5
        return 0.5 + torch.rand(shape, generator=generator)

    return {name: drawn(name, torch.Size(shape)) for name, shape in shapes.items()}


def split(state: dict[str, Tensor], prefix: str = "") -> list[dict[str, Tensor]]:
    """Encoder and decoder as files of their own."""
    return [
        {f"{prefix}{name.partition('.')[2]}": value for name, value in state.items() if name.startswith(part)}
        for part in ("encoder.", "decoder.")
    ]


def imported(*paths: Path, **settings: Any) -> DMMNet:
    with pytest.warns(
        UserWarning, match="no detector, so the proposals are random: give --model.detector.weights=coco"
    ):
        return DMMNet.from_official(*map(str, paths), **overlaid({"detector": TINY_DETECTOR}, settings))


def test_released_names_and_shapes(shapes: dict[str, tuple[int, ...]]) -> None:
    parts = [[name for name in shapes if name.startswith(part)] for part in ("encoder.", "decoder.")]
    assert [len(part) for part in parts] == [404, 10]
    model = build(DMMNet, {"detector": TINY_DETECTOR})
    own = {n: tuple(v.shape) for n, v in model.state_dict().items() if not n.startswith("detector.")}
    assert own == {our_name(name): shape for name, shape in shapes.items() if ".fc." not in name}


def test_released_weights_in_one_file(released: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "trainer.pt"
    torch.save({f"module.{name}": value for name, value in released.items()}, path)
    model = imported(path, detector={"count": 7})
    state = model.state_dict()
    for name, value in released.items():
        assert ".fc." in name or torch.equal(state[our_name(name)].contiguous(), value), name
    settings = flat(model.hparams)
    expected = {"trunk": "resnet50", "matching.matcher": "official", "norm": "frozen_batch", "detector.count": 7}
    assert {name: settings[name] for name in expected} == expected
    assert not model.training

    image = rand(1, 3, 64, 64, dtype=torch.float32)
    resnet = torchvision.models.resnet50().eval()
    resnet.load_state_dict({n.removeprefix("encoder.base."): v for n, v in released.items() if "encoder.base." in n})

    def normed(x: Tensor, name: str) -> Tensor:
        return F.batch_norm(
            x,
            *(released[f"encoder.{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")),
            eps=1e-5,
        )

    def convolved(x: Tensor, name: str) -> Tensor:
        return F.conv2d(x, released[f"encoder.{name}.weight"], released[f"encoder.{name}.bias"], padding=1)

    with torch.no_grad():
        skips, maps = model.encoder(image)
        x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(image))))
        for level, layer in ((2, resnet.layer1), (3, resnet.layer2), (4, resnet.layer3), (5, resnet.layer4)):
            x = layer(x)
            skip = normed(convolved(x, f"sk{level}"), f"bn{level}")
            inner = normed(convolved(x, f"prop{level}.0"), f"prop{level}.1").relu()
            matching = normed(convolved(inner, f"prop{level}.3"), f"prop{level}.4")
            torch.testing.assert_close(skips[5 - level], skip, rtol=1e-4, atol=1e-4 * float(skip.abs().max()))
            torch.testing.assert_close(maps[5 - level], matching, rtol=1e-4, atol=1e-4 * float(matching.abs().max()))


@pytest.mark.parametrize(("prefix", "order"), [("", 1), ("module.", -1)])
def test_released_weights_in_two_files(prefix: str, order: int, released: dict[str, Tensor], tmp_path: Path) -> None:
    paths = [tmp_path / "encoder.pt", tmp_path / "decoder.pt"]
    for path, state in zip(paths, split(released, prefix), strict=True):
        torch.save(state, path)
    state = imported(*paths[::order], matching={"pooling": "mask"}).state_dict()
    for name in ("encoder.base.layer3.5.conv2.weight", "encoder.bn2.running_var", "decoder.clstm_list.0.Gates.bias"):
        assert torch.equal(state[our_name(name)].contiguous(), released[name])


def test_a_deeper_trunk_is_recognised(tmp_path: Path) -> None:
    shapes = released_shapes(torchvision.models.resnet101())
    assert len([name for name in shapes if name.startswith("encoder.")]) == 710
    torch.save(light(shapes), tmp_path / "trainer.pt")
    model = imported(tmp_path / "trainer.pt")
    assert model.hparams["trunk"] == "resnet101"
    assert len(model.encoder.trunk.layer3) == 23


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: state.pop("encoder.prop4.1.bias"), "1 entries are missing.*encoder.prop4.1.bias is missing"),
        (lambda state: state.pop("encoder.base.fc.bias"), "1 entries are missing.*encoder.base.fc.bias is missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "1 are unexpected .extra is unexpected"),
        (
            lambda state: state.update({"decoder.clstm_list.3.Gates.weight": torch.zeros(64, 96, 3, 3)}),
            r"decoder.clstm_list.3.Gates.weight is \(64, 96, 3, 3\) instead of \(64, 97, 3, 3\)",
        ),
        (
            lambda state: [state.pop(name) for name in list(state) if name.startswith("decoder.")],
            "10 entries are missing.*encoder and its decoder in two files",
        ),
    ],
)
def test_released_weights_that_do_not_fit(
    spoil: Callable[[dict], Any], message: str, shapes: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    state = light(shapes)
    spoil(state)
    torch.save(state, tmp_path / "spoilt.pt")
    with pytest.raises(ValueError, match=f"spoilt.pt: not the released DMMNet.*{message}"):
        DMMNet.from_official(str(tmp_path / "spoilt.pt"), detector=TINY_DETECTOR)


def test_released_weights_that_are_something_else(shapes: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    def refused(*names: str) -> str:
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            DMMNet.from_official(*(str(tmp_path / name) for name in names), detector=TINY_DETECTOR)
        return str(caught.value)

    assert re.search("none.pt: no such file; give the released checkpoint of DMM-Net .trainer.pt.", refused("none.pt"))
    for name, state in zip(("encoder.pt", "decoder.pt"), split(light(shapes)), strict=True):
        torch.save(state, tmp_path / name)
    again = refused("encoder.pt", "encoder.pt")
    assert re.search(r"encoder.pt: encoder.base.conv1.weight is in another file too; give", again)
    assert "not the released DMMNet, 10 entries" in refused("encoder.pt")
    torch.save({"Encoder_M.conv1.weight": torch.zeros(2)}, tmp_path / "HMMN_weights.pth")
    other = refused("HMMN_weights.pth")
    assert "not the released DMMNet" in other
    assert "1 are unexpected" in other
    torch.save({"method": "DMMNet", "state_dict": {}}, tmp_path / "ours.ckpt")
    assert "a checkpoint of this project needs no import" in refused("ours.ckpt")
    torch.save({"model": {}, "iteration": 225_000}, tmp_path / "detector.pth")
    assert "not a flat state dict but a dict of model, iteration" in refused("detector.pth")
    whole = (tmp_path / "encoder.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    assert "cannot be read as a state dict" in refused("cut.pt")


def test_released_weights_become_a_checkpoint(shapes: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    """With a detector: it is in the checkpoint, so that whoever loads that needs neither file."""
    trainer, weights, checkpoint = tmp_path / "trainer.pt", tmp_path / "detector.pth", tmp_path / "new" / "last.ckpt"
    torch.save(light(shapes), trainer)
    detector = Detector(DetectorSettings(**TINY_DETECTOR), "frozen_batch").net.state_dict()
    torch.save(detector, weights)
    sizes = [f"--model.detector.{name}={value}" for name, value in TINY_DETECTOR.items()]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*proposals are random.*")
        official.main(["DMMNet", str(trainer), str(checkpoint), *sizes, f"--model.detector.weights={weights}"])
    trainer.unlink()
    weights.unlink()
    model = restore(read_checkpoint(str(checkpoint)), str(checkpoint), "DMMNet", {})
    assert model.hparams["matching"]["matcher"] == "official"
    assert model.hparams["detector"]["weights"] is None
    assert not model.state_dict()["decoder.predict.weight"].any()
    name = "backbone.body.layer2.0.conv1.weight"
    assert torch.equal(model.detector.net.state_dict()[name].contiguous(), detector[name])


def test_options_of_the_import_are_settings(tmp_path: Path) -> None:
    for option in ("--proposals=7", "--model.proposals"):
        with pytest.raises(ValueError, match=f"{option}: no such option; settings .* --model.name=value"):
            official.main(["DMMNet", "trainer.pt", str(tmp_path / "x.ckpt"), option])
    torch.save({"encoder.base.conv1.weight": torch.zeros(1)}, tmp_path / "trainer.pt")
    with pytest.raises(ValueError, match="DMMNet has no setting top_k"):
        official.main(["DMMNet", str(tmp_path / "trainer.pt"), str(tmp_path / "x.ckpt"), "--model.top_k=7"])
    with pytest.raises(ValueError, match=r"HMMN: .* positional argument"):
        official.main(["HMMN", "one.pth", "two.pth", str(tmp_path / "x.ckpt")])
    assert not (tmp_path / "x.ckpt").exists()
