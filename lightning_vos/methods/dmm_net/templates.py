"""What DMM-Net remembers of a sequence: the templates, the last masks and the decoder's hidden states."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_vos.memory import SequenceState
from lightning_vos.methods.dmm_net.network import LEVELS


class Matched(NamedTuple):
    """What the losses of one frame need, kept in training only.

    Attributes:
        cosine: ``(B, K, m)`` similarity of template and proposal.
        proposals: ``(B, m, H, W)`` proposal masks.
        valid: ``(B, m)`` bool, which of them exist.
        matched: ``(B, K, H, W)`` masks before refinement.
        refined: ``(B, K, H, W)`` logits after it.
    """

    cosine: Tensor
    proposals: Tensor
    valid: Tensor
    matched: Tensor
    refined: Tensor


class Templates(SequenceState):
    """State of the template matcher. Templates are fixed at the first frame of their object.

    Buffers, with K objects: ``features (B, K, D)``; ``first`` and ``previous`` masks ``(B, K, H, W)``; ``hidden0`` to
    ``hidden3 (B, K, C, h, w)``, the decoder's states at strides 32 to 4; ``proposals (B, m, H, W)``, the masks of the
    last frame, for whoever wants to score them; ``truth (B, K, H, W)``, ground truth of the next frame where a
    callback gives it: the matching is then perfect.
    """

    features: Tensor
    first: Tensor
    previous: Tensor
    proposals: Tensor
    truth: Tensor | None

    def __init__(self) -> None:
        super().__init__(
            "features", "first", "previous", "proposals", "truth", *(f"hidden{level}" for level in range(LEVELS))
        )
        self.clip: list[Matched] = []

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

    def grow(self, features: Tensor, first: Tensor, hidden: list[tuple[int, ...]], new: Tensor) -> None:
        """Set the templates of new objects, whose hidden states start at zero.

        Args:
            features: ``(B, K, D)`` of all objects given on this frame.
            first: ``(B, K, H, W)`` their masks.
            hidden: ``(C, h, w)`` of each level.
            new: ``(K,)`` bool, the objects that start on this frame; the others keep what they have.
        """
        missing = len(new) - len(self)
        if self.features is None:
            self.features, self.first = features, first
            self.hidden = [features.new_zeros(len(features), len(new), *shape) for shape in hidden]
            return
        self.features = torch.where(new[:, None], features, F.pad(self.features, (0, 0, 0, missing)))
        self.first = torch.where(new[:, None, None], first, F.pad(self.first, (0, 0, 0, 0, 0, missing)))
        keep = ~new[:, None, None, None]
        self.hidden = [F.pad(state, (0, 0, 0, 0, 0, 0, 0, missing)) * keep for state in self.hidden]
