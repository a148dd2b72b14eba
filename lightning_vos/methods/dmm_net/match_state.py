"""What DMM-Net remembers of a sequence: the templates, the last masks and the decoder's hidden states."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_vos.memory import SequenceState
from lightning_vos.methods.dmm_net.decoder import LEVELS


class Match(NamedTuple):
    """How the templates of one frame are matched.

    Attributes:
        followed: ``(B, K)`` bool, templates that take part.
        cosine: ``(B, K, m)`` similarity of the features of template and proposal.
        weights: ``(B, K, m)`` of the proposals in every matched mask.
        proposals: ``(B, m, H, W)`` their masks, probabilities.
        valid: ``(B, m)`` bool, which of them exist.
        masks: ``(B, K, H, W)`` matched masks.
    """

    followed: Tensor
    cosine: Tensor
    weights: Tensor
    proposals: Tensor
    valid: Tensor
    masks: Tensor


class MatchState(SequenceState):
    """State of the template matcher. Templates are fixed at the first frame of their object.

    Buffers, with K objects: ``features (B, K, D)``; ``first`` and ``previous`` masks ``(B, K, H, W)``; ``hidden0`` to
    ``hidden3 (B, K, C, h, w)``, the decoder's states at strides 32 to 4; ``proposals (B, m, H, W)``, the masks of the
    last frame, for whoever wants to score them.

    Attributes:
        clip: in training the match of every frame and the probabilities ``(B, K, H, W)`` that came of it.
    """

    features: Tensor
    first: Tensor
    previous: Tensor
    proposals: Tensor

    def __init__(self) -> None:
        super().__init__("features", "first", "previous", "proposals", *(f"hidden{level}" for level in range(LEVELS)))
        self.clip: list[tuple[Match, Tensor]] = []

    def reset(self) -> None:
        """Forget the sequence."""
        super().reset()
        self.clip = []

    def __len__(self) -> int:
        """Objects that have a slot."""
        return 0 if self.features is None else self.features.shape[1]

    @property
    def hidden(self) -> list[Tensor]:
        """Hidden states of all levels."""
        return [getattr(self, f"hidden{level}") for level in range(LEVELS)]

    @hidden.setter
    def hidden(self, states: list[Tensor]) -> None:
        for level, state in enumerate(states):
            setattr(self, f"hidden{level}", state)

    def grow(self, features: Tensor, first: Tensor, hidden: list[tuple[int, ...]], new: list[bool]) -> None:
        """Set the templates of new objects, whose hidden states start at zero.

        Args:
            features: ``(B, K, D)`` of all objects given on this frame.
            first: ``(B, K, H, W)`` their masks.
            hidden: ``(C, h, w)`` of each level.
            new: which of the K objects start on this frame; the others keep what they have.
        """
        missing = len(new) - len(self)
        if self.features is None:
            self.features, self.first = features, first
            self.hidden = [features.new_zeros(len(features), len(new), *shape) for shape in hidden]
            return
        starts = torch.tensor(new, device=features.device)[:, None]
        self.features = torch.where(starts, features, F.pad(self.features, (0, 0, 0, missing)))
        self.first = torch.where(starts[..., None], first, F.pad(self.first, (0, 0, 0, 0, 0, missing)))
        keep = ~starts[..., None, None]
        self.hidden = [F.pad(state, (0, 0, 0, 0, 0, 0, 0, missing)) * keep for state in self.hidden]
