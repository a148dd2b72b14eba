"""Training pairs: a template window and a search window of one target, cut from the frames of a clip."""

from __future__ import annotations

import random
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_vos.functional import to_float
from lightning_vos.methods.siam_dyn.crop import Target, crop_frames, crop_masks, crop_templates, target_of, to_window
from lightning_vos.methods.siam_dyn.network import FIRST, STRIDE
from lightning_vos.methods.siam_dyn.targets import CellTargets, cell_targets, centre_of_mass

BLOTS = 9  # values on each axis that move the edges of a previous mask
SPOIL = 4 + BLOTS**2  # random numbers of a previous mask: shift and scale, whether there is none, blots
DRAWS = 7 + SPOIL  # random numbers of a pair: negative, shift and scale of both windows; and these
# Largest shift of a window on each axis, in shares of its unit, and largest change of its scale (SiamMask).
TEMPLATE_JITTER = (1 / 32, 0.05)
SEARCH_JITTER = (1 / 2, 0.18)
# Ours. What was found of the target in the frame before: the target, moved a little, with wrong edges, or nothing.
PREVIOUS_JITTER = (1 / 16, 0.1)
NOTHING = 0.1
EDGE = 2  # crop pixels by which its edges move at most


class Pairs(NamedTuple):
    """n = B * P pairs, P of each clip.

    Attributes:
        templates: ``(n, C, m, m)`` windows.
        searches: ``(n, 3, m, m)`` windows.
        source: ``(n,)`` whose template each search window gets: its own, or for a negative pair that of another target.
        masks: ``(n, m, m)`` in {0, 1}: the target in its search window.
        cells: targets of the cells; none is positive in a negative pair or where the target is not to be seen.
        spoil: ``(n, SPOIL)`` random numbers for :func:`previous_masks`.
    """

    templates: Tensor
    searches: Tensor
    source: Tensor
    masks: Tensor
    cells: CellTargets
    spoil: Tensor


def draw(seed: int, step: int, clips: range, pairs: int, device: torch.device) -> Tensor:
    """Numbers in [0, 1) that depend on seed, step and the clip's place in the global batch: ``(B, P, DRAWS)``."""
    rngs = [[random.Random(f"{seed} {step} {clip} {pair}") for pair in range(pairs)] for clip in clips]
    return torch.tensor([[[rng.random() for _ in range(DRAWS)] for rng in row] for row in rngs], device=device)


def make_pairs(
    frames: Tensor,
    labels: Tensor,
    objects: Tensor,
    draws: Tensor,
    unit: int,
    search_size: int,
    negatives: float,
    jitter: float,
    masked: bool = False,
    marked: bool = False,
) -> Pairs:
    """One pair for each frame after the first; of a single picture with itself.

    Before the jitter, a window is centred on the target in its own frame: the jitter alone stands for motion. Other
    objects are background. Where the target is hidden, the search window lies where the template was.

    Args:
        frames: ``(B, T, 3, H, W)`` normalised.
        labels: ``(B, T, H, W)`` uint8.
        objects: ``(B, P)`` label of the target of each pair, P = max(1, T - 1).
        draws: ``(B, P, DRAWS)``, see :func:`draw`.
        unit: crop pixels that a target's side maps to; a template window is one larger.
        search_size: side of a search window.
        negatives: share of the pairs that get the template of the neighbouring clip; in the last one of an odd number
            that of another of its objects.
        jitter: factor of both jitters.
        masked: see :func:`~lightning_vos.methods.siam_dyn.crop.crop_templates`.
        marked: likewise.
    """
    later = slice(1, None) if labels.shape[1] > 1 else slice(0, 1)
    frames = to_float(frames)
    draws = draws.to(frames.dtype)
    template_masks = labels[:, :1] == objects[..., None, None]
    search_masks = labels[:, later] == objects[..., None, None]
    first = _in(frames.dtype, target_of(template_masks)[0])
    found, seen = target_of(search_masks)
    found = _in(frames.dtype, found).where(seen, first)

    own = torch.arange(seen.numel(), device=seen.device).view_as(seen)
    # Neighbours swap templates: who is whose does not change when the batch is split into even shares.
    swapped = torch.arange(len(frames), device=seen.device) ^ 1
    paired = (swapped < len(frames)).unsqueeze(1)
    theirs = own[swapped.clamp(max=len(frames) - 1)].where(paired, own.roll(1, dims=1))
    negative = (draws[..., 0] < negatives) & (paired | (objects.roll(1, dims=1) != objects))
    source = theirs.where(negative, own).flatten()

    template = _jittered(first, draws[..., 1:4], unit, TEMPLATE_JITTER, jitter)
    search = Target(*(x.flatten(0, 1) for x in _jittered(found, draws[..., 4:7], unit, SEARCH_JITTER, jitter)))
    flat = Target(*(x.flatten(0, 1) for x in found))
    corners = [to_window(flat.centre + way * flat.size / 2, search, unit, search_size) for way in (-1, 1)]
    masses = to_window(centre_of_mass(search_masks.flatten(0, 1)).to(frames.dtype), search, unit, search_size)
    one_each = Target(*(x.unsqueeze(1) for x in search))
    return Pairs(
        crop_templates(frames[:, 0], template_masks, template, unit, masked, marked),
        crop_frames(frames[:, later].flatten(0, 1), one_each, unit, search_size),
        source,
        crop_masks(search_masks.flatten(0, 1).to(frames.dtype), one_each, unit, search_size, 1).squeeze(1),
        cell_targets(torch.cat(corners, dim=-1), masses, (seen & ~negative).flatten(), map_size(search_size)),
        draws[..., 7:].flatten(0, 1),
    )


