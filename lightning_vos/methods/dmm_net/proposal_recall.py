"""What the mask proposals allow: without it, a score says nothing about the matching."""

from __future__ import annotations

import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torchmetrics import MeanMetric

from lightning_vos.frame_callback import FrameCallback
from lightning_vos.functional import intersection_over_union, one_hot, pad_to_stride, resize_labels
from lightning_vos.methods.dmm_net.segmenter import DMMNetSegmenter
from lightning_vos.video import Video

THRESHOLDS = (0.5, 0.7)


class ProposalRecall(FrameCallback):
    """Logs how well the best proposal of a frame covers each of its objects, in a validation.

    ``val/proposal_recall_50`` and ``_70``: share of the objects that a proposal covers with an IoU of at least 0.5 and
    0.7; ``val/proposal_best_iou``: mean IoU of the best proposal. Over all objects in all annotated frames after the
    first, at the size of the frames; void counts as background.
    """

    def __init__(self) -> None:
        self._means: dict[str, MeanMetric] = {}  # none outside of a validation

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start with empty means."""
        names = [*(f"proposal_recall_{round(100 * threshold)}" for threshold in THRESHOLDS), "proposal_best_iou"]
        self._means = {name: MeanMetric().to(pl_module.device) for name in names}

    def on_frame_end(
        self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int, frame: Tensor, labels: Tensor
    ) -> None:
        """Compare the proposals of one frame with its ground truth."""
        assert isinstance(pl_module, DMMNetSegmenter)
        proposals = pl_module.state.proposals
        if not self._means or t == 0 or proposals is None:
            return
        truth = padded_truth(video, t, frame.shape[-2:], pl_module.stride)
        if truth is None:
            return
        shown = truth.flatten(1).any(dim=1)
        if not shown.any():
            return
        truth = truth[shown].to(frame.device).unsqueeze(0) > 0.5
        best = intersection_over_union(truth, proposals > 0.5)[0].amax(dim=1)
        for threshold, mean in zip(THRESHOLDS, self._means.values(), strict=False):
            mean.update((best >= threshold).float())
        self._means["proposal_best_iou"].update(best)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the means over all ranks."""
        # compute() gathers over ranks; a rank that saw no object has weight 0, and the total is equal on all.
        totals = {f"val/{name}": mean.compute() for name, mean in self._means.items()}
        self._means = {}
        if not any(value.isnan() for value in totals.values()):
            pl_module.log_dict(totals, sync_dist=True, reduce_fx="max", batch_size=1)


def padded_truth(video: Video, t: int, size: torch.Size, stride: int) -> Tensor | None:
    """Masks of all objects ``(K, H, W)`` at the size of the frames, padded as these are; ``None`` if not annotated."""
    target = video.target(t)
    if target is None or not len(video.object_ids):
        return None
    masks = one_hot(resize_labels(target, (size[0], size[1])), len(video.object_ids))
    return pad_to_stride(masks, stride)[0]
