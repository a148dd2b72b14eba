"""Training pairs: what they show, how far they are moved, whose template they get."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import small, squares
from siam_dyn_cases import clips, close, drawn
from torch import Tensor

from lightning_vos.functional import one_hot
from lightning_vos.methods.siam_dyn.cells import cell_positions, distances_to_box
from lightning_vos.methods.siam_dyn.crop import crop_frames, crop_masks, crop_templates
from lightning_vos.methods.siam_dyn.pairs import PARTS, Pairs, PairSettings, draw_numbers, make_pairs, other_targets
from lightning_vos.methods.siam_dyn.target import Target, target_of
from lightning_vos.types import ClipBatch

DRAWS = sum(PARTS)


def paired(
    batch: ClipBatch, objects: Tensor, negatives: float = 0.0, jitter: float = 0.0, draws: Tensor | None = None
) -> Pairs:
    size, pairs = objects.shape
    draws = torch.full((size, pairs, DRAWS), 0.5) if draws is None else draws
    return make_pairs(batch.frames.float(), batch.masks, objects, draws, PairSettings(64, 129, negatives, jitter))


def test_pairs_show_the_target_in_the_middle_and_other_objects_as_background() -> None:
    batch = clips(2, objects=2, frames=3, size=96)
    objects = torch.tensor([[1, 2], [2, 1]])
    pairs = paired(batch, objects)
    for b in range(2):
        for p in range(2):
            n, first, later = 2 * b + p, batch.masks[b, 0] == objects[b, p], batch.masks[b, p + 1] == objects[b, p]
            places = [target_of(mask[None, None])[0] for mask in (first, later)]
            frames = [batch.frames[b, t].float()[None] for t in (0, p + 1)]
            close(pairs.templates[n], crop_frames(frames[0], places[0], 64, 65)[0], atol=1e-3)
            close(pairs.searches[n], crop_frames(frames[1], places[1], 64, 129)[0], atol=1e-3)
            assert torch.equal(pairs.masks[n], crop_masks(later[None].float(), places[1], 64, 129)[0, 0])
            seen = pairs.masks[n].nonzero().float()
            assert ((seen.amin(dim=0) + seen.amax(dim=0)) / 2 - 64).abs().max() <= 2
    assert pairs.source.tolist() == [0, 1, 2, 3]
    assert (pairs.cells.positive.flatten(1).sum(dim=1) > 0).all()
    assert pairs.cells.positive[:, 5, 5].all()


def test_the_box_of_a_jittered_window_is_that_of_its_mask() -> None:
    batch = clips(2, objects=1, size=96)
    draws = drawn(2, 2)
    pairs = paired(batch, torch.ones(2, 2, dtype=torch.long), jitter=1.0, draws=draws)
    for n in range(4):
        rows, columns = pairs.masks[n].nonzero().unbind(dim=1)
        cell = pairs.cells.positive[n].nonzero()[0]
        position = cell_positions(11, torch.zeros(1))[cell[0] * 11 + cell[1]]
        box = distances_to_box(pairs.cells.distances[n][:, cell[0], cell[1]], position)
        seen = torch.stack([columns.min(), rows.min(), columns.max(), rows.max()]).float()
        inside = (box.clamp(0, 128) - seen).abs()
        assert inside.max() < 4  # a frame pixel is up to two crop pixels, and a mask is read at the nearest


def test_draws_depend_on_the_place_of_the_clip_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("SiamDyn")

    def numbers(seed: int, step: int, places: range) -> Tensor:
        torch.manual_seed(seed)
        monkeypatch.setattr(type(model), "steps_done", step)
        return draw_numbers(model.draw, places, 2, torch.device("cpu"))

    together = numbers(0, 5, range(4))
    assert together.shape == (4, 2, DRAWS)
    assert torch.equal(together[2:], numbers(0, 5, range(2, 4)))
    assert len({tuple(row) for row in together.flatten(0, 1).tolist()}) == 8
    assert not torch.equal(together, numbers(0, 6, range(4)))
    assert not torch.equal(together, numbers(1, 5, range(4)))
    assert together.min() >= 0
    assert together.max() < 1


def test_jitter_stays_within_its_limits() -> None:
    batch = clips(1, objects=1, frames=2, size=96)
    one = torch.ones(1, 1, dtype=torch.long)
    place = target_of(batch.masks[:, 1:] == 1)[0]
    for way, at in ((-1, 0.0), (1, 1.0)):
        draws = torch.full((1, 1, DRAWS), at)
        pairs = paired(batch, one, jitter=1.0, draws=draws)
        moved = Target(place.centre + way * 0.5 * place.side.unsqueeze(-1), place.size * (1 + 0.18 * way))
        expected = crop_frames(batch.frames[:, 1].float(), Target(*(x.float() for x in moved)), 64, 129)
        close(pairs.searches, expected, atol=1e-2)


def test_negative_pairs_get_the_template_of_another_target() -> None:
    two = paired(clips(2), torch.tensor([[1, 2], [1, 2]]), negatives=1.0)
    assert two.source.tolist() == [2, 3, 0, 1]
    assert not two.cells.positive.any()
    alone = paired(clips(1), torch.tensor([[1, 2]]), negatives=1.0)
    assert alone.source.tolist() == [1, 0]
    single = paired(clips(1, objects=1), torch.tensor([[1, 1]]), negatives=1.0)
    assert single.source.tolist() == [0, 1]  # there is no other target
    assert single.cells.positive.flatten(1).any(dim=1).all()
    objects = torch.tensor([[1, 2]])
    four, other = other_targets(objects.repeat(4, 1))
    assert four.tolist() == [[2, 3], [0, 1], [6, 7], [4, 5]]  # as in two batches of two
    assert other_targets(objects.repeat(3, 1))[0].tolist() == [[2, 3], [0, 1], [5, 4]]
    assert other.all()
    assert other_targets(torch.ones(3, 2))[1].tolist() == [[True] * 2, [True] * 2, [False] * 2]
    share = drawn(500, 1)[..., 0] < 0.2
    assert 0.15 < share.float().mean() < 0.25


def test_masked_templates_show_nothing_but_the_target() -> None:
    frames, labels = squares(2, 1, 2, size=(64, 96))
    frame, masks = frames[:, 0].float(), one_hot(labels[:, 0], 2)
    place = target_of(masks > 0)[0]
    open_ones, masked = (crop_templates(frame, masks, place, 64, hidden) for hidden in (False, True))
    assert torch.equal(open_ones, crop_frames(frame, place, 64, 65))
    for n, (b, k) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        one = Target(place.centre[b : b + 1, k : k + 1], place.size[b : b + 1, k : k + 1])
        inside = crop_masks(masks[b : b + 1, k], one, 64, 65)[0, 0] > 0
        assert 0 < inside.float().mean() < 0.5
        close(masked[n][:, inside], open_ones[n][:, inside], atol=1e-4)
        colour = frame[b].mean(dim=(1, 2)).unsqueeze(1)
        close(masked[n][:, ~inside], colour.expand(3, int((~inside).sum())), atol=1e-3)


def test_masked_templates_are_used_in_training_and_at_the_start() -> None:
    frames, labels = squares(2, 3, 1, size=(48, 48))
    masks = one_hot(labels[:, 0], 1)
    other = frames.clone()
    for b in range(2):  # the pixels of the background change places, its mean colour stays
        elsewhere = F.max_pool2d(masks[b], 5, stride=1, padding=2)[0] == 0  # what no pixel of the target is mixed with
        pixels = frames[b, 0][:, elsewhere]
        other[b, 0][:, elsewhere] = pixels[:, torch.randperm(pixels.shape[1])]
    for hidden in (False, True):
        settings = PairSettings(64, 129, negatives=0.0, jitter=0.0, masked_template=hidden)
        model = small("SiamDyn", masked_template=hidden, jitter=0.0)
        kernels, templates = [], []
        for version in (frames, other):
            with model.sequence():
                model.step(version[:, 0], masks)
                kernels.append(model.state.describe.clone())
            draws = torch.full((2, 2, DRAWS), 0.5)
            objects = torch.ones(2, 2, dtype=torch.long)
            pairs = make_pairs(version.float(), labels, objects, draws, settings)
            templates.append(pairs.templates)
        apart = [((one - two).abs().mean() / one.abs().mean()).item() for one, two in (kernels, templates)]
        assert all((share < 1e-4) == hidden for share in apart), apart
