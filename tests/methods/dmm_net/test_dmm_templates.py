"""DMM-Net over frames: templates, objects that come later, few proposals, what is remembered."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import small, squares
from dmm_scenes import (
    MATCHERS,
    SIZE,
    close,
    rand,
    stream,
    trained,
)
from torch import Tensor

from lightning_vos.functional import one_hot, tight_boxes
from lightning_vos.methods.dmm_net.boxes import pool
from lightning_vos.methods.dmm_net.matcher import Matcher, MatchingSettings


@pytest.mark.parametrize(
    ("objects", "settings"),
    [(2, {"unlikely": True}), (5, {"detector__count": 2}), (8, {}), (1, {"detector__count": 1})],
    ids=["no proposal", "fewer proposals than templates", "many objects", "one and one"],
)
def test_few_proposals_and_many_objects(objects: int, settings: dict[str, Any]) -> None:
    frames, labels = squares(2, 3, objects, size=SIZE)
    labels[1] = torch.where(labels[1] == objects, 0, labels[1])  # maybe an object that is never there
    unlikely = settings.pop("unlikely", False)
    model = small("DMMNet", **settings)
    if unlikely:
        model.detector.net.roi_heads.score_thresh = 1.1
    for matcher in MATCHERS:
        model.matcher = Matcher(MatchingSettings(matcher)).eval()
        out = stream(model, frames, {0: one_hot(labels[:, 0], objects)})
        assert out.shape == (3, 2, objects + 1, *SIZE)
        assert torch.isfinite(out).all()
    if unlikely:
        assert not model.detector(model.normalize(frames[:, 0])).valid.any()
    model.matcher = Matcher(MatchingSettings("official"))  # the contract of all methods covers the default
    loss = trained(model, frames, labels, objects)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


def test_an_object_that_is_empty_at_first_and_comes_later() -> None:
    """Until then the others are followed as if its slot did not exist, also by a decoder that goes over objects."""
    frames, labels = squares(1, 6, 2, size=SIZE)
    masks = one_hot(labels[:, 0], 2)
    first, late = masks.clone(), masks.clone()
    first[:, 0] = late[:, 1] = 0
    model = small("DMMNet").double()
    out = stream(model, frames, {0: first, 3: late})
    alone = stream(model, frames, {0: first[:, 1:]})
    assert torch.isfinite(out).all()
    close(out[:3].softmax(2)[:, :, [0, 2]], alone[:3].softmax(2), atol=1e-5)
    assert (out[:3].softmax(2)[:, :, 1] < 1e-6).all()
    assert (out[3].argmax(1)[masks[:, 0] > 0] == 1).all()
    assert (out[4:].softmax(2)[:, :, 1] > 1e-3).any()


def test_a_template_is_made_on_the_first_frame_of_its_object_and_stays() -> None:
    frames, labels = squares(1, 6, 2, size=SIZE)
    masks = one_hot(labels[:, 3], 2)
    masks[:, 0] = 0
    model = small("DMMNet")

    def pooled(t: int, mask: Tensor) -> Tensor:
        with torch.inference_mode():
            features = model.encode(model.normalize(frames[:, t]))
            return pool(model.query(features).maps, tight_boxes(mask > 0)[0])

    given = one_hot(labels[:, 0], 1)
    with model.sequence():
        model.step(frames[:, 0], given)
        templates = model.state
        assert all(state.any() for state in templates.hidden)  # of the run with the given mask
        early = templates.features.clone()
        close(early, pooled(0, given), atol=1e-5)
        for t in (1, 2):
            model.step(frames[:, t])
            assert torch.equal(templates.features, early)
        model.step(frames[:, 3], masks)
        both = templates.features.clone()
        assert torch.equal(both[:, :1], early)
        close(both[:, 1:], pooled(3, masks)[:, 1:], atol=1e-5)
        assert all(state[:, 0].any() and not state[:, 1].any() for state in templates.hidden)
        assert torch.equal(templates.first, torch.cat([given, masks[:, 1:]], dim=1))
        for t in (4, 5):
            model.step(frames[:, t])
        assert torch.equal(templates.features, both)
        assert all(state[:, 1].any() for state in templates.hidden)


def test_the_previous_mask_is_what_each_object_claims() -> None:
    """Merging shares a pixel between objects; what is remembered of each is its own probability."""
    model = small("DMMNet").double()
    frames, labels = squares(1, 3, 2)
    seen: list[Tensor] = []
    segment = model.segment
    model.segment = lambda query: seen.append(segment(query)) or seen[-1]
    with model.sequence():
        model.step(frames[:, 0], one_hot(labels[:, 0], 2))
        out = model.step(frames[:, 1])
        assert torch.equal(model.state.previous, seen[0])
    assert (out.softmax(1)[:, 1:, :48] - seen[0][:, :, 8:56]).abs().max() > 0.01  # 48 rows, padded to 64


def test_merge() -> None:
    model, p = small("DMMNet"), rand(1, 1, 4, 5)
    close(model.merge(p).softmax(1), torch.cat([1 - p, p], dim=1))
    several = rand(2, 3, 4, 5)
    scores = torch.cat([1 - several.amax(1, keepdim=True), several], dim=1)
    assert torch.equal(model.merge(several).argmax(1), scores.argmax(1))
    certain = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    assert torch.isfinite(model.merge(certain)).all()
