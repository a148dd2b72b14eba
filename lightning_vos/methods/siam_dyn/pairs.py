"""Training pairs: a template window and a search window of one target, cut from the frames of a clip."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_vos.functional import to_float
from lightning_vos.methods.siam_dyn import previous_mask
from lightning_vos.methods.siam_dyn.cells import map_size
from lightning_vos.methods.siam_dyn.crop import crop_frames, crop_masks, crop_templates, to_window
from lightning_vos.methods.siam_dyn.target import Jitter, centre_of_mass, target_of
from lightning_vos.methods.siam_dyn.targets import CellTargets, cell_targets

# Random numbers of a pair: whether it is negative; shift and scale of both windows; those of a previous mask.
PARTS = (1, 3, 3, sum(previous_mask.PARTS))
# Of windows (SiamMask).
TEMPLATE_JITTER = Jitter(shift=1 / 32, scale=0.05)
SEARCH_JITTER = Jitter(shift=1 / 2, scale=0.18)


@dataclass(frozen=True)
class PairSettings:
    """How pairs are made.

    Args:
        unit: crop pixels that a target's side maps to; a template window is one larger.
        search_size: side of a search window.
        negatives: share of the pairs that get the template of another target.
        jitter: factor of shift and scale of the windows.
        masked_template: hide what is not the target in its template.
        mask_input: append the target's mask to its template.
    """

    unit: int
    search_size: int
    negatives: float = 0.2
    jitter: float = 1.0
    masked_template: bool = False
    mask_input: bool = False


class Pairs(NamedTuple):
    """n = B * P pairs, P of each clip.

    Attributes:
        templates: ``(n, C, m, m)`` windows.
        searches: ``(n, 3, m, m)`` windows.
        source: ``(n,)`` whose template each search window gets: its own, or for a negative pair that of another target.
        masks: ``(n, m, m)`` in {0, 1}: the target in its search window.
        cells: targets of the cells; none is positive in a negative pair or where the target is not to be seen.
        spoil: ``(n, 85)`` random numbers for :func:`~lightning_vos.methods.siam_dyn.previous_mask.previous_masks`.
    """

    templates: Tensor
    searches: Tensor
    source: Tensor
    masks: Tensor
    cells: CellTargets
    spoil: Tensor


def draw_numbers(draw: Callable[..., random.Random], clips: range, pairs: int, device: torch.device) -> Tensor:
    """Random numbers of all pairs, by the clip's place in the global batch: ``(B, P, 92)`` in [0, 1).

    Args:
        draw: those of a place, see :meth:`~lightning_vos.segmenter.Segmenter.draw`.
        clips: places of the B clips.
        pairs: P, of each clip.
        device: where they are needed.
    """
    generators = [[draw(clip, pair) for pair in range(pairs)] for clip in clips]
    return torch.tensor(
        [[[rng.random() for _ in range(sum(PARTS))] for rng in row] for row in generators], device=device
    )


def make_pairs(frames: Tensor, labels: Tensor, objects: Tensor, draws: Tensor, settings: PairSettings) -> Pairs:
    """One pair for each frame after the first; of a single picture with itself.

    Before the jitter, a window is centred on the target in its own frame: the jitter alone stands for motion. Other
    objects are background. Where the target is hidden, the search window lies where the template was.

    Args:
        frames: ``(B, T, 3, H, W)`` normalised.
        labels: ``(B, T, H, W)`` uint8.
        objects: ``(B, P)`` label of the target of each pair, P = max(1, T - 1).
        draws: ``(B, P, 92)``, see :func:`draw_numbers`.
        settings: see there.
    """
    unit, size = settings.unit, settings.search_size
    later = slice(1, None) if labels.shape[1] > 1 else slice(0, 1)
    frames = to_float(frames)
    chance, template_move, search_move, spoil = draws.to(frames.dtype).split(PARTS, dim=-1)
    template_masks = labels[:, :1] == objects[..., None, None]
    search_masks = labels[:, later] == objects[..., None, None]
    first = target_of(template_masks)[0].to(frames.dtype)
    found, seen = target_of(search_masks)
    found = found.to(frames.dtype).where(seen, first)
    other, exists = other_targets(objects)
    negative = (chance.squeeze(-1) < settings.negatives) & exists
    own = torch.arange(seen.numel(), device=seen.device).view_as(seen)

    search = found.jittered(search_move, SEARCH_JITTER, settings.jitter).flattened()
    found, search_masks = found.flattened(), search_masks.flatten(0, 1)
    corners = [to_window(found.centre + way * found.size / 2, search, unit, size) for way in (-1, 1)]
    middle = to_window(centre_of_mass(search_masks).to(frames.dtype), search, unit, size)
    return Pairs(
        templates=crop_templates(
            frames[:, 0],
            template_masks,
            first.jittered(template_move, TEMPLATE_JITTER, settings.jitter),
            unit,
            masked=settings.masked_template,
            marked=settings.mask_input,
        ),
        searches=crop_frames(frames[:, later].flatten(0, 1), search.one_each(), unit, size),
        source=other.where(negative, own).flatten(),
        masks=crop_masks(search_masks.to(frames.dtype), search.one_each(), unit, size).squeeze(1),
        cells=cell_targets(torch.cat(corners, dim=-1), middle, (seen & ~negative).flatten(), map_size(size)),
        spoil=spoil.flatten(0, 1),
    )


def other_targets(objects: Tensor) -> tuple[Tensor, Tensor]:
    """For every pair one with another target: that of the neighbouring clip.

    Clips 0 and 1 are neighbours, 2 and 3, and so on: who is whose does not change when the batch is split into even
    shares. The last clip of an odd number has none; there it is the clip's pair before.

    Args:
        objects: ``(B, P)`` label of the target of each pair.

    Returns:
        ``(B, P)`` number of the other pair among the B * P; ``(B, P)`` bool, whether its target is another indeed.
    """
    count = len(objects)
    own = torch.arange(objects.numel(), device=objects.device).view_as(objects)
    clip = torch.arange(count, device=objects.device)
    neighbour = torch.where(clip % 2 == 0, clip + 1, clip - 1)
    has_neighbour = (neighbour < count).unsqueeze(1)
    other = torch.where(has_neighbour, own[neighbour.clamp(max=count - 1)], own.roll(1, dims=1))
    return other, has_neighbour | (objects.roll(1, dims=1) != objects)
