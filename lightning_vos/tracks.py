"""Which objects are followed, and where they were last."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_vos.memory import SequenceState


class Tracks(SequenceState):
    """What the recursion itself remembers: the last probabilities and which objects exist.

    ``probs (B, K+1, H, W)``, background first, at the padded size; ``present (B, K)`` bool; ``t`` the number of the
    next frame; ``births`` the frame on which each object was first given.
    """

    plain = ("t", "births")
    probs: Tensor
    present: Tensor

    def __init__(self) -> None:
        """See the class."""
        super().__init__("probs", "present")
        self.t = 0
        self.births: list[int] = []

    def reset(self) -> None:
        """Forget all objects."""
        super().reset()
        self.t = 0
        self.births = []

    @property
    def union(self) -> Tensor:
        """Foreground of all objects in the last frame, ``(B, 1, H, W)`` in [0, 1]."""
        return 1 - self.probs[:, :1]

    def admit(self, given: Tensor, present: Tensor | None) -> None:
        """Make room for the objects of ``given (B, K, H, W)`` and mark those that start here.

        Until the frame itself is segmented, the given masks join the last probabilities: they are the best guess of
        where the objects are.
        """
        if self.probs is None:
            self.probs = torch.cat([given.new_ones(given[:, :1].shape), torch.zeros_like(given)], dim=1)
            self.present = torch.zeros(given.shape[:2], dtype=torch.bool, device=given.device)
        missing = given.shape[1] - len(self.births)
        if missing < 0:
            raise ValueError(f"mask has {given.shape[1]} objects, but {len(self.births)} are tracked: give them all")
        self.probs = F.pad(self.probs, (0, 0, 0, 0, 0, given.shape[1] + 1 - self.probs.shape[1]))
        self.present = F.pad(self.present, (0, given.shape[1] - self.present.shape[1]))
        if present is None:
            present = given.flatten(2).any(dim=2)
            new = present & ~self.present
            if (new & self.present.any(dim=0)).any():
                raise ValueError(
                    "an object appears in one clip of the batch after it has appeared in another: the clips of a batch "
                    "share the first frame of an object; run such clips one by one"
                )
            appears = present.any(dim=0).tolist()
        else:
            appears = [True] * given.shape[1]
        known = self.present.any(dim=0).tolist() if self.births else [False] * given.shape[1]
        births = self.births + [self.t] * missing
        self.births = [
            birth if is_known or not starts else self.t
            for birth, is_known, starts in zip(births, known, appears, strict=True)
        ]
        self.present = self.present | present
        union = torch.maximum(self.union, given.amax(dim=1, keepdim=True).to(self.probs.dtype))
        self.probs = torch.cat([1 - union, self.probs[:, 1:]], dim=1)
