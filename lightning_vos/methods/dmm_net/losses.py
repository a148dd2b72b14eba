"""Losses of DMM-Net."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_vos.functional import intersection_over_union
from lightning_vos.methods.dmm_net.matching import greedy_assignment

SEEN = 0.1  # IoU from which an object counts as found by the proposals
COVERED = 0.5  # IoU from which a proposal that is not the chosen one is no wrong one either


def match_loss(
    cosine: Tensor, proposals: Tensor, valid: Tensor, masks: Tensor, present: Tensor, balanced: bool = False
) -> Tensor:
    """``mean (cos_ij - G_ij)^2`` over templates and proposals; G is the greedy assignment by IoU with the truth.

    Templates whose object no proposal covers (IoU below 0.1) do not count: the greedy rule would give them a proposal
    at random.

    Args:
        cosine: ``(B, K, m)`` similarity, before the overlap is mixed in.
        proposals: ``(B, m, H, W)`` probabilities.
        valid: ``(B, m)`` bool, which proposals exist.
        masks: ``(B, K, H, W)`` one-hot ground truth.
        present: ``(B, K)`` bool, which objects exist.
        balanced: let the few pairs that match count as much as all others together; else nothing is lost for long by
            calling no two things alike. Of the others, those do not count whose proposal covers the object as well (IoU
            of at least 0.5): what tells it from the chosen one is no difference between objects.

    Returns:
        Scalar: mean over clips; 0 for a clip in which nothing can be matched.
    """
    overlap = intersection_over_union(masks > 0.5, proposals > 0.5)
    rows = present & (overlap.masked_fill(~valid.unsqueeze(1), 0).amax(dim=2) >= SEEN)
    target = greedy_assignment(-overlap, rows, valid)
    pairs = (rows.unsqueeze(2) & valid.unsqueeze(1)).to(cosine.dtype)
    error = (cosine - target) ** 2
    if balanced:
        wrong = pairs * (1 - target) * (overlap < COVERED)
        return (_mean(error, pairs * target) + _mean(error, wrong)).mean() / 2
    return _mean(error, pairs).mean()


def _mean(error: Tensor, weight: Tensor) -> Tensor:
    """Mean over templates and proposals: ``(B, K, m)`` twice, to ``(B,)``."""
    return (error * weight).sum(dim=(1, 2)) / weight.sum(dim=(1, 2)).clamp(min=1)


def soft_iou_loss(probs: Tensor, masks: Tensor) -> Tensor:
    """``1 - sum(p y) / sum(p + y - p y)`` of each object: ``(B, K, H, W)`` twice, to ``(B, K)``."""
    probs, masks = probs.flatten(2), masks.flatten(2)
    shared = (probs * masks).sum(dim=2)
    return 1 - shared / (torch.sum(probs + masks, dim=2) - shared + 1e-6)
