"""DMM-Net's detector: its losses, its training, its settings and its pretrained weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small, squares
from dmm_scenes import (
    SIZE,
    close,
    first_stage,
    trained,
)
from torch import Tensor
from torchvision.models.detection import maskrcnn_resnet50_fpn

from lightning_vos.methods.dmm_net.detector import Detector, DetectorSettings
from lightning_vos.methods.dmm_net.detector_weights import OF_CLASSES

TINY_DETECTOR: dict[str, Any] = {"trunk": "resnet10", "pyramid_dim": 16, "box_dim": 16, "mask_layers": 1}


def pictures() -> tuple[Tensor, Tensor]:
    frames, labels = squares(3, 1, 2, size=SIZE)
    labels[2] = 0  # nothing on it
    return frames[:, 0], labels[:, 0]


def test_detector_losses_depend_on_the_seeds_and_on_nothing_else() -> None:
    model = first_stage().train()
    frames, labels = pictures()
    image = model.normalize(frames)

    def losses(*seeds: int) -> dict[str, float]:
        return {name: value.item() for name, value in model.detector.losses(image, labels, seeds).items()}

    first = losses(1, 2, 3)
    torch.rand(17)
    before = torch.random.get_rng_state()
    assert losses(1, 2, 3) == first
    assert torch.equal(torch.random.get_rng_state(), before)
    assert losses(4, 5, 6) != first
    assert set(first) == {"objectness", "rpn_box_reg", "classifier", "box_reg", "mask"}


def test_detector_losses_are_the_mean_over_the_pictures() -> None:
    model = first_stage().double().train()
    frames, labels = pictures()
    image = model.normalize(frames)
    together = model.detector.losses(image, labels, [1, 2, 3])
    alone = [model.detector.losses(image[b : b + 1], labels[b : b + 1], [b + 1]) for b in range(3)]
    for name, value in together.items():
        close(value, torch.stack([losses[name] for losses in alone]).mean(), atol=1e-9)
    assert alone[2]["mask"].item() == 0
    assert alone[2]["objectness"].item() > 0


def test_detector_training_step_reaches_every_parameter() -> None:
    for picture in (slice(0, 2), slice(2, 3)):  # with objects; an empty one
        frames, labels = (tensor[picture].unsqueeze(1) for tensor in pictures())
        model = first_stage()
        loss = trained(model, frames, labels, 2)
        loss.backward()
        assert torch.isfinite(loss)
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == name.startswith("detector."), name
        assert all(torch.isfinite(p.grad).all() for p in model.detector.parameters())


def test_detector_sees_resized_frames() -> None:
    """Boxes of a detector that looks at half the size are in pixels of the frame."""
    frames, _ = pictures()
    model = small("DMMNet", detector__short_side=32)
    with torch.inference_mode():
        image = model.normalize(frames)
        assert model.detector.resize(image).shape[-2:] == (32, 48)
        found = model.detector(image)
    assert found.valid.any()
    assert found.boxes[..., 2].max() > 48
    for name, shape in (("boxes", (3, 8, 4)), ("masks", (3, 8, 28, 28)), ("tight", (3, 8, 4)), ("scores", (3, 8))):
        assert getattr(found, name).shape == shape
        assert not getattr(found, name)[~found.valid].any()
    assert (found.scores.diff(dim=1) <= 0).all()


def test_bad_settings_are_refused() -> None:
    for name, value, message in (
        ("matching__matcher", "best", "matcher=best: choose from paper, official, exact, hungarian"),
        ("matching__pooling", "all", "pooling=all: choose from box, mask"),
        ("detector__trunk", "vgg", "trunk=vgg: there is none of that name; use resnet10, resnet18"),
        ("decoder__masks", ["next"], "decoder.masks=['next']: choose from previous, first, matched"),
        ("decoder__masks", [], "decoder.masks=[]: choose from previous, first, matched"),
        ("detector__count", 0, "detector.count=0: must be at least 1"),
        ("detector__detections", 1, "detector.detections=1: must be at least detector.count=8"),
        ("detector__samples", 0, "detector.samples=0: must be at least 1"),
        ("matching__score_weight", -1, "matching.score_weight=-1: must be at least 0"),
        ("matching__overlap_weight", 1.5, "matching.overlap_weight=1.5: must be from 0 to 1"),
        ("detector__overlap", -0.1, "detector.overlap=-0.1: must be from 0 to 1"),
        ("trunk_from_detector", True, "trunk_from_detector: trunk=resnet18 is not detector.trunk=resnet10"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            small("DMMNet", **{"trunk": "resnet18" if name == "trunk_from_detector" else "resnet10", name: value})


def test_detector_of_torchvision_loads_but_for_its_classes(tmp_path: Path) -> None:
    torch.manual_seed(1)
    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    theirs = {name: value for name, value in theirs.items() if not name.endswith("num_batches_tracked")}
    torch.save(theirs, tmp_path / "detector.pth")
    for their_name, our_name in (("conv1", "stem.0"), ("bn1", "stem.1")):
        body = "backbone.body."
        theirs = {name.replace(f"{body}{their_name}.", f"{body}{our_name}."): value for name, value in theirs.items()}
    torch.manual_seed(2)
    ours = Detector(DetectorSettings(weights=str(tmp_path / "detector.pth"))).net.state_dict()
    assert {name for name in ours if not name.endswith("num_batches_tracked")} == set(theirs)
    for name, value in theirs.items():
        if name.startswith(OF_CLASSES):
            assert len(ours[name]) < len(value)
        else:
            assert torch.equal(ours[name], value), name


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda state: state.pop("rpn.head.bbox_pred.bias"),
            "1 entries do not fit (rpn.head.bbox_pred.bias is missing",
        ),
        (lambda state: state.update(extra=torch.zeros(1)), "1 entries do not fit (extra is unexpected"),
        (
            lambda state: state.update({"roi_heads.box_head.fc6.bias": torch.zeros(7)}),
            "1 entries do not fit (roi_heads.box_head.fc6.bias is (7,) instead of (16,)",
        ),
    ],
)
def test_detector_weights_that_do_not_fit(spoil: Callable[[dict], Any], message: str, tmp_path: Path) -> None:
    state = Detector(DetectorSettings(**TINY_DETECTOR), "group").net.state_dict()
    spoil(state)
    path = tmp_path / "detector.pth"
    torch.save(state, path)
    with pytest.raises(ValueError, match=re.escape(f"detector.weights={path}: {message}")):
        Detector(DetectorSettings(weights=str(path), **TINY_DETECTOR), "group")


def test_detector_weights_that_are_something_else(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("nothing")
    with pytest.raises(ValueError, match=r"text.pth: not a state dict that torch.save has written"):
        Detector(DetectorSettings(weights=str(tmp_path / "text.pth"), **TINY_DETECTOR), "group")
    with pytest.raises(ValueError, match=r"none.pth: no such file; give coco, the path of a state dict, or null"):
        Detector(DetectorSettings(weights=str(tmp_path / "none.pth"), **TINY_DETECTOR), "group")
