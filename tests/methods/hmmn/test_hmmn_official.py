"""HMMN with the authors' weights: the numbers of the released network, and files that do not fit."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SHARED
from tiny_runs import commands, started, tiny, write_tiny_demo
from torch import Tensor

import lightning_vos
from lightning_vos import HMMN, HMMNSegmenter, official
from lightning_vos.functional import one_hot
from lightning_vos.methods.hmmn.fine import to_map
from lightning_vos.methods.hmmn.memory import KernelSettings
from lightning_vos.methods.hmmn.official import official_state, sources
from lightning_vos.released import read_released

pytestmark = pytest.mark.slow

GOLDEN = SHARED / "golden" / "hmmn"


def drawn(name: str, shape: tuple[int, ...]) -> Any:
    rng = np.random.default_rng([7, zlib.crc32(name.encode())])
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith((".mean", ".std")):
        return np.reshape([0.485, 0.456, 0.406] if name.endswith("mean") else [0.229, 0.224, 0.225], shape)
    if name.endswith("running_mean"):
        return rng.normal(0, 0.05, shape)
    if name.endswith("running_var"):
        return rng.uniform(0.8, 1.2, shape)
    if len(shape) == 4:
        return rng.normal(0, math.sqrt((1.0 if "res" in name else 1.6) / math.prod(shape[1:])), shape)
    return rng.uniform(0.5, 0.9, shape) if name.endswith("weight") else rng.normal(0, 0.05, shape)


@pytest.fixture(scope="module")
def released() -> dict[str, Tensor]:
    """The released state dict's names and shapes, with values drawn as the golden clip's were."""
    if not GOLDEN.is_dir():
        pytest.skip("needs the golden results of HMMN")
    shapes = json.loads((GOLDEN / "state_dict_shapes.json").read_text())
    return {f"module.{name}": torch.from_numpy(drawn(name, tuple(shape))) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def released_file(released: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("released") / "HMMN_weights.pth"
    torch.save(released, path)
    return path


@pytest.fixture(scope="module")
def light(released: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same names and shapes in a few bytes: all zeros but what the import looks at."""
    looked_at = (".mean", ".std", "Encoder_M.conv1_o.weight")
    return {
        name: value.float() if name.endswith(looked_at) else torch.zeros(()).expand(value.shape)
        for name, value in released.items()
    }


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    with np.load(GOLDEN / "clip.npz") as file:
        arrays = dict(file)
    frames = torch.from_numpy(arrays["frames"]).permute(0, 3, 1, 2)
    mask = one_hot(torch.from_numpy(arrays["first_mask"]).unsqueeze(0), 2)
    logits = torch.from_numpy(arrays["logits"])
    return {"frames": frames, "mask": mask, "logits": logits, "every": int(arrays["memorize_every"])}


def streamed(model: HMMNSegmenter, golden: dict[str, Any], length: int) -> Tensor:
    """Logits of the frames after the first: ``(length - 1, K+1, H, W)``."""
    frames = golden["frames"]
    with model.sequence():
        model.step(frames[:1], golden["mask"])
        return torch.stack([model.step(frames[t : t + 1])[0] for t in range(1, length)])


def in_float64(path: Path, **settings: Any) -> HMMN:
    """The network built in float64, so that the weights are not rounded on their way in."""
    torch.set_default_dtype(torch.float64)
    try:
        return HMMN.from_official(str(path), **settings)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
def test_golden_clip(dtype: torch.dtype, tolerance: float, released_file: Path, golden: dict[str, Any]) -> None:
    model = in_float64(released_file, memory_every=golden["every"]).to(dtype)
    out = streamed(model, golden, len(golden["frames"]))
    torch.testing.assert_close(out, golden["logits"].to(dtype), rtol=0, atol=tolerance)
    if dtype == torch.float64:
        assert torch.equal(out.argmax(1), golden["logits"].argmax(1))


def test_golden_clip_tells_the_hops_apart(released_file: Path, golden: dict[str, Any]) -> None:
    """The double hop of the released code is in the golden numbers: the paper's single one must differ from them."""
    model = in_float64(released_file, kernel={"hop": "paper"}, memory_every=2)
    error = (streamed(model, golden, 4) - golden["logits"][:3]).abs().amax(dim=(1, 2, 3))
    assert error[0] < 1e-6  # one memory frame: nothing to hop twice
    assert error[1:].min() > 1e-5


