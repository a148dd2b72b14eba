"""DMM-Net's second stage: encoder and decoder are trained through the matching, on clips of videos."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning import Callback
from torch import Tensor

from lightning_vos.blocks.backbone import Backbone
from lightning_vos.functional import one_hot, without_autocast
from lightning_vos.losses import bootstrap_fraction, bootstrapped_cross_entropy, mean_over_objects
from lightning_vos.methods.dmm_net.detector_training import DMMNetProposals
from lightning_vos.methods.dmm_net.losses import match_loss, soft_iou_loss
from lightning_vos.methods.dmm_net.match_state import Match
from lightning_vos.methods.dmm_net.matcher import heaviest
from lightning_vos.methods.dmm_net.proposal_recall import ProposalRecall
from lightning_vos.methods.dmm_net.segmenter import DMMNetSegmenter, blend
from lightning_vos.module import VOSModule


class DMMNet(VOSModule, DMMNetSegmenter):
    """DMM-Net in training, with the detector frozen: match loss, and soft IoU of what was matched and refined.

    Args:
        straight_through: show the decoder in training, too, the one proposal that weighs most, as at test time, instead
            of the blend of several; gradients are those of the blend. The paper's decoder learns on blends.
        trunk_from_detector: start the encoder's trunk as a copy of the detector's where ``weights`` come from a stage
            that trained the detector; both must be the same network.
        own_masks: (start, probability): from this share of the run on, the previous mask of a training frame is the
            network's own with this probability, the ground truth otherwise.
        match_weight: weight of the match loss.
        match_balanced: see :func:`~lightning_vos.methods.dmm_net.losses.match_loss`.
        entropy_weight: weight of the bootstrapped cross entropy of the result, which the other methods train on; none
            in the paper. It cares for boundaries, soft IoU for areas.
        trunk_lr: factor of the learning rate of the encoder's trunk.
        **kwargs: see :class:`~lightning_vos.module.VOSModule` and
            :class:`~lightning_vos.methods.dmm_net.segmenter.DMMNetSegmenter`.
    """

    pretrained = ("backbone_weights", "detector.weights")
    starts_from = ("DMMNet", "DMMNetProposals")

    def __init__(
        self,
        straight_through: bool = False,
        trunk_from_detector: bool = False,
        own_masks: tuple[float, float] = (0.25, 0.5),
        match_weight: float = 1.0,
        match_balanced: bool = False,
        entropy_weight: float = 0.0,
        trunk_lr: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(trunk_lr=trunk_lr, **kwargs)
        trunk, detector = self.hparams["trunk"], self.hparams["detector"]["trunk"]
        if trunk_from_detector and trunk != detector:
            raise ValueError(
                f"trunk_from_detector: trunk={trunk} is not detector.trunk={detector}; make them equal or switch it off"
            )
        self.straight_through = straight_through
        self.trunk_from_detector = trunk_from_detector
        self.own_masks = own_masks
        self.match_weight = match_weight
        self.match_balanced = match_balanced
        self.entropy_weight = entropy_weight
        self.detector.requires_grad_(False)
        self.decoder.requires_grad_(self.refinement)

    def adopt(self, checkpoint: Mapping[str, Any]) -> None:
        """The encoder may start from the detector, unless that run has trained an encoder."""
        if not self.trunk_from_detector or checkpoint["method"] != DMMNetProposals.__name__:
            return
        body, trunk = self.detector.net.backbone.body.state_dict(), self.encoder.trunk
        trunk.load_state_dict({name: body[name] for name in trunk.state_dict()})  # which may end earlier

    def shown(self, match: Match) -> Tensor:
        """With ``straight_through`` the heaviest proposal alone, whose gradient is that of the blend."""
        if not (self.training and self.straight_through):
            return super().shown(match)
        alone = heaviest(match.weights, match.followed)
        with without_autocast(alone):
            return blend(match.weights + (alone - match.weights).detach(), match.proposals)

    def teacher(self, truth: Tensor) -> Tensor | None:
        """Ground truth instead of the network's own previous mask: a draw for each frame, see ``own_masks``."""
        start, probability = self.own_masks
        own = self.draw(self.tracks.t).random() < probability
        return None if self.progress >= start and own else truth

    # ---------------------------------------------------------------- losses

    def frame_losses(self, logits: Tensor, labels: Tensor, masks: Tensor, present: Tensor) -> dict[str, Tensor]:
        """Cross entropy, if it is wanted; all other losses need the matching, see :meth:`auxiliary_losses`."""
        if self.entropy_weight == 0:
            return {}
        fraction = bootstrap_fraction(self.progress, *self.bootstrap)
        return {"cross_entropy": self.entropy_weight * bootstrapped_cross_entropy(logits, labels, fraction)}

    def auxiliary_losses(self, labels: Tensor) -> dict[str, Tensor]:
        """Match loss, soft IoU of the matched and of the refined masks, summed over all frames of the clip."""
        masks = one_hot(labels, self.tracks.present.shape[1]).to(self.mean.dtype)
        frames = [self._losses(*frame, masks[:, t]) for t, frame in enumerate(self.state.clip)]
        return {name: torch.stack([frame[name] for frame in frames]).sum() for name in frames[0]}

    def _losses(self, match: Match, probs: Tensor, masks: Tensor) -> dict[str, Tensor]:
        present = self.tracks.present
        error = match_loss(match.cosine, match.proposals, match.valid, masks, present, self.match_balanced)
        losses = {
            "match": self.match_weight * error,
            "matched": mean_over_objects(soft_iou_loss(match.masks, masks), present),
        }
        if self.refinement:
            losses["refined"] = mean_over_objects(soft_iou_loss(probs, masks), present)
        return losses

    # ---------------------------------------------------------------- the run

    def trunks(self) -> list[Backbone]:
        """The encoder's, which the detector has taught where ImageNet has not."""
        return [self.encoder.trunk]

    def configure_callbacks(self) -> list[Callback]:
        """What the proposals allow is logged in an evaluation."""
        return [*super().configure_callbacks(), ProposalRecall()]
