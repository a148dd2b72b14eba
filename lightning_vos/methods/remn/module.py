"""REMN: robust and efficient memory network.

Chen et al., "Robust and Efficient Memory Network for Video Object Segmentation", ICME 2023 (arXiv 2304.11840), and the
journal version in IEEE TCSVT 34(5), 2024. Only the abstracts were available to us: the base network is STCN's (Cheng
et al., NeurIPS 2021), the three parts that the abstracts name are our design. ``docs/remn.md`` says which number comes
from where.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning import Callback
from torch import Tensor

from lightning_vos.memory_statistics import MemoryStatistics
from lightning_vos.methods.remn.contrastive import correspondence_loss, pure_labels
from lightning_vos.methods.remn.gate_statistics import GateStatistics
from lightning_vos.methods.remn.memory import GateSettings, efficiency_loss
from lightning_vos.methods.remn.network import STRIDE
from lightning_vos.methods.remn.segmenter import REMNSegmenter
from lightning_vos.module import VOSModule


class REMN(VOSModule, REMNSegmenter):
    """REMN in training: the gate's schedule, its efficiency loss, and the correspondence loss.

    Args:
        gate: see :class:`~lightning_vos.methods.remn.segmenter.REMNSegmenter`.
        contrastive_weight: weight of the correspondence loss of the journal version; 0.1 there, 0 for plain REMN.
        new_parts_lr: learning rate of local attention and gate relative to the rest.
        **kwargs: see :class:`~lightning_vos.module.VOSModule` and
            :class:`~lightning_vos.methods.remn.segmenter.REMNSegmenter`.
    """

    pretrained = ("backbone_weights",)

    def __init__(
        self,
        gate: GateSettings = GateSettings(),
        contrastive_weight: float = 0.0,
        new_parts_lr: float = 10.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(gate=gate, **kwargs)
        self.gate_settings = gate
        self.contrastive_weight = contrastive_weight
        self.new_parts_lr = new_parts_lr

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """As the base class, with the gate's schedule: off until ``gate_start``, then tau from 1 to 0.1."""
        share = (self.progress - self.gate_settings.start) / max(1e-9, 1 - self.gate_settings.start)
        self.bank.gate_active = share >= 0
        self.bank.temperature = 0.1 ** min(1.0, max(0.0, share) / 0.8)
        return super().training_step(*args, **kwargs)

    def auxiliary_losses(self, labels: Tensor) -> dict[str, Tensor]:
        """Efficiency loss of the gate and, if wanted, the correspondence loss."""
        losses = {}
        if self.bank.kept:
            kept = torch.stack(self.bank.kept, dim=1)  # (B, reads)
            if self.run is not None and self.run.world_size > 1:
                # The hinge comes after the mean over the *global* batch, whatever the number of devices.
                gathered = self.all_gather(kept, sync_grads=True)
                kept = torch.as_tensor(gathered).flatten(0, 1)
            self.log("train/keep", kept.detach().mean(), batch_size=len(labels))
            losses["efficiency"] = (
                self.gate_settings.weight
                * torch.stack([efficiency_loss(keep, self.gate_settings.target) for keep in kept.unbind(1)]).mean()
            )
        elif self.gate_settings.enabled:
            # A gate that is not used yet still takes part in the step: DDP waits for the gradient of every parameter.
            losses["efficiency"] = 0 * torch.stack([p.sum() for p in self.bank.gate.parameters()]).sum()
        if self.contrastive_weight > 0:
            grid = pure_labels(labels, STRIDE)
            keys = torch.cat([self.bank.keys, self.latest.key.unsqueeze(1)], dim=1)
            terms = [
                correspondence_loss(keys[:, t], grid[:, t], keys[:, :t].flatten(1, 2), grid[:, :t].flatten(1, 2))
                for t in range(1, keys.shape[1])
            ]
            losses["contrastive"] = self.contrastive_weight * torch.stack(terms).mean()
        return losses

    def parameter_groups(self) -> list[tuple[list[torch.nn.Parameter], float]]:
        """Local attention and gate learn faster than the (usually pretrained) rest."""
        new = [p for part in (self.attention, self.bank) for p in part.parameters() if p.requires_grad]
        ids = {id(p) for p in new}
        groups = [([p for p in group if id(p) not in ids], factor) for group, factor in super().parameter_groups()]
        return [*groups, (new, self.new_parts_lr)]

    def configure_callbacks(self) -> list[Callback]:
        """What of the memory is logged in an evaluation."""
        return [*super().configure_callbacks(), MemoryStatistics(), GateStatistics()]
