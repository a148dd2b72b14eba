"""Which objects are followed, and where they were last."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_vos.memory import SequenceState


class Tracks(SequenceState):
    """What the recursion itself remembers: the last probabilities and which objects exist.

    Attributes:
        probs: ``(B, K+1, H, W)``, background first, at the padded size.
        present: ``(B, K)`` bool, which objects exist in which clip.
        t: number of the frame that is being segmented, or comes next.
        births: K frame numbers: the frame on which each object was first given.
        started: objects that had a place before this frame; the state holds something of these, and of no others.
    """

    plain = ("t", "births")
    probs: Tensor
    present: Tensor

    def __init__(self) -> None:
        super().__init__("probs", "present")
        self.t = 0
        self.births: list[int] = []
        self.started = 0

    def reset(self) -> None:
        """Forget all objects."""
        super().reset()
        self.t = self.started = 0
        self.births = []

    @property
    def new(self) -> list[bool]:
        """Which of the K objects start on this frame."""
        return [birth == self.t for birth in self.births]

    @property
    def union(self) -> Tensor:
        """Foreground of all objects in the last frame, ``(B, 1, H, W)`` in [0, 1]."""
        return 1 - self.probs[:, :1]

    def begin_frame(self, given: Tensor | None, present: Tensor | None) -> None:
        """Make room for the objects that are given on this frame, and mark those that start here.

        Until the frame itself is segmented, the given masks join the last probabilities: they are the best guess of
        where the objects are.

        Args:
            given: ``(B, K, H, W)`` masks, if any.
            present: ``(B, K)`` bool, which objects exist in which clip; by default those with a pixel in ``given``.

        Raises:
            ValueError: objects are missing, or start on different frames in the clips of a batch.
        """
        self.started = len(self.births)
        if given is None:
            return
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
