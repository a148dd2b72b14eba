"""Mask proposals: what becomes of a detector's boxes and masks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import nms

from lightning_vos.functional import tight_boxes, to_float
from lightning_vos.methods.dmm_net.boxes import paste_masks

FOREGROUND = 0.4  # probability above which a pixel counts for the tight box
CELLS = 28  # side of a mask


class Proposals(NamedTuple):
    """What may be an object in a frame. Slots without a proposal hold zeros.

    Attributes:
        boxes: ``(B, m, 4)`` x0, y0, x1, y1 of the detector, pixels.
        masks: ``(B, m, 28, 28)`` probabilities on the box.
        tight: ``(B, m, 4)`` first and last column and row of the pasted mask above 0.4: x0, y0, x1, y1.
        scores: ``(B, m)`` in [0, 1], falling.
        valid: ``(B, m)`` bool, which slots hold a proposal.
    """

    boxes: Tensor
    masks: Tensor
    tight: Tensor
    scores: Tensor
    valid: Tensor


def keep_best(
    boxes: Tensor, masks: Tensor, scores: Tensor, size: tuple[int, int], count: int, overlap: float
) -> Proposals:
    """Suppress duplicates of one frame by their tight boxes, and keep the best.

    Args:
        boxes: ``(N, 4)``.
        masks: ``(N, 28, 28)``.
        scores: ``(N,)``.
        size: ``(H, W)`` of the frame.
        count: most proposals to keep.
        overlap: IoU of tight boxes above which the lower score goes.

    Returns:
        At most ``count`` proposals of the frame, without the dimension B; those whose mask is nowhere above 0.4 are
        gone.
    """
    masks, scores = to_float(masks), to_float(scores)
    tight, seen = tight_boxes(paste_masks(masks, boxes, size) > FOREGROUND)
    boxes, masks, tight, scores = boxes[seen], masks[seen], tight[seen], scores[seen]
    # Areas count both end pixels.
    kept = nms(tight + tight.new_tensor([0, 0, 1, 1]), scores.to(tight.dtype), overlap)[:count]
    valid = torch.ones(len(kept), dtype=torch.bool, device=boxes.device)
    return Proposals(boxes[kept], masks[kept], tight[kept], scores[kept], valid)


def filled(rows: Tensor, count: int) -> Tensor:
    """``(n, ...)`` to ``(count, ...)``: zeros follow, so that frames with different numbers of proposals can be one."""
    return torch.cat([rows, rows.new_zeros(count - len(rows), *rows.shape[1:])])
