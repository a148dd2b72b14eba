"""REMN: robust and efficient memory network.

Chen et al., "Robust and Efficient Memory Network for Video Object Segmentation", ICME 2023 (arXiv 2304.11840), and the
journal version in IEEE TCSVT 34(5), 2024. Only the abstracts were available to us: the base network is STCN's (Cheng
et al., NeurIPS 2021), the three parts that the abstracts name are our design. ``docs/remn.md`` says which number comes
from where.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_vos.blocks.backbone import Backbone, Norm, Trunk
from lightning_vos.blocks.decoder import MaskDecoder
from lightning_vos.memory import SequenceState
from lightning_vos.methods.remn.contrastive import correspondence_loss, pure_labels
from lightning_vos.methods.remn.memory import DynamicMemoryBank, Ranking, efficiency_loss
from lightning_vos.methods.remn.network import STRIDE, KeyProjection, LocalAttention, ValueEncoder
from lightning_vos.methods.remn.update import AdaptiveMemoryUpdate
from lightning_vos.module import VOSModule


class Features(NamedTuple):
    """Of a frame, before the previous mask is known: normalised image and the key trunk's pyramid."""

    image: Tensor
    f4: Tensor
    f8: Tensor
    f16: Tensor


class FrameQuery(NamedTuple):
    """Of a frame, after local attention: ``key (B, N, C)``, ``thin (B, C', h, w)``, and the ungated features."""

    features: Features
    key: Tensor
    thin: Tensor


class LatestKey(SequenceState):
    """``key (B, N, C)`` of the last frame: it is never written to the bank, but the correspondence loss needs it."""

    key: Tensor


