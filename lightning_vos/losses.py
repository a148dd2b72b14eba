"""Segmentation losses.

Every loss is a mean over clips of a quantity of one clip, so that the gradient of a global batch does not depend on
how the batch is split over devices.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bootstrapped_cross_entropy(logits: Tensor, labels: Tensor, fraction: float) -> Tensor:
    """Cross entropy of the hardest pixels of every clip (as in STCN and XMem).

    Args:
        logits: ``(B, K+1, H, W)`` aggregated logits, background first.
        labels: ``(B, H, W)`` integer labels 0..K.
        fraction: share of the pixels that count, in (0, 1]; 1 is the plain cross entropy.

    Returns:
        Scalar: mean over clips of the mean over the hardest pixels.
    """
    pixel_loss = F.cross_entropy(logits, labels.long(), reduction="none").flatten(1)
    if fraction < 1:
        pixel_loss = pixel_loss.topk(max(1, int(fraction * pixel_loss.shape[1])), dim=1, sorted=False).values
    return pixel_loss.mean()


def dice_loss(probs: Tensor, masks: Tensor, present: Tensor) -> Tensor:
    """``1 - (2 sum(p y) + 1) / (sum(p) + sum(y) + 1)`` per object.

    Args:
        probs: ``(B, K, H, W)`` aggregated probabilities of the objects.
        masks: ``(B, K, H, W)`` one-hot ground truth.
        present: ``(B, K)`` bool: which objects exist in which clip; the others do not count.

    Returns:
        Scalar: mean over clips of the mean over the objects of the clip.
    """
    probs, masks = probs.flatten(2), masks.flatten(2)
    loss = 1 - (2 * (probs * masks).sum(-1) + 1) / (probs.sum(-1) + masks.sum(-1) + 1)
    return mean_over_objects(loss, present)


def mean_over_objects(loss: Tensor, present: Tensor) -> Tensor:
    """Mean over clips of the mean over their objects: ``loss (B, K)``, ``present (B, K)`` bool, to a scalar."""
    weight = present.to(loss.dtype)
    return ((loss * weight).sum(1) / weight.sum(1).clamp(min=1)).mean()


def bootstrap_fraction(progress: float, start: float, end: float, final: float) -> float:
    """Share of pixels kept: 1 until ``start``, linear to ``final`` at ``end``, then constant; progress in [0, 1]."""
    if progress <= start:
        return 1.0
    if progress >= end:
        return final
    return 1.0 - (1.0 - final) * (progress - start) / (end - start)


def segmentation_loss(
    logits: Tensor, labels: Tensor, masks: Tensor, present: Tensor, fraction: float
) -> tuple[Tensor, Tensor]:
    """Bootstrapped cross entropy and dice of one frame; arguments as above.

    Returns:
        (cross entropy, dice), scalars.
    """
    probs = torch.softmax(logits, dim=1)[:, 1:]
    return bootstrapped_cross_entropy(logits, labels, fraction), dice_loss(probs, masks, present)
