"""The file of a released network: half precision that changes little, and nothing wrong with it goes unnoticed."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import METHODS, small, squares
from fuzz import signed
from network_files import CARD, altered, checkpoint_of, header_of, write_network
from safetensors import torch as safetensors
from torch import Tensor

from lightning_vos import load
from lightning_vos.checkpoint import load_weights, read_checkpoint, restore
from lightning_vos.functional import one_hot
from lightning_vos.network_file import ROUNDING, decoded, encoded, halved
from lightning_vos.segmenter import Segmenter

FRAMES = 4
BOUND = 1e-3  # of the probabilities of a frame, by the rounding of the weights


def probabilities(network: Segmenter) -> Tensor:
    """``(T, B, K+1, H, W)`` of a clip with two objects; those of the frame with the given masks come first."""
    frames, labels = squares(1, FRAMES, 2)
    with network.sequence():
        first = network.step(frames[:, 0], one_hot(labels[:, 0], 2))
        return torch.stack([first, *(network.step(frames[:, t]) for t in range(1, FRAMES))]).softmax(2)


@pytest.mark.parametrize("method", METHODS)
def test_predictions_are_those_of_the_checkpoint_within_the_rounding(method: str, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(small(method))
    trained = restore(checkpoint, "trained", checkpoint["network"], {})
    loaded = load(str(write_network(tmp_path / "net.safetensors", method)))
    assert type(loaded) is type(trained)
    assert not loaded.training
    assert {value.dtype for value in loaded.state_dict().values() if value.is_floating_point()} == {torch.float32}
    expected, found = probabilities(trained), probabilities(loaded)
    # the next frame changes little; later a network with random weights may follow something else
    assert (found[1] - expected[1]).abs().max() < BOUND
    # and nothing but the rounding differs
    trained.load_state_dict(halved(checkpoint["state_dict"]))
    assert torch.equal(found, probabilities(trained))


def test_a_checkpoint_and_its_file_hold_the_same(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(small("REMN"))
    read = read_checkpoint(str(write_network(tmp_path / "net.safetensors", "REMN")))
    for name in ("method", "network", "hyper_parameters", "global_step"):
        assert read[name] == checkpoint[name]
    assert read["card"] == CARD
    assert "lr" in read["hyper_parameters"]
    assert "lr" not in read["settings"]  # which the network alone does not know
    for name, value in checkpoint["state_dict"].items():
        assert (read["state_dict"][name] - value).norm() <= ROUNDING * value.norm()


@pytest.mark.parametrize(
    ("value", "half"),
    [
        (torch.tensor([1.0, -3.1415, 6e4]), True),
        (torch.zeros(3), True),
        (torch.empty(0), True),
        (torch.tensor([1.0, 1e-9]), True),  # what is lost is nothing beside the other
        (torch.tensor([1.0, 7e4]), False),  # too large
        (torch.tensor([1.23e-6, 4.56e-6]), False),  # too small
        (torch.tensor([1.0, 0.5], dtype=torch.float64), True),
        (torch.tensor([1.0, 0.5], dtype=torch.bfloat16), True),
        (torch.tensor(2**40), False),
        (torch.tensor([True]), False),
    ],
)
def test_what_half_precision_does_not_hold_stays_as_it_is(value: Tensor, half: bool) -> None:
    (found,) = halved({"x": value}).values()
    assert found.dtype == (torch.half if half else value.dtype)
    assert (found.double() - value.double()).norm() <= ROUNDING * value.double().norm()
    (kept,) = halved({"running_var": value}, {"running_var"}).values()
    assert kept.dtype == value.dtype
    assert torch.equal(kept, value)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("network") / "net.safetensors", "SiamDyn")


def refused(path: Path) -> str:
    with pytest.raises(ValueError, match=r"\S") as error:
        read_checkpoint(str(path))
    line = str(error.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    return line


def test_a_flipped_bit_is_found_wherever_it_is(network: Path, tmp_path: Path) -> None:
    few = dict(list(safetensors.load_file(network).items())[:6])  # so that reading it 200 times is a matter of a second
    content, rng = signed(header_of(network), few), random.Random(0)
    (tmp_path / "x.safetensors").write_bytes(content)
    assert read_checkpoint(str(tmp_path / "x.safetensors"))["state_dict"].keys() == few.keys()
    header = 8 + int.from_bytes(content[:8], "little")
    everywhere = [rng.randrange(len(content)) for _ in range(100)]
    for place in [*range(8), *(rng.randrange(header) for _ in range(60)), *everywhere, len(content) - 1]:
        changed = bytearray(content)
        changed[place] ^= 1 << rng.randrange(8)
        (tmp_path / "x.safetensors").write_bytes(changed)
        refused(tmp_path / "x.safetensors")


def test_a_longer_header_is_found(network: Path, tmp_path: Path) -> None:
    """Spaces behind the header mean nothing to its reader."""
    content = network.read_bytes()
    padded = bytearray(content)
    length = int.from_bytes(content[:8], "little")
    padded[:8] = (length + 8).to_bytes(8, "little")
    padded[8 + length : 8 + length] = b" " * 8
    (tmp_path / "x.safetensors").write_bytes(padded)
    assert "its checksum is not that of its content" in refused(tmp_path / "x.safetensors")


@pytest.mark.parametrize("share", [0, 1e-6, 1e-3, 0.5, 0.999999])
def test_a_file_that_was_cut_or_has_more(share: float, network: Path, tmp_path: Path) -> None:
    content = network.read_bytes()
    (tmp_path / "x.safetensors").write_bytes(content[: int(share * len(content))])
    refused(tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes(content + content[: 1 + int(share * 100)])
    refused(tmp_path / "x.safetensors")


def test_what_is_something_else(network: Path, tmp_path: Path) -> None:
    other = tmp_path / "x.safetensors"
    for metadata in (None, {"format": "pt"}):
        safetensors.save_file({"weight": torch.zeros(3)}, other, metadata)
        assert "its header does not say which network it is" in refused(other)
    torch.save({"state_dict": {}}, other)
    assert "cannot be read as a network" in refused(other)
    other.rename(tmp_path / "x.ckpt")
    (tmp_path / "x.ckpt").write_bytes(network.read_bytes())
    assert "cannot be read as a checkpoint" in refused(tmp_path / "x.ckpt")


@pytest.mark.parametrize(
    ("header", "line"),
    [
        ({"format": 2}, "of format '2', this version reads 1; install a later one"),
        ({"settings": []}, "'settings' in its header is not of the right kind"),
        ({"step": True}, "'step' in its header is not of the right kind"),
        ({"method": "a\nb"}, "'method' in it is not of the right kind"),
        ({"network": "STM"}, "belongs to STM, which is none of the installed methods"),
        ({"settings": {"colour": 3}}, "SiamDynSegmenter has no setting colour: mistyped, or saved by another version"),
        (
            {"settings": {"head": {"colour": 3}}},
            "HeadSettings has no setting colour: mistyped, or saved by another version",
        ),
        ({"settings": {"dim": 24}}, "entries do not fit"),
        ({"settings": {"dim": "many"}}, "x.safetensors: "),
    ],
)
def test_a_header_that_does_not_fit(header: dict, line: str, network: Path, tmp_path: Path) -> None:
    if "settings" in header and isinstance(header["settings"], dict):
        header = {"settings": {**decoded(network)["settings"], **header["settings"]}}
    path = altered(network, tmp_path / "x.safetensors", header)
    with pytest.raises(ValueError, match=r"\S") as error:
        load(str(path))
    assert str(error.value).startswith(str(path))
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda weight: torch.full_like(weight, torch.inf), "are not finite"),
        (lambda weight: weight * torch.nan, "are not finite"),
        (lambda weight: weight[:1], "1 entries do not fit"),
        (lambda weight: weight.flatten(), "1 entries do not fit"),
    ],
)
def test_weights_that_will_not_do(change: Callable[[Tensor], Tensor], line: str, network: Path, tmp_path: Path) -> None:
    weights = safetensors.load_file(network)
    name = next(name for name, value in weights.items() if value.ndim == 4)
    changed = {name.replace(".", "__"): change(weights[name]).contiguous()}
    with pytest.raises(ValueError, match=line):
        load(str(altered(network, tmp_path / "x.safetensors", **changed)))


def test_weights_of_another_method_and_what_cannot_be_written(network: Path) -> None:
    model = small("REMN")
    with pytest.raises(ValueError, match=r"--model.weights=\S+ belongs to SiamDyn, not to REMN"):
        load_weights(model, str(network))
    checkpoint = checkpoint_of(model)
    for value in (float("nan"), object()):
        checkpoint["hyper_parameters"] |= {"top_k": value}
        with pytest.raises(ValueError, match=r"one.ckpt: its settings are no plain values"):
            encoded(checkpoint, CARD, (), "one.ckpt")
    with pytest.raises(ValueError, match=r"one.ckpt belongs to STM, which is none"):
        encoded({**checkpoint, "network": "STM"}, CARD, (), "one.ckpt")