class REMN(VOSModule):
    """STCN with local attention, a dynamic memory bank and an adaptive memory update.

    Every part can be switched off; with ``local_attention=False, gate=False, adaptive_update=False, capacity=null`` the
    network is the plain baseline that stores every ``memory_every``-th frame. Parts that are off keep their (frozen)
    parameters, so checkpoints fit every ablation.

    Args:
        key_trunk: ResNet of the key encoder (ResNet-50 in STCN).
        value_trunk: ResNet of the value encoder (ResNet-18 in STCN).
        norm: ``frozen_batch`` with pretrained weights, ``group`` from scratch.
        backbone_weights: ``imagenet``, the path of a state dict of the key trunk, or null for a random start; with
            ``imagenet`` the value trunk starts from ImageNet too.
        key_dim: channels of a key.
        value_dim: channels of a value and of the thin feature.
        decoder_dim: width of the decoder at strides 8 and 4.
        local_attention: suppress features far from the previous mask before matching.
        gate: let the soft modulation gate decide how many stored frames to remove.
        adaptive_update: write a frame when the foreground has varied; otherwise every ``memory_every``-th frame.
        memory_every: interval of the plain update, frames.
        capacity: T_max, stored frames at most; null for no bound.
        gate_from: T_on, stored frames from which the gate removes frames at test time.
        ranking: which frames the gate removes first.
        keep_target: kept share of the removable frames that costs nothing in training.
        gate_start: share of the video stage during which the gate is off.
        top_k: memory positions that a query reads at test time; null for all.
        shape_threshold: tau_s of the adaptive update.
        appearance_threshold: tau_a of the adaptive update.
        min_confidence: mean foreground probability below which a frame is not written by the adaptive update.
        efficiency_weight: weight of the loss that makes the gate close.
        contrastive_weight: weight of the correspondence loss of the journal version; 0.1 there, 0 for plain REMN.
        new_parts_lr: learning rate of local attention and gate relative to the rest.
        **kwargs: see :class:`~lightning_vos.module.VOSModule`.
    """

    def __init__(
        self,
        key_trunk: Trunk = "resnet50",
        value_trunk: Trunk = "resnet18",
        norm: Norm = "frozen_batch",
        backbone_weights: str | None = None,
        key_dim: int = 64,
        value_dim: int = 512,
        decoder_dim: int = 256,
        local_attention: bool = True,
        gate: bool = True,
        adaptive_update: bool = True,
        memory_every: int = 5,
        capacity: int | None = 20,
        gate_from: int = 8,
        ranking: Ranking = "redundancy",
        keep_target: float = 0.6,
        gate_start: float = 0.3,
        top_k: int | None = 20,
        shape_threshold: float = 0.3,
        appearance_threshold: float = 0.1,
        min_confidence: float = 0.8,
        efficiency_weight: float = 1.0,
        contrastive_weight: float = 0.0,
        new_parts_lr: float = 10.0,
        **kwargs: Any,
    ) -> None:
        """See the class."""
        super().__init__(**kwargs)
        self.save_hyperparameters(ignore=["weights"])
        self.use_local_attention = local_attention
        self.adaptive_update = adaptive_update
        self.memory_every = memory_every
        self.gate_start = gate_start
        self.efficiency_weight = efficiency_weight
        self.contrastive_weight = contrastive_weight
        self.new_parts_lr = new_parts_lr

        self.key_encoder = Backbone(key_trunk, norm, backbone_weights)
        c4, c8, c16 = self.key_encoder.channels
        self.attention = LocalAttention(c16).requires_grad_(local_attention)
        self.projection = KeyProjection(c16, key_dim, value_dim)
        value_weights: Literal["imagenet"] | None = "imagenet" if backbone_weights == "imagenet" else None
        self.value_encoder = ValueEncoder(c16, value_dim, value_trunk, norm, value_weights)
        self.decoder = MaskDecoder(2 * value_dim, (c8, c4), decoder_dim)
        self.bank = DynamicMemoryBank(key_dim, gate, capacity, gate_from, keep_target, ranking, top_k)
        self.latest = LatestKey("key")
        self.memory_update = AdaptiveMemoryUpdate(shape_threshold, appearance_threshold, min_confidence=min_confidence)

    def encode(self, image: Tensor) -> Features:
        """Key trunk on all frames at once: ``(B, 3, H, W)``."""
        return Features(image, *self.key_encoder(image))

    def query(self, features: Features) -> FrameQuery:
        """Local attention with the previous mask, then key and thin feature. The key serves reading *and* storing."""
        f16 = features.f16
        if self.use_local_attention:
            f16 = self.attention(f16, self.tracks.union)
        key, thin = self.projection(f16)
        key = key.flatten(2).transpose(1, 2)
        self.latest.key = key
        return FrameQuery(features, key, thin)

    def segment(self, query: FrameQuery) -> Tensor:
        """Read the bank and decode: ``(B, K, H, W)`` logits."""
        height, width = query.thin.shape[-2:]
        readout = self.bank.read(query.key, self.tracks.births)  # (B, N, K, C)
        readout = readout.permute(0, 2, 3, 1).unflatten(-1, (height, width))
        return self.decoder(readout, query.thin, query.features.f8, query.features.f4)

    def memorize(self, query: FrameQuery, probs: Tensor, given: Tensor | None) -> None:
        """Write the frame if the update asks for it; in training every frame is written."""
        t, writes = self.tracks.t, None
        if not self.training:
            if self.adaptive_update:
                writes = self.memory_update.observe(probs, query.key, t, given)
                if writes is None:
                    return
            elif given is None and t % self.memory_every:
                return
        values = self.value_encoder(query.features.image, query.features.f16, probs)
        self.bank.remember(
            query.key,
            values.flatten(3).permute(0, 3, 1, 2),
            F.avg_pool2d(self.tracks.union, STRIDE).flatten(1),
            frame_id=t,
            protected=given is not None,
            writes=writes,
        )

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """As the base class, with the gate's schedule: off until ``gate_start``, then tau from 1 to 0.1."""
        share = (self.progress - self.gate_start) / max(1e-9, 1 - self.gate_start)
        self.bank.gate_active = share >= 0
        self.bank.temperature = 0.1 ** min(1.0, max(0.0, share) / 0.8)
        return super().training_step(*args, **kwargs)

    def auxiliary_losses(self, labels: Tensor) -> dict[str, Tensor]:
        """Efficiency loss of the gate and, if wanted, the correspondence loss."""
        losses = {}
        if self.bank.kept:
            kept = torch.stack(self.bank.kept, dim=1)  # (B, reads)
            if self._trainer is not None and self._trainer.world_size > 1:
                # The hinge comes after the mean over the *global* batch, whatever the number of devices.
                gathered = self.all_gather(kept, sync_grads=True)
                kept = torch.as_tensor(gathered).flatten(0, 1)
            self.log("train/keep", kept.detach().mean(), batch_size=len(labels))
            losses["efficiency"] = (
                self.efficiency_weight
                * torch.stack([efficiency_loss(keep, self.bank.keep_target) for keep in kept.unbind(1)]).mean()
            )
        elif self.bank.gate_enabled:
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

    def on_validation_epoch_start(self) -> None:
        """Count the gate's decisions anew."""
        self.bank.decisions = [0, 0, 0]

    def on_validation_epoch_end(self) -> None:
        """Log how often the gate chose to keep all, half and a quarter of the removable frames."""
        counts = zip(("all", "half", "quarter"), self.bank.decisions, strict=True)
        values = {f"val/gate_keeps_{name}": float(count) for name, count in counts}
        self.log_dict(values, reduce_fx="sum", sync_dist=True, batch_size=1)

    def parameter_groups(self) -> list[tuple[list[torch.nn.Parameter], float]]:
        """Local attention and gate learn faster than the (usually pretrained) rest."""
        new = [p for part in (self.attention, self.bank) for p in part.parameters() if p.requires_grad]
        ids = {id(p) for p in new}
        return [
            ([p for p in self.parameters() if p.requires_grad and id(p) not in ids], 1.0),
            (new, self.new_parts_lr),
        ]
