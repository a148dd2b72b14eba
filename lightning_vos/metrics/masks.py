"""What may be scored: two masks of one shape, without the pixels that are void; and masks of labels."""

from __future__ import annotations

import torch
from torch import Tensor


def without_void(pred: Tensor, target: Tensor, void: Tensor | None) -> tuple[Tensor, Tensor]:
    """The two masks without void pixels, after checking them."""
    if pred.shape != target.shape or pred.ndim < 2 or 0 in pred.shape[-2:]:
        raise ValueError(f"pred {tuple(pred.shape)}, target {tuple(target.shape)}: must be the same (..., H, W)")
    for name, mask in (("pred", pred), ("target", target), ("void", void)):
        if mask is not None and mask.dtype != torch.bool:
            raise ValueError(f"{name} is {mask.dtype}: must be bool; compare the labels first, as in labels == k")
    if void is None:
        return pred, target
    return pred & ~void, target & ~void


def object_masks(labels: Tensor, objects: int) -> Tensor:
    """``(H, W)`` labels -> ``(objects, H, W)`` bool, the masks of labels 1 to ``objects``, at most 254."""
    ids = torch.arange(1, objects + 1, dtype=torch.uint8, device=labels.device)[:, None, None]
    if labels.device.type != "cpu":
        return labels == ids
    return torch.from_numpy(labels.numpy() == ids.numpy())  # of bytes, NumPy compares 64 at a time
