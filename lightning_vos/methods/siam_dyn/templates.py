"""What SiamDyn remembers of a sequence: two template kernels of each object, and where it is. Nothing grows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_vos.memory import SequenceState
from lightning_vos.methods.siam_dyn.crop import Target


class Templates(SequenceState):
    """State of the tracker. Templates are fixed at the first frame of their object.

    Buffers, with K objects: ``where`` and ``what (B, K, D, 5, 5)``, kernels of the two correlations; ``centre`` and
    ``size (B, K, 2)``, the target state; ``lost (B, K)`` bool, objects that the last frame did not show; ``found (B, K,
    m, m)`` in {0, 1}, if the network sees masks: where the last frame showed them, in the windows of the next.
    """

    where: Tensor
    what: Tensor
    centre: Tensor
    size: Tensor
    lost: Tensor
    found: Tensor

    def __init__(self) -> None:
        super().__init__("where", "what", "centre", "size", "lost", "found")

    def __len__(self) -> int:
        """Objects that have a template."""
        return 0 if self.where is None else self.where.shape[1]

    @property
    def target(self) -> Target:
        """Target states ``(B, K)``."""
        return Target(self.centre, self.size)

    @target.setter
    def target(self, target: Target) -> None:
        self.centre, self.size = target

    def grow(self, where: Tensor, what: Tensor, target: Target, new: Tensor) -> None:
        """Set templates and states of new objects.

        Args:
            where: ``(B, K, D, 5, 5)`` of all objects, as is the rest.
            what: likewise.
            target: ``(B, K)``.
            new: ``(K,)`` bool, the objects that start on this frame; the others keep what they have.
        """
        missing = len(new) - len(self)
        lost = torch.zeros(target.centre.shape[:2], dtype=torch.bool, device=new.device)
        entries = {"where": where, "what": what, "centre": target.centre, "size": target.size, "lost": lost}
        for name, entry in entries.items():
            stored = getattr(self, name)
            if stored is not None:
                after = entry.ndim - 2
                stored = F.pad(stored, (0, 0) * after + (0, missing))
                entry = torch.where(new.view(-1, *[1] * after), entry, stored)
            setattr(self, name, entry)
