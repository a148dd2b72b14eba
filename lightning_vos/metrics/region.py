"""Region similarity J, equal to the official DAVIS 2017 code."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_vos.metrics.masks import without_void


def region_similarity(pred: Tensor, target: Tensor, void: Tensor | None = None) -> Tensor:
    """Jaccard index J = |pred & target| / |pred | target|.

    Args:
        pred: ``(..., H, W)`` bool.
        target: ``(..., H, W)`` bool, same shape.
        void: bool, broadcastable to ``pred``; its pixels are removed from both masks.

    Returns:
        ``(...)`` float64 in [0, 1]; two empty masks score 1.

    Raises:
        ValueError: if a mask is not bool or the shapes differ.
    """
    pred, target = without_void(pred, target, void)
    areas = [torch.count_nonzero(mask, dim=(-2, -1)).double() for mask in (pred & target, pred | target)]
    return (areas[0] / areas[1]).nan_to_num(1.0)  # 0 / 0
