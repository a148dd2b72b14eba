"""An exported graph over a whole clip is the recursion of PyTorch; what cannot be exported is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import small, squares
from torch import Tensor

from lightning_vos.functional import one_hot

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

import onnxruntime

from lightning_vos.export import frame_step, main, traced
from lightning_vos.methods.siam_dyn.components import labelled
from lightning_vos.methods.siam_dyn.tracking import largest_components

SIZE = (40, 64)  # 40 is padded by REMN
FRAMES = 16


def session(model: Any, path: Path) -> onnxruntime.InferenceSession:
    step, translations = frame_step(model, SIZE, "it")
    traced(step, translations).save(path, external_data=False)
    return onnxruntime.InferenceSession(path)


def started(graph: onnxruntime.InferenceSession, objects: int) -> dict[str, Any]:
    """A state of zeros, from what the graph itself says of its inputs."""
    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}
    sizes = {"objects": objects, "slots": 0}
    return {i.name: np.zeros([sizes.get(n, n) for n in i.shape], kinds[i.type]) for i in graph.get_inputs()[2:]}


def check_same(model: Any, graph: onnxruntime.InferenceSession, frames: Tensor, masks: dict[int, Tensor]) -> list[int]:
    """Run both over a clip and compare every frame; stored frames of the bank after each."""
    objects = masks[0].shape[1]
    state, nothing, stored = started(graph, objects), np.zeros((1, objects, *SIZE), np.float32), []
    with model.sequence():
        for t in range(frames.shape[1]):
            expected = model.step(frames[:, t], masks.get(t))
            mask = masks[t].numpy() if t in masks else nothing
            found, *after = graph.run(None, {"frame": frames[:, t].numpy(), "mask": mask, **state})
            state = dict(zip(state, after, strict=True))
            if "keys" in state:
                torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)
            # positions of SiamDyn go from frame to frame, and what rounding does to them with them
            assert (torch.from_numpy(found).softmax(dim=1) - expected.softmax(dim=1)).abs().max() < 1e-3
            first, second = expected.topk(2, dim=1).values.unbind(dim=1)
            clear = first - second > 1e-2  # an untrained network is in doubt about some pixels
            assert torch.equal(torch.from_numpy(found).argmax(dim=1)[clear], expected.argmax(dim=1)[clear])
            stored.append(state["keys"].shape[1] if "keys" in state else 0)
            if "keys" in state:
                assert state["frame_ids"][0].tolist() == model.bank.frame_ids
    return stored


def clip(objects: int, seed: int) -> tuple[Tensor, Tensor]:
    frames, labels = squares(1, FRAMES, objects, SIZE, seed)
    return frames, one_hot(labels, objects)


def test_remn_is_the_same_over_a_clip(tmp_path: Path) -> None:
    model = small("REMN", channels_last=False)
    with torch.no_grad():
        model.bank.gate.last.bias.copy_(torch.tensor([0.0, 3.0, 0.0]))  # a gate that removes
    graph = session(model, tmp_path / "remn.onnx")
    frames, masks = clip(2, seed=1)
    stored = check_same(model, graph, frames, {0: masks[:, 0]})
    assert max(stored) > 2
    assert model.bank.decisions[1] > 0  # the gate has removed some

    frames, masks = clip(3, seed=2)  # a third object comes later, and the first is corrected
    first, later = masks[:, 0].clone(), masks[:, 6].clone()
    first[:, 2], later[:, 1] = 0, 0
    check_same(model, graph, frames, {0: first, 6: later})
    frames, masks = clip(1, seed=3)
    check_same(model, graph, frames, {0: masks[:, 0]})


def test_siam_dyn_is_the_same_over_a_clip(tmp_path: Path) -> None:
    model = small("SiamDyn", channels_last=False, mask_input=True, template_size=65, search_size=65)
    graph = session(model, tmp_path / "siam_dyn.onnx")
    frames, masks = clip(2, seed=1)
    check_same(model, graph, frames, {0: masks[:, 0]})
    frames, masks = clip(3, seed=2)
    first, later = masks[:, 0].clone(), masks[:, 6].clone()
    first[:, 2], later[:, 1] = 0, 0
    check_same(model, graph, frames, {0: first, 6: later})
    frames, masks = clip(1, seed=3)
    check_same(model, graph, frames, {0: masks[:, 0]})


@pytest.mark.parametrize("share", [0, 0.1, 0.4, 0.5, 0.9, 1])
def test_largest_parts_in_a_graph(share: float) -> None:
    graph = onnxruntime.InferenceSession(labelled.to_model_proto().SerializeToString())
    masks = np.random.default_rng(0).random((5, 33, 31)) < share
    found = graph.run(None, {graph.get_inputs()[0].name: masks})[0]
    assert np.array_equal(found, largest_components(torch.from_numpy(masks)).numpy())


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        ("HMMN", {}, "cannot be exported"),
        ("DMMNet", {}, "cannot be exported"),
        ("REMN", {"capacity": None}, "give --capacity"),
        ("REMN", {"gate__ranking": "random"}, "gate.ranking=random"),
    ],
)
def test_what_cannot_be_exported_is_refused(method: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        frame_step(small(method, **changes), SIZE, "last.ckpt")
    assert str(caught.value).startswith("last.ckpt: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["x.ckpt", "x.onnx"], "no such file"),
        (["x.ckpt", "x.bin"], "give one like x.onnx"),
        (["x.ckpt", "x.onnx", "--size=0x4"], "not a size"),
    ],
)
def test_mistakes_are_named(words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match=said):
        main(words)
    assert not list(tmp_path.iterdir())
