"""Region similarity J, equal to the official DAVIS 2017 code."""

from __future__ import annotations

import numpy as np
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
    if pred.device.type == "cpu":  # mask by mask, which stay in the cache: NumPy counts six times faster than torch
        pairs = zip(*(masks.reshape(-1, *masks.shape[-2:]).numpy() for masks in (pred, target)), strict=True)
        counts = [(np.count_nonzero(p & t), np.count_nonzero(p | t)) for p, t in pairs]
        areas = torch.tensor(counts, dtype=torch.float64).view(*pred.shape[:-2], 2)
    else:
        areas = torch.stack([torch.count_nonzero(x, dim=(-2, -1)) for x in (pred & target, pred | target)], -1).double()
    return (areas[..., 0] / areas[..., 1]).nan_to_num(1.0)  # 0 / 0
