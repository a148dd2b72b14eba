"""REMN's network: STCN with local attention, a dynamic memory bank and an adaptive memory update."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_vos.blocks.backbone import build_backbone
from lightning_vos.blocks.decoder import MaskDecoder
from lightning_vos.blocks.normalization import Norm
from lightning_vos.functional import to_float
from lightning_vos.memory import SequenceState
from lightning_vos.methods.remn.memory import DynamicMemoryBank, GateSettings
from lightning_vos.methods.remn.network import STRIDE, KeyProjection, LocalAttention, ValueEncoder
from lightning_vos.methods.remn.update import AdaptiveMemoryUpdate, UpdateSettings
from lightning_vos.segmenter import Segmenter


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


class REMNSegmenter(Segmenter):
    """STCN with local attention, a dynamic memory bank and an adaptive memory update.

    Every part can be switched off; with ``local_attention=False``, ``capacity=None``, gate and update not ``enabled``
    the network is the plain baseline that stores every ``memory_every``-th frame. Parts that are off keep their
    (frozen) parameters, so checkpoints fit every ablation.

    Args:
        key_trunk: of the key encoder (ResNet-50 in STCN); see :func:`~lightning_vos.blocks.backbone.build_backbone`.
        value_trunk: of the value encoder (ResNet-18 in STCN).
        norm: ``frozen_batch`` with pretrained weights, ``group`` from scratch.
        backbone_weights: ``imagenet``, the path of a state dict of the key trunk, or null for a random start; with
            ``imagenet`` the value trunk starts from ImageNet too, unless it has ``scratch_norm``.
        scratch_norm: of the value trunk, if it is to start from scratch while the key trunk is pretrained; null: it is
            as the key trunk is.
        key_dim: channels of a key.
        value_dim: channels of a value and of the thin feature.
        decoder_dim: width of the decoder at strides 8 and 4.
        local_attention: suppress features far from the previous mask before matching.
        gate: of the memory bank; decides how many stored frames to remove.
        update: decides which frames are written; if it is off, every ``memory_every``-th is.
        memory_every: interval of the plain update, frames.
        capacity: T_max, stored frames at most; null for no bound.
        top_k: memory positions that a query reads at test time; null for all.
        **kwargs: see :class:`~lightning_vos.segmenter.Segmenter`.
    """

    folds_norms = True

    def __init__(
        self,
        key_trunk: str = "resnet50",
        value_trunk: str = "resnet18",
        norm: Norm = "frozen_batch",
        backbone_weights: str | None = None,
        scratch_norm: Norm | None = None,
        key_dim: int = 64,
        value_dim: int = 512,
        decoder_dim: int = 256,
        local_attention: bool = True,
        gate: GateSettings = GateSettings(),
        update: UpdateSettings = UpdateSettings(),
        memory_every: int = 5,
        capacity: int | None = 20,
        top_k: int | None = 20,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.use_local_attention = local_attention
        self.memory_every = memory_every

        self.key_encoder = build_backbone(key_trunk, norm, backbone_weights)
        c4, c8, c16 = self.key_encoder.channels
        self.attention = LocalAttention(c16).requires_grad_(local_attention)
        self.projection = KeyProjection(c16, key_dim, value_dim)
        value_weights = "imagenet" if backbone_weights == "imagenet" and scratch_norm is None else None
        self.value_encoder = ValueEncoder(c16, value_dim, value_trunk, scratch_norm or norm, value_weights)
        self.decoder = MaskDecoder(2 * value_dim, (c8, c4), decoder_dim)
        self.bank = DynamicMemoryBank(key_dim, gate, capacity, top_k)
        self.latest = LatestKey("key")
        self.update = AdaptiveMemoryUpdate(update)

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
        """Read the bank and decode: ``(B, K', H, W)`` probabilities."""
        height, width = query.thin.shape[-2:]
        readout = self.bank.read(query.key, self.tracks.births[: self.tracks.started])  # (B, N, K, C)
        readout = readout.permute(0, 2, 3, 1).unflatten(-1, (height, width))
        logits = self.decoder(readout, query.thin, query.features.f8, query.features.f4)
        return torch.sigmoid(to_float(logits))

    def memorize(self, query: FrameQuery, probs: Tensor, merged: Tensor, given: Tensor | None) -> None:
        """Write the frame if the update asks for it; in training every frame is written."""
        t, writes = self.tracks.t, None
        if not self.training:
            if self.update.enabled:
                writes = self.update.observe(merged, query.key, t, given)
                if writes is None:
                    return
            elif given is None and t % self.memory_every:
                return
        values = self.value_encoder(query.features.image, query.features.f16, merged)
        self.bank.remember(
            query.key,
            values.flatten(3).permute(0, 3, 1, 2),
            F.avg_pool2d(self.tracks.union, STRIDE).flatten(1),
            frame_id=t,
            protected=given is not None,
            writes=writes,
        )