def test_15_shapes_and_17_names(released: dict[str, Tensor]) -> None:
    model = HMMN().eval()
    own = [name for entry in model.state_dict() for name in sources(entry)]
    means = [f"Encoder_{encoder}.{name}" for encoder in "MQ" for name in ("mean", "std")]
    assert sorted([*own, *means]) == sorted(name.removeprefix("module.") for name in released)
    assert len(released) == 572
    with torch.inference_mode(), model.sequence():
        mask = torch.zeros(1, 2, 160, 176)
        mask[:, 0, :50, :50] = mask[:, 1, 60:, 60:] = 1
        frame = torch.zeros(1, 3, 160, 176, dtype=torch.uint8)
        assert model.step(frame, mask).shape == (1, 3, 160, 176)
        assert model.bank.keys.shape == (1, 1, 2, 110, 128)
        assert model.bank.values.shape == (1, 1, 2, 110, 512)
        assert to_map(model.fine8.keys[:, :, 1]).shape == (1, 2, 128, 20, 22)
        assert to_map(model.fine8.values[:, :, 1]).shape == (1, 2, 256, 20, 22)
        assert to_map(model.fine4.keys[:, :, 1]).shape == (1, 2, 64, 40, 44)
        assert to_map(model.fine4.values[:, :, 1]).shape == (1, 2, 128, 40, 44)
        assert model.step(frame).shape == (1, 3, 160, 176)


@pytest.mark.parametrize("cls", [HMMN, HMMNSegmenter])
def test_released_weights_with_and_without_prefix(
    cls: type[HMMNSegmenter], light: dict[str, Tensor], tmp_path: Path
) -> None:
    prefix = "" if cls is HMMN else "module."
    torch.save({name.replace("module.", prefix): value for name, value in light.items()}, tmp_path / "weights.pth")
    model = cls.from_official(str(tmp_path / "weights.pth"), memory_every=7)
    assert type(model) is cls
    assert model.bank.kernel == KernelSettings(hop="official")
    assert model.memory_every == 7
    assert not model.training
    assert torch.equal(model.memory_encoder.stem[0].weight[:, 4:5], light["module.Encoder_M.conv1_o.weight"])


def test_options_of_the_import_reach_into_parts(light: dict[str, Tensor], tmp_path: Path) -> None:
    """What is not named stays: the hop of the released code."""
    torch.save(light, tmp_path / "weights.pth")
    files = [str(tmp_path / "weights.pth"), str(tmp_path / "last.ckpt")]
    for option, message in (
        ("--model.kernel.hopp=paper", "KernelSettings has no setting hopp.* choose from form, hop, in_training"),
        ("--model.kernels.hop=paper", "HMMN has no setting kernels"),
        ("--model.kernel=none", r"kernel=none: a part .*; give kernel\.form, kernel\.hop"),
        ("--model.kernel.hop=twice", "hop=twice: choose from paper, official"),
    ):
        with pytest.raises(ValueError, match=message):
            official.main(["HMMN", *files, option])
        assert not (tmp_path / "last.ckpt").exists()
    official.main(["HMMN", *files, "--model.kernel.form=global", "--model.fine.reads=1", "--model.fine.top_k=8"])
    model = lightning_vos.load(files[1])
    assert isinstance(model, HMMNSegmenter)
    assert model.bank.kernel == KernelSettings("global", hop="official")
    assert (model.fine.reads, model.fine.top_k, model.fine.dropout) == (1, 8, 0.5)


def test_a_method_without_released_weights_says_so() -> None:
    for name in ("REMN", "HMMNSegmenter"):  # the second is a network without training
        with pytest.raises(ValueError, match=f"{name}: no released weights make a checkpoint of it"):
            official.main([name, "one.pth", "last.ckpt"])
    with pytest.raises(ValueError, match="belongs to STM, which is none of the installed methods"):
        official.main(["STM", "one.pth", "last.ckpt"])


