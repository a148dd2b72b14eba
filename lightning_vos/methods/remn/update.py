"""REMN's adaptive memory update: when a frame is worth writing.

The abstract says *that* a frame is written only when the foreground objects have varied enough; the rule is our design
(``docs/remn.md``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_vos.memory import SequenceState


@dataclass(frozen=True)
class UpdateSettings:
    """The rule of the update.

    Args:
        enabled: use it.
        shape_threshold: tau_s.
        appearance_threshold: tau_a.
        min_gap: g_min, frames.
        max_gap: g_max, frames.
        min_confidence: mean over foreground pixels of the largest object probability that a frame must reach.
        min_pixels: an object is visible when its probabilities sum to this many pixels or half its annotated area.
    """

    enabled: bool = True
    shape_threshold: float = 0.3
    appearance_threshold: float = 0.1
    min_gap: int = 3
    max_gap: int = 15
    min_confidence: float = 0.8
    min_pixels: float = 256


class Foreground(NamedTuple):
    """What the rule compares of two frames.

    Attributes:
        shape: ``(B, K, H / 4, W / 4)`` pooled probabilities.
        appearance: ``(B, K, C)`` mean keys, of any length.
        visible: ``(B, K)`` bool.
    """

    shape: Tensor
    appearance: Tensor
    visible: Tensor


class AdaptiveMemoryUpdate(SequenceState):
    """Write a frame only when the foreground has varied enough since the last written one. No parameters, test only.

    For every object o, with the probabilities pooled by 4 and r the last written frame:
    shape change ``ds = 1 - sum min(p_t, p_r) / (sum max(p_t, p_r) + 1e-6)``, appearance change
    ``da = 1 - cos(mu_t, mu_r)``, mu the mean key weighted by the object's pooled probability. An object has varied if
    ``ds >= shape_threshold or da >= appearance_threshold``, or if it is visible again; an invisible one never has:
    an empty mask teaches nothing. Write if the prediction is confident and either some object has varied and
    ``t - r >= min_gap``, or ``t - r >= max_gap``.

    Args:
        settings: see there.
    """

    plain = ("last_written",)
    shape: Tensor
    appearance: Tensor
    was_visible: Tensor
    visible_area: Tensor

    def __init__(self, settings: UpdateSettings = UpdateSettings()) -> None:
        super().__init__("shape", "appearance", "was_visible", "visible_area")
        self.settings = settings
        self.enabled = settings.enabled
        self.last_written: list[int] = []

    def reset(self) -> None:
        """Forget the last written frame."""
        super().reset()
        self.last_written = []

    def observe(self, probs: Tensor, key: Tensor, t: int, given: Tensor | None) -> Tensor | None:
        """Decide about frame t and remember it if it is to be written.

        Args:
            probs: ``(B, K, H, W)`` probabilities of the objects.
            key: ``(B, N, C)`` key of the frame.
            t: frame number.
            given: ``(B, K, H, W)`` masks given on this frame; such a frame is always written.

        Returns:
            ``(B,)`` bool, which clips write; ``None`` when none does (then nothing had to be computed).
        """
        batch = probs.shape[0]
        if given is None and all(t - r < self.settings.min_gap for r in self.last_written):
            return None
        probs = probs.float() if probs.dtype != torch.float64 else probs
        shape = F.avg_pool2d(probs, 4)
        weight = F.avg_pool2d(probs, 16).flatten(2)
        appearance = weight @ key.to(weight.dtype)  # not divided by the weight: the cosine does not see the length
        area = probs.sum(dim=(2, 3))
        if given is not None:
            half = given.to(area.dtype).sum(dim=(2, 3)) / 2
            limit = torch.where(half > 0, half.clamp(max=self.settings.min_pixels), torch.inf)
            if self.visible_area is not None:
                known = F.pad(self.visible_area, (0, limit.shape[1] - self.visible_area.shape[1]), value=torch.inf)
                limit = torch.where(half > 0, limit, known)
            self.visible_area = limit
            writes = torch.ones(batch, dtype=torch.bool, device=probs.device)
        else:
            # Filled on the device: sending a list to a GPU would wait for it.
            gap = torch.cat([torch.full((1,), t - r, device=probs.device) for r in self.last_written])
            now = Foreground(shape, appearance, area >= self.visible_area)
            before = Foreground(self.shape, self.appearance, self.was_visible)
            writes = has_varied(self.settings, probs, now, before, gap)
        decided = writes.tolist()  # the one wait for the device: the size of the bank depends on it
        if not any(decided):
            return None
        visible = area >= self.visible_area
        if given is not None or all(decided):
            self.shape, self.appearance, self.was_visible = shape, appearance, visible
        else:
            chosen = writes.view(-1, 1, 1)
            self.shape = torch.where(chosen.unsqueeze(-1), shape, self.shape)
            self.appearance = torch.where(chosen, appearance, self.appearance)
            self.was_visible = torch.where(chosen[:, 0], visible, self.was_visible)
        previous = self.last_written or [t] * batch
        self.last_written = [t if write else r for write, r in zip(decided, previous, strict=True)]
        return writes


def has_varied(settings: UpdateSettings, probs: Tensor, now: Foreground, before: Foreground, gap: Tensor) -> Tensor:
    """The rule for a frame without given masks.

    Args:
        settings: see there.
        probs: ``(B, K, H, W)`` probabilities of the objects.
        now: the foreground of this frame.
        before: that of the last written one.
        gap: ``(B,)`` frames since then.

    Returns:
        ``(B,)`` bool, whether to write.
    """
    overlap = torch.minimum(now.shape, before.shape).sum(dim=(2, 3))
    either = torch.maximum(now.shape, before.shape).sum(dim=(2, 3))
    shape_change = 1 - overlap / (either + 1e-6)
    appearance_change = 1 - torch.cosine_similarity(now.appearance, before.appearance, dim=-1)
    moved = (shape_change >= settings.shape_threshold) | (appearance_change >= settings.appearance_threshold)
    varied = (now.visible & (moved | ~before.visible)).any(dim=1)

    largest, foreground = probs.amax(dim=1), probs.sum(dim=1) > 0.5
    count = foreground.sum(dim=(1, 2))
    confidence = (largest * foreground).sum(dim=(1, 2)) / count.clamp(min=1)
    confident = (count > 0) & (confidence >= settings.min_confidence)
    return confident & (((gap >= settings.min_gap) & varied) | (gap >= settings.max_gap))
