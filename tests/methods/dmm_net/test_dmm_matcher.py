"""DMM-Net's matcher: its weights at test time and in training, its similarity, and the oracle in its place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import small, squares
from dmm_scenes import (
    MATCHERS,
    SIZE,
    close,
    overlap,
    rand,
    squares_as_proposals,
    stream,
    with_proposals,
)
from torch import Tensor

from lightning_vos import REMN
from lightning_vos.functional import intersection_over_union, one_hot
from lightning_vos.methods.dmm_net.matcher import Matcher, MatchingSettings
from lightning_vos.methods.dmm_net.matching import (
    relaxed_assignment,
)
from lightning_vos.methods.dmm_net.perfect_matcher import Oracle, PerfectMatcher


def decided(**settings: Any) -> Matcher:
    """A matcher as it is at test time."""
    return Matcher(MatchingSettings(**settings)).eval()


def problem() -> tuple[Tensor, Tensor, Tensor]:
    """Similarities of 3 templates and 6 proposals in two clips, the second with less of both."""
    rows = torch.tensor([[True] * 3, [True, False, True]])
    valid = torch.tensor([[True] * 6, [True, True, False, True, False, True]])
    return rand(2, 3, 6), rows, valid


@pytest.mark.parametrize("matcher", MATCHERS)
def test_rows_are_one_hot_and_official_keeps_values(matcher: str) -> None:
    similarity, rows, valid = problem()
    x = decided(matcher=matcher)(similarity, rows, valid)
    assert torch.equal((x != 0).sum(2), rows.long())
    assert not x[~valid.unsqueeze(1).expand_as(x)].any()
    if matcher == "official":
        values = relaxed_assignment(-similarity, rows, valid, mode="official")
        close(x, torch.where(x != 0, values, 0))
        assert torch.equal(x.amax(2), values.amax(2))
    else:
        assert torch.equal(x.sum(2), rows.double())


@pytest.mark.parametrize("matcher", MATCHERS)
def test_templates_may_stay_unmatched(matcher: str) -> None:
    similarity, rows, valid = problem()
    model = decided(matcher=matcher, absent_similarity=2.0)
    assert not model(similarity, rows, valid).any()
    model = decided(matcher=matcher, absent_similarity=-2.0)
    close(model(similarity, rows, valid), decided(matcher=matcher)(similarity, rows, valid), 0.01)


def test_only_what_is_dissimilar_stays_unmatched() -> None:
    similarity = torch.tensor([[[0.9, 0.2, 0.1], [0.3, 0.1, 0.2]]])
    everything = torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)
    x = decided(matcher="exact", absent_similarity=0.5)(similarity, *everything)
    assert x[0].tolist() == [[1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("training", [False, True])
def test_a_clip_is_matched_alone_as_in_a_batch_where_templates_may_stay_unmatched(training: bool) -> None:
    similarity, rows, valid = problem()
    model = decided(absent_similarity=0.5).train(training)
    alone = model(similarity[1:, rows[1]][:, :, valid[1]], rows[1:, rows[1]], valid[1:, valid[1]])
    close(model(similarity, rows, valid)[1][rows[1]][:, valid[1]], alone[0])


def test_an_unmatched_template_has_an_empty_mask() -> None:
    frames, labels = squares(1, 3, 2, size=SIZE)
    model = small("DMMNet", matching__absent_similarity=2.0, decoder__refinement=False)
    out = stream(model, frames, {0: one_hot(labels[:, 0], 2)})
    assert (out[1:].softmax(2)[:, :, 1:] < 1e-6).all()


def test_gate_of_training() -> None:
    similarity, rows, valid = problem()
    similarity = similarity[:1].requires_grad_()
    x = Matcher()(similarity, rows[:1], valid[:1])
    relaxed = relaxed_assignment(-similarity, mode="paper", steps=10)
    close(x, torch.where(relaxed > 0.01, relaxed, 0))
    assert (x == 0).any()
    assert torch.autograd.grad(x.pow(2).sum(), similarity)[0].any()


def test_similarity_mixes_cosine_overlap_and_score() -> None:
    frames, labels = squares(1, 2, 2, size=SIZE)
    model = small("DMMNet", matching__overlap_weight=0.25, matching__score_weight=0.5)
    seen: list[Tensor] = []
    model.matcher.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with model.sequence(), torch.inference_mode():
        model.step(frames[:, 0], one_hot(labels[:, 0], 2))
        templates, previous = model.state.features, model.state.previous
        features = model.encode(model.normalize(frames[:, 1]))
        pooled = model.query(features).pooled
        model.advance(features, None)
        proposals = model.state.proposals
    for k in range(2):
        for j in range(proposals.shape[1]):
            cosine = F.cosine_similarity(templates[0, k], pooled[0, j], dim=0)
            iou = overlap(previous[0, k] > 0.5, proposals[0, j] > 0.5)
            expected = 0.75 * cosine + 0.25 * iou + 0.5 * features.scores[0, j]
            assert float(seen[1][0, k, j]) == pytest.approx(float(expected), abs=1e-5)


def test_revealed_truth_is_matched_perfectly_for_one_frame() -> None:
    """Without refinement every object is then its best proposal; nothing where no proposal meets it."""
    boxes = squares_as_proposals((4, 4, 30, 30), (8, 8, 30, 30), (50, 20, 80, 50), (60, 2, 90, 12))
    truth = torch.zeros(1, 3, *SIZE)
    truth[0, 0, 10:31, 10:31] = truth[0, 1, 21:50, 52:80] = truth[0, 2, 55:60, 2:20] = 1
    model = with_proposals(small("DMMNet", decoder__refinement=False), *boxes)
    frames, _ = squares(1, 3, 1, size=SIZE)
    plain = stream(model, frames, {0: truth.flip(1)})
    oracle = model.matcher = Oracle(model.matcher, lambda: model.state.proposals).eval()
    with model.sequence():
        model.step(frames[:, 0], truth.flip(1))
        oracle.truth = truth
        out = model.step(frames[:, 1])
        best = intersection_over_union(truth > 0.5, model.state.proposals > 0.5)[0].argmax(1)
        assert best.tolist()[:2] == [1, 2]
        chosen = model.state.proposals[:, best].clone()
        chosen[:, 2] = 0
        close(out.softmax(1), model.merge(chosen).softmax(1), atol=1e-5)
        assert oracle.truth is None  # the next frame is on its own again
        assert torch.isfinite(model.step(frames[:, 2])).all()
    close(stream(model, frames, {0: truth.flip(1)}), plain, 0)  # without a truth it is the matcher that it wraps


def test_truth_of_an_object_that_has_not_started_reveals_nothing() -> None:
    model = with_proposals(small("DMMNet", decoder__refinement=False), *squares_as_proposals((4, 4, 30, 30)))
    frames, _ = squares(1, 2, 1, size=SIZE)
    truth = torch.zeros(1, 2, *SIZE)
    truth[:, :, 4:31, 4:31] = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    oracle = Oracle(model.matcher, lambda: model.state.proposals)
    with model.sequence():
        model.step(frames[:, 0], truth.flip(1))
        oracle.truth = truth
        x = oracle(torch.ones(1, 2, 1), model.tracks.present, torch.ones(1, 1, dtype=torch.bool))
    assert not x.any()


def test_perfect_matcher_is_for_evaluation() -> None:
    with pytest.raises(ValueError, match=r"--trainer\.callbacks: PerfectMatcher with DMMNet, fit"):
        PerfectMatcher().setup(None, small("DMMNet"), "fit")
    with pytest.raises(ValueError, match=r"--trainer\.callbacks: PerfectMatcher with REMN, validate"):
        PerfectMatcher().setup(None, REMN(key_trunk="resnet10", value_trunk="resnet10", norm="group"), "validate")


def test_the_oracle_takes_the_matchers_place_and_gives_it_back() -> None:
    model, callback = small("DMMNet"), PerfectMatcher()
    matcher, names = model.matcher, set(model.state_dict())
    callback.setup(None, model, "validate")
    assert isinstance(model.matcher, Oracle)
    assert set(model.state_dict()) == names
    callback.teardown(None, model, "validate")
    assert model.matcher is matcher