@pytest.fixture(scope="module")
def own() -> dict[str, Tensor]:
    return HMMNSegmenter().state_dict()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: state.pop("module.KV_Q_r3.Key.bias"), "1 entries are missing.*KV_Q_r3.Key.bias is missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "1 are unexpected .extra is unexpected"),
        (
            lambda state: state.update({"module.Decoder.pred2.bias": torch.zeros(1)}),
            r"Decoder.pred2.bias \(1,\) cannot make \(2,\)",
        ),
        (
            lambda state: state.update({"module.Encoder_M.conv1_m.weight": torch.zeros(64, 1, 5, 5)}),
            r"conv1_m.weight \(64, 1, 5, 5\) and .* cannot make \(64, 5, 7, 7\)",
        ),
        (lambda state: state.update({"module.Encoder_M.mean": torch.ones(5)}), "Encoder_M.mean is not ImageNet's"),
        (
            lambda state: state.update({"module.Encoder_M.std": torch.ones(1, 3, 1, 1)}),
            "Encoder_M.std is not ImageNet's",
        ),
    ],
)
def test_released_weights_that_do_not_fit(
    spoil: Any, message: str, light: dict[str, Tensor], own: dict[str, Tensor], tmp_path: Path
) -> None:
    state = dict(light)
    spoil(state)
    path = str(tmp_path / "spoilt.pth")
    torch.save(state, path)
    with pytest.raises(ValueError, match=f"spoilt.pth: not the released HMMN.*{message}"):
        official_state(read_released(path, "the released file"), own, path)


def test_released_weights_become_a_checkpoint_that_evaluation_takes(released_file: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "new" / "last.ckpt"
    official.main(["HMMN", str(released_file), str(checkpoint)])
    (command,) = commands("eval", "METHOD=hmmn", f"CKPT={checkpoint}")
    data = write_tiny_demo(tmp_path / "data")
    cli, printed = started([*command, *tiny(data, tmp_path / "eval"), "--trainer.limit_val_batches=1"])
    assert cli.model.bank.kernel.hop == "official"
    assert cli.model.memory_every == 5
    weight = torch.load(released_file, weights_only=True)["module.Decoder.convFM.weight"].float()
    torch.testing.assert_close(cli.model.decoder.compress.weight.contiguous(), weight)
    assert printed.rstrip().splitlines()[-1].startswith("J&F ")


def test_nothing_is_written_for_weights_that_do_not_fit(tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="not the released HMMN"):
        official.main(["HMMN", str(tmp_path / "other.pth"), str(tmp_path / "out" / "last.ckpt")])
    assert not (tmp_path / "out").exists()


def test_released_weights_that_are_something_else(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        HMMN.from_official(str(tmp_path / "nothing.pth"))
    torch.save({"state_dict": {}, "epoch": 1}, tmp_path / "trainer.pth")
    with pytest.raises(ValueError, match="not a flat state dict but a dict of state_dict, epoch"):
        HMMN.from_official(str(tmp_path / "trainer.pth"))
    torch.save({"method": "HMMN", "state_dict": {}}, tmp_path / "ours.ckpt")
    with pytest.raises(ValueError, match="a checkpoint of this project needs no import"):
        HMMN.from_official(str(tmp_path / "ours.ckpt"))
    torch.save(torch.zeros(2), tmp_path / "tensor.pth")
    with pytest.raises(ValueError, match="not a flat state dict but Tensor"):
        HMMN.from_official(str(tmp_path / "tensor.pth"))
    torch.save({7: torch.zeros(2)}, tmp_path / "numbers.pth")
    with pytest.raises(ValueError, match="not a flat state dict but a dict of 7"):
        HMMN.from_official(str(tmp_path / "numbers.pth"))
    with pytest.raises(TypeError, match="positional"):
        HMMN.from_official("one.pth", "two.pth")  # type: ignore[misc]
    torch.save({"layer.weight": torch.zeros(100_000)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="not the released HMMN"):
        HMMN.from_official(str(tmp_path / "other.pth"))
    (tmp_path / "cut.pth").write_bytes((tmp_path / "other.pth").read_bytes()[:200_000])
    with pytest.raises(ValueError, match="cannot be read as a state dict"):
        HMMN.from_official(str(tmp_path / "cut.pth"))
