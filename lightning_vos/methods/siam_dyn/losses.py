"""Losses of SiamDyn, each a quantity of one sample: how samples are averaged does not depend on the device."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from lightning_vos.functional import to_float
from lightning_vos.methods.siam_dyn.network import Prediction
from lightning_vos.methods.siam_dyn.targets import CellTargets

TRAINED_CELLS = 8  # positive cells of a sample whose masks are trained


class TrainedCells(NamedTuple):
    """Cells whose kernels are trained.

    Attributes:
        cells: ``(n, 8)`` index into the h * w cells.
        valid: ``(n, 8)`` bool: positive ones; the rest only fill up, so that all shapes are fixed.
    """

    cells: Tensor
    valid: Tensor


def best_positives(prediction: Prediction, positive: Tensor) -> TrainedCells:
    """The positive cells ``(n, h, w)`` bool with the largest ``cls * ctr``."""
    best = prediction.score.detach().masked_fill(~positive.flatten(1), -1).topk(TRAINED_CELLS, dim=1)
    return TrainedCells(best.indices, best.values >= 0)


def detection_losses(prediction: Prediction, targets: CellTargets) -> tuple[Tensor, Tensor, Tensor]:
    """Which cell, which box, how central.

    * focal loss (alpha 0.25, gamma 2), sum over the cells / max(1, positive cells);
    * ``1 - GIoU``, mean over the positive cells weighted by their true centre-ness;
    * binary cross entropy of the centre-ness, mean over the positive cells.

    Returns:
        ``(n,)`` each; the last two are 0 without a positive cell.
    """
    positive = targets.positive.flatten(1)
    weight = positive.to(targets.centreness.dtype)
    count = weight.sum(dim=1).clamp(min=1)
    focal = sigmoid_focal_loss(to_float(prediction.cls).flatten(1), weight, alpha=0.25, gamma=2).sum(dim=1) / count

    predicted = to_float(prediction.box).flatten(2).transpose(1, 2)
    # Elsewhere a box of no meaning, but one: no gradient may become infinite before it is multiplied by zero.
    wanted = targets.distances.flatten(2).transpose(1, 2).where(positive.unsqueeze(2), predicted.new_ones(()))
    sign = predicted.new_tensor([-1, -1, 1, 1])
    share = weight * targets.centreness.flatten(1)
    overlap = generalized_box_iou_loss(sign * predicted, sign * wanted, eps=0)
    box = (overlap * share).sum(dim=1) / share.sum(dim=1).clamp(min=1e-6)

    entropy = F.binary_cross_entropy_with_logits(
        to_float(prediction.ctr).flatten(1), targets.centreness.flatten(1), reduction="none"
    )
    return focal, box, (entropy * weight).sum(dim=1) / count


def mask_losses(logits: Tensor, masks: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Every kernel of a sample must give the same whole mask: that makes it robust to the cell that is picked.

    Args:
        logits: ``(n, k, h, w)``.
        masks: ``(n, h, w)`` in {0, 1}.
        valid: ``(n, k)`` bool, kernels that count.

    Returns:
        Dice and binary cross entropy, ``(n,)`` each: means over the kernels that count, 0 without any.
    """
    logits = to_float(logits)
    target = masks.to(logits.dtype).unsqueeze(1).expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=(2, 3))
    overlap = dice(torch.sigmoid(logits), target)
    weight = valid.to(logits.dtype)
    count = weight.sum(dim=1).clamp(min=1)
    return (overlap * weight).sum(dim=1) / count, (entropy * weight).sum(dim=1) / count


def dice(probs: Tensor, masks: Tensor) -> Tensor:
    """``1 - 2 sum(p y) / (sum p^2 + sum y^2 + 1e-5)`` over the last two dimensions (CondInst)."""
    shared, own, theirs = (x.sum(dim=(-2, -1)) for x in (probs * masks, probs**2, masks**2))
    return 1 - 2 * shared / (own + theirs + 1e-5)
