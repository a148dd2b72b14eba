"""A bank filled with random frames, and the read as plain loops."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_vos.methods.remn.memory import (
    DynamicMemoryBank,
    GateSettings,
)


def filled_bank(
    frames: int, batch: int = 1, seed: int = 0, positions: int = 6, **settings: object
) -> DynamicMemoryBank:
    torch.manual_seed(0)
    positions = 6
    gate = {"min_frames": 10_000} | {
        name: settings.pop(name) for name in ("enabled", "min_frames", "ranking") if name in settings
    }
    bank = DynamicMemoryBank(key_dim=8, gate=GateSettings(**gate), **{"capacity": None, **settings}).double()
    torch.nn.init.normal_(bank.gate.last.weight)
    for t in range(frames):
        bank.remember(
            torch.randn(batch, positions, 8, dtype=torch.float64),
            torch.randn(batch, positions, 2, 5, dtype=torch.float64),
            torch.rand(batch, positions, dtype=torch.float64),
            frame_id=t,
            protected=t == 0,
        )
    return bank


def loop_read(keys: Tensor, values: Tensor, query: Tensor, top_k: int | None) -> Tensor:
    """STCN's read of one clip by loops: ``(M, C), (M, D), (N, C) -> (N, D)``."""
    out = []
    for q in query:
        scores = torch.stack([-(k - q).pow(2).sum() / math.sqrt(len(q)) for k in keys])
        chosen = scores.argsort(descending=True)[: top_k or len(scores)]
        weights = torch.softmax(scores[chosen], dim=0)
        out.append((weights.unsqueeze(1) * values[chosen]).sum(0))
    return torch.stack(out)