def previous_masks(masks: Tensor, draws: Tensor, unit: int, jitter: float) -> Tensor:
    """What a tracker may have found of the target in the frame before, made of a mask in this one.

    The idea is that of MaskTrack (Perazzi et al., CVPR 2017): the mask is moved and scaled, and so are its edges; in
    one pair of ten there is nothing.

    Args:
        masks: ``(n, m, m)`` in {0, 1}, in the search windows.
        draws: ``(n, SPOIL)`` in [0, 1): shift, scale, nothing, edges.
        unit: see :func:`make_pairs`.
        jitter: factor of all of it.

    Returns:
        ``(n, m, m)`` in {0, 1}.
    """
    size = masks.shape[-1]
    # The windows as frames that hold a target in the middle, whose side is the unit: a pixel is a crop pixel.
    place = Target(masks.new_full((len(masks), 1, 2), (size - 1) / 2), masks.new_full((len(masks), 1, 2), unit / 2))
    beside = _jittered(place, draws[:, None, :3], unit, PREVIOUS_JITTER, jitter)
    found = crop_masks(masks, beside, unit, size, 1)
    # At most a half, so that only edges move: a window is mostly background, and islands there would hide the mask.
    blots = jitter * (draws[:, 4:].view(-1, 1, BLOTS, BLOTS) - 0.5)
    blots = F.interpolate(blots, size=found.shape[-2:], mode="bilinear", align_corners=True)
    spoiled = F.avg_pool2d(found, 2 * EDGE + 1, stride=1, padding=EDGE) + blots > 0.5
    return (spoiled.squeeze(1) & (draws[:, 3] >= NOTHING)[:, None, None]).to(masks.dtype)


def map_size(search_size: int) -> int:
    """Cells of the correlation map on each axis."""
    return (search_size - 1) // STRIDE + 1 - 2 * (FIRST // STRIDE)


def _in(dtype: torch.dtype, target: Target) -> Target:
    return Target(target.centre.to(dtype), target.size.to(dtype))


def _jittered(target: Target, draws: Tensor, unit: int, limits: tuple[float, float], factor: float) -> Target:
    """Shift and scale by up to ``limits`` times ``factor``; ``draws (..., 3)`` in [0, 1)."""
    way = factor * (2 * draws - 1)
    shift, scale = limits
    centre = target.centre + way[..., :2] * shift * target.side.unsqueeze(-1)
    return Target(centre, target.size * (1 + scale * way[..., 2:]))
