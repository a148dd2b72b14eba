"""HMMN: hierarchical memory matching network.

Seong et al., "Hierarchical Memory Matching Network for Video Object Segmentation", ICCV 2021 (arXiv 2109.11404). The
authors released inference code and weights, no training code: what the paper and the released network say is followed
here, the training is STM's two stages. ``docs/hmmn.md`` says which number comes from where.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning import Callback
from torch import Tensor

from lightning_vos.memory_statistics import MemoryStatistics
from lightning_vos.methods.hmmn.alignment import KeyAlignment
from lightning_vos.methods.hmmn.segmenter import Features, HMMNSegmenter
from lightning_vos.module import VOSModule


class HMMN(VOSModule, HMMNSegmenter):
    """HMMN in training: the alignment of the keys.

    Args:
        alignment_weight: weight of the loss that makes memory keys follow query keys; for training from scratch, see
            :mod:`~lightning_vos.methods.hmmn.alignment`.
        **kwargs: see :class:`~lightning_vos.module.VOSModule` and
            :class:`~lightning_vos.methods.hmmn.segmenter.HMMNSegmenter`.
    """

    pretrained = ("backbone_weights",)

    def __init__(self, alignment_weight: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alignment_weight = alignment_weight
        self.alignment = KeyAlignment()

    def segment(self, query: Features) -> Tensor:
        """As the network; in training a fine read that is left out takes part with weight zero.

        DDP waits for the gradient of every parameter.
        """
        probs = super().segment(query)
        if not self.training or self.fine.reads == 0:
            return probs
        used = [p for parts in self.fine_parts()[: self.fine.reads] for part in parts for p in part.parameters()]
        return probs + 0 * torch.stack([p.sum() for p in used]).sum()

    def encode_memory(self, query: Features, merged: Tensor) -> list[tuple[Tensor, Tensor]]:
        """As the network; in training the distance of the keys to the query's is noted, if it is a loss."""
        levels = super().encode_memory(query, merged)
        if self.training and self.alignment_weight > 0:
            for (key, _), of_query in zip(levels, (query.key16, query.key8, query.key4), strict=False):
                self.alignment.add(key, of_query, self.tracks.present)
        return levels

    def auxiliary_losses(self, labels: Tensor) -> dict[str, Tensor]:
        """Alignment of the keys, if wanted."""
        return {} if self.alignment.is_empty else {"alignment": self.alignment_weight * self.alignment.terms.mean()}

    def configure_callbacks(self) -> list[Callback]:
        """What of the memory is logged in an evaluation."""
        return [*super().configure_callbacks(), MemoryStatistics()]
