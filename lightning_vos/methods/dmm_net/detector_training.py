"""DMM-Net's first stage: the class-agnostic detector is trained on pictures with all their objects."""

from __future__ import annotations

from typing import Any, Self

from lightning import Callback
from torch import Tensor

from lightning_vos.functional import pad_to_stride
from lightning_vos.methods.dmm_net.proposal_recall import ProposalRecall
from lightning_vos.methods.dmm_net.segmenter import DMMNetSegmenter
from lightning_vos.module import VOSModule
from lightning_vos.types import ClipBatch


class DMMNetProposals(VOSModule, DMMNetSegmenter):
    """DMM-Net whose detector alone is trained; its evaluation is that of the whole network.

    First-frame training goes on with it after the second stage.

    Args:
        **kwargs: see :class:`~lightning_vos.module.VOSModule` and
            :class:`~lightning_vos.methods.dmm_net.segmenter.DMMNetSegmenter`.
    """

    pretrained = ("backbone_weights", "detector.weights")
    starts_from = ("DMMNet", "DMMNetProposals")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.encoder.requires_grad_(False)
        self.decoder.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Training mode, of the detector as well."""
        super().train(mode)
        self.detector.train(mode)
        return self

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """The losses of Mask R-CNN on the single frames of the clips."""
        frames = pad_to_stride(batch.frames.flatten(0, 1), self.stride)[0]
        labels = pad_to_stride(batch.masks.flatten(0, 1), self.stride)[0]
        seeds = [self.draw(place).getrandbits(62) for place in self.batch_places(len(frames), batch_idx)]
        losses = self.detector.losses(self.normalize(frames), labels, seeds)
        return self.log_losses(losses, len(frames))

    def configure_callbacks(self) -> list[Callback]:
        """What the proposals allow is logged in an evaluation."""
        return [*super().configure_callbacks(), ProposalRecall()]
