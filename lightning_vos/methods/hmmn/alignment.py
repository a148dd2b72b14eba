"""Keys of the memory encoder that follow those of the query encoder: what a network from scratch needs (ours).

Two separate encoders agree on what looks alike only if something makes them. In the paper ImageNet weights do, and a
learning rate too small to lose it. From scratch nothing does: the coarse read learns to ignore the memory. So the
memory's keys are asked to be those that the query encoder gives the same frame.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_vos.functional import to_float
from lightning_vos.losses import mean_over_objects
from lightning_vos.memory import SequenceState


def alignment_loss(memory: Tensor, query: Tensor, present: Tensor) -> Tensor:
    """Squared distance of a frame's memory keys to its query keys, in units of how much the query keys differ.

    ``mean |k^M_o - k^Q|^2 / var k^Q`` with the variance over the positions of a frame: an error of 1 hides every
    difference that matching could go by. The query key is a constant here: keys that are all the same gain nothing.

    Args:
        memory: ``(B, K, C, h, w)`` keys of the objects.
        query: ``(B, C, h, w)`` keys of the same frames.
        present: ``(B, K)`` bool, which objects exist in which clip.

    Returns:
        Scalar: mean over clips of the mean over the objects of the clip.
    """
    query = to_float(query.detach()).unsqueeze(1)
    spread = query.var(dim=(3, 4), correction=0).mean(dim=2)
    error = (to_float(memory) - query).pow(2).mean(dim=(2, 3, 4)) / spread.clamp(min=1e-6)
    return mean_over_objects(error, present)


class KeyAlignment(SequenceState):
    """The alignment losses of the frames of a clip so far: ``terms (n,)``."""

    terms: Tensor

    def __init__(self) -> None:
        super().__init__("terms")

    def add(self, memory: Tensor, query: Tensor, present: Tensor) -> None:
        """Note the loss of one frame at one scale; arguments of :func:`alignment_loss`."""
        term = alignment_loss(memory, query, present).unsqueeze(0)
        self.terms = term if self.terms is None else torch.cat([self.terms, term])
