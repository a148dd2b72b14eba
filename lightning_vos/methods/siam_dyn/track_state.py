"""What SiamDyn remembers of a sequence: the template of each object, and where it is. Nothing grows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_vos.memory import SequenceState
from lightning_vos.methods.siam_dyn.correlation import Template
from lightning_vos.methods.siam_dyn.target import Target


class TrackState(SequenceState):
    """State of the tracker. Templates are fixed at the first frame of their object.

    Buffers, with K objects: ``locate`` and ``describe (B, K, D, 5, 5)``, the templates; ``centre`` and ``size (B, K,
    2)``, the targets; ``lost (B, K)`` bool, objects that the last frame did not show; ``found (B, K, m, m)`` in {0, 1},
    if the network sees masks: where the last frame showed them, in the windows of the next.
    """

    locate: Tensor
    describe: Tensor
    centre: Tensor
    size: Tensor
    lost: Tensor
    found: Tensor

    def __init__(self) -> None:
        super().__init__("locate", "describe", "centre", "size", "lost", "found")

    def __len__(self) -> int:
        """Objects that have a template."""
        return 0 if self.locate is None else self.locate.shape[1]

    @property
    def template(self) -> Template:
        """Templates ``(B, K)``."""
        return Template(self.locate, self.describe)

    @property
    def target(self) -> Target:
        """Targets ``(B, K)``."""
        return Target(self.centre, self.size)

    @target.setter
    def target(self, target: Target) -> None:
        self.centre, self.size = target

    def start(self, template: Template, target: Target, new: list[bool]) -> None:
        """Take over the objects that start on this frame.

        Args:
            template: ``(B, K)`` of all objects.
            target: ``(B, K)`` likewise.
            new: which of the K start; the others keep what they have.
        """
        chosen = torch.tensor(new, device=target.centre.device)
        lost = torch.zeros(target.centre.shape[:2], dtype=torch.bool, device=target.centre.device)
        entries = {**template._asdict(), **target._asdict(), "lost": lost}
        missing = len(new) - len(self)
        for name, entry in entries.items():
            stored = getattr(self, name)
            if stored is not None:
                after = entry.ndim - 2
                stored = F.pad(stored, (0, 0) * after + (0, missing))
                entry = torch.where(chosen.view(-1, *[1] * after), entry, stored)
            setattr(self, name, entry)
