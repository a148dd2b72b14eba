"""The tracking rule: which cell is believed, and where the target is thought to be next (SiamMask, SiamRPN)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from lightning_vos.functional import to_float
from lightning_vos.methods.siam_dyn.cells import cell_positions, distances_to_box
from lightning_vos.methods.siam_dyn.crop import offsets, to_frame
from lightning_vos.methods.siam_dyn.network import Prediction
from lightning_vos.methods.siam_dyn.target import Target
from lightning_vos.settings import Checked


@dataclass(frozen=True)
class TrackingSettings(Checked):
    """The tracking rule.

    Args:
        penalty: how much a change of size or aspect counts against a cell; 0.04 in SiamMask.
        window: how much nearness to the last place counts, in [0, 1].
        lost_score: a target with a smaller score is lost: its state stays.
        lost_area: so is one with fewer pixels of the frame, unless its score is good: then its box decides.
        state_from: ``mask``, or ``box``: the state always follows the regressed box.
        compete: a state follows only what no other object claims more (ours); else what its own window shows.

    Raises:
        ValueError: an unknown ``state_from``, or a window outside [0, 1].
    """

    penalty: float = 0.04
    window: float = 0.4
    lost_score: float = 0.1
    lost_area: float = 100.0
    state_from: Literal["mask", "box"] = "mask"
    compete: bool = True

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        super().__post_init__()
        if not 0 <= self.window <= 1:
            raise ValueError(f"tracking.window={self.window}: must be from 0 to 1")


class Choice(NamedTuple):
    """The cell that is believed in each of n windows.

    Attributes:
        cell: ``(n,)`` of the h * w cells.
        position: ``(n, 2)`` x, y, crop pixels.
        score: ``(n,)`` cls * ctr there, in [0, 1].
        penalty: ``(n,)`` in (0, 1], 1 for a box that has not changed.
        box: ``(n, 4)`` x0, y0, x1, y1, crop pixels.
    """

    cell: Tensor
    position: Tensor
    score: Tensor
    penalty: Tensor
    box: Tensor


def choose(prediction: Prediction, previous: Tensor, settings: TrackingSettings) -> Choice:
    """The cell with the largest ``(1 - window) * penalty * cls * ctr + window * Hann``.

    Args:
        prediction: of n windows.
        previous: ``(n, 2)`` width and height of the targets so far, crop pixels.
        settings: see there.
    """
    score = prediction.score
    distances = to_float(prediction.box).flatten(2).transpose(1, 2)
    penalty = change_penalty(distances[..., :2] + distances[..., 2:], previous.unsqueeze(1), settings.penalty)
    size = prediction.cls.shape[-1]
    window = settings.window
    final = (1 - window) * penalty * score + window * hann(size, score).flatten()
    cell = final.argmax(dim=1)
    rows = torch.arange(cell.shape[0], device=cell.device)
    position = cell_positions(size, score)[cell]
    box = distances_to_box(distances[rows, cell], position)
    return Choice(cell, position, score[rows, cell], penalty[rows, cell], box)


def change_penalty(size: Tensor, previous: Tensor, strength: float) -> Tensor:
    """``exp(-strength (c(S / S') c(r / r') - 1))``: S the side of a box with context, r its aspect, c(x) = max(x, 1/x).

    Args:
        size: ``(..., 2)`` width, height.
        previous: ``(..., 2)``; the unit cancels.
        strength: 0.04 in SiamMask.

    Returns:
        ``(...)`` in (0, 1].
    """
    sides = [(x + x.mean(dim=-1, keepdim=True)).prod(dim=-1).sqrt() for x in (size, previous)]
    aspects = [x[..., 0] / x[..., 1] for x in (size, previous)]
    changes = [torch.maximum(now / before, before / now) for now, before in (sides, aspects)]
    return torch.exp(-strength * (changes[0] * changes[1] - 1))


def hann(size: int, like: Tensor) -> Tensor:
    """Outer product of two symmetric Hann windows, ``(size, size)``: 1 in the middle, 0 at the border."""
    window = torch.hann_window(size, periodic=False, dtype=like.dtype, device=like.device)
    return torch.outer(window, window)


def largest_components(masks: Tensor) -> Tensor:
    """Box around the largest 8-connected part of each mask.

    Labelling runs on the host: the way of these small maps there and back is all that a frame waits for the device.

    Args:
        masks: ``(n, h, w)`` bool.

    Returns:
        ``(n, 4)`` float32, first and last column and row: x0, y0, x1, y1; zeros for an empty mask.
    """
    boxes = np.zeros((len(masks), 4), dtype=np.float32)
    for box, mask in zip(boxes, masks.cpu().numpy(), strict=True):
        parts, count = ndimage.label(mask, structure=np.ones((3, 3)))
        if count:
            best = int(np.bincount(parts.ravel())[1:].argmax())
            rows, columns = ndimage.find_objects(parts)[best]
            box[:] = columns.start, rows.start, columns.stop - 1, rows.stop - 1
    return torch.from_numpy(boxes).to(masks.device)


def follow(
    target: Target,
    choice: Choice,
    probs: Tensor,
    unit: int,
    frame: tuple[int, int],
    settings: TrackingSettings,
    won: Tensor | None = None,
    components: Callable[[Tensor], Tensor] = largest_components,
) -> tuple[Target, Tensor]:
    """The target state after a frame.

    The state goes to the box of the mask's largest part; where the target is lost but the score is good, to the
    regressed box; else it stays. It also stays where other objects have taken the mask's pixels: the target is behind
    one of them, or has been mistaken for it. The size is damped: it moves by the share ``penalty * score``.

    Args:
        target: ``(n,)`` states before.
        choice: the cells believed.
        probs: ``(n, m, m)`` mask probabilities in the search windows.
        unit: crop pixels that the targets' ``side`` maps to.
        frame: ``(H, W)``.
        settings: see there.
        won: ``(n, m, m)`` bool, pixels of the windows that no other object claims more; ``None``: all.
        components: finds the boxes of the largest parts.

    Returns:
        States ``(n,)`` and ``(n,)`` bool, lost.
    """
    side = probs.shape[-1]
    scale = target.side / unit
    steps = offsets(side, like=target.centre) * scale.unsqueeze(-1)
    x, y = (target.centre[:, axis, None] + steps for axis in (0, 1))
    inside = ((y > -0.5) & (y < frame[0] - 0.5)).unsqueeze(2) & ((x > -0.5) & (x < frame[1] - 0.5)).unsqueeze(1)
    masks = (probs > 0.5) & inside
    sure = choice.score >= settings.lost_score
    seen = sure & (masks.sum(dim=(1, 2)) * scale**2 >= settings.lost_area)
    lost = ~seen
    if won is not None:
        masks = masks & won
        lost = lost | (masks.sum(dim=(1, 2)) * scale**2 < settings.lost_area)
    parts = components(masks).to(target.centre.dtype)
    parts = torch.cat([parts[:, :2] - 0.5, parts[:, 2:] + 0.5], dim=1)  # outer edges of the pixels
    boxes = choice.box if settings.state_from == "box" else torch.where(lost.unsqueeze(1), choice.box, parts)
    centre = to_frame((boxes[:, :2] + boxes[:, 2:]) / 2, target, unit, side)
    size = (boxes[:, 2:] - boxes[:, :2]) * scale.unsqueeze(-1)
    rate = (choice.penalty * choice.score).unsqueeze(-1)
    moved = Target(centre, torch.lerp(target.size, size, rate)).clamped(frame)
    taken = seen & lost  # by others
    return moved.where(sure & ~taken, target), lost
