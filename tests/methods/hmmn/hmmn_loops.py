"""Random keys, filled banks, small sizes, and HMMN's reads as plain loops."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lightning_vos import HMMN
from lightning_vos.functional import one_hot
from lightning_vos.methods.hmmn.memory import KernelGuidedBank

GRID = (5, 7)
CELLS = 35
ALL = slice(None)


def keys(*shape: int, seed: int = 0, channels: int = 6) -> Tensor:
    """Random keys or values ``(*shape, CELLS, channels)``."""
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*shape, CELLS, channels, generator=generator, dtype=torch.float64)


def filled(frames: int, objects: int = 2, **settings: Any) -> KernelGuidedBank:
    """A bank after ``frames`` frames that all stay, each tracked into the next."""
    bank = KernelGuidedBank(None, **settings).eval()
    for t in range(frames):
        if t:
            bank.track(keys(1, seed=100 + t), GRID)
        bank.write(keys(1, objects, seed=t), keys(1, objects, seed=50 + t, channels=4), t)
    return bank


def read(bank: KernelGuidedBank, query: Tensor, top_k: int = 0, start: int = 0) -> tuple[Tensor, Tensor]:
    bank.track(query, GRID)
    return bank.read(query, GRID, ALL, start, top_k)


def place(cell: int) -> tuple[int, int]:
    return cell // GRID[1], cell % GRID[1]


def looped_hop(stored: Tensor, query: Tensor, radius: int = 3) -> list[int]:
    """``(N, C)`` twice: the best query cell of every memory cell within its window."""
    best = []
    for p in range(CELLS):
        near = [q for q in range(CELLS) if max(abs(a - b) for a, b in zip(place(p), place(q), strict=True)) <= radius]
        best.append(max(near, key=lambda q: float(stored[p] @ query[q])))
    return best


def looped_read(
    stored: Tensor, values: Tensor, query: Tensor, centres: list[list[int]] | None, sigmas: list[float]
) -> tuple[Tensor, Tensor]:
    """One object: softmax, times the kernel, divided by its sum.

    ``(T, N, C), (T, N, E), (N, C)`` to the readout ``(N, E)`` and the attention ``(N, T, N)``.
    """
    frames = len(stored)
    out, attention = torch.zeros(CELLS, values.shape[-1], dtype=torch.float64), torch.zeros(CELLS, frames, CELLS)
    attention = attention.double()
    for q in range(CELLS):
        for t in range(frames):
            for p in range(CELLS):
                gauss = 1.0
                if centres is not None:
                    squared = math.dist(place(q), place(centres[t][p])) ** 2
                    gauss = math.exp(-squared / (2 * sigmas[t] ** 2))
                attention[q, t, p] = math.exp(float(stored[t, p] @ query[q]) / math.sqrt(stored.shape[-1])) * gauss
        attention[q] /= attention[q].sum()
        for t in range(frames):
            for p in range(CELLS):
                out[q] += attention[q, t, p] * values[t, p]
    return out, attention


def fine_problem(frames: int = 2, pixels: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    query = 2 * torch.randn(1, CELLS, pixels, 5, generator=generator, dtype=torch.float64)
    stored = 2 * torch.randn(1, frames * CELLS, pixels, 5, generator=generator, dtype=torch.float64)
    values = torch.randn(1, frames * CELLS, pixels, 3, generator=generator, dtype=torch.float64)
    return query, stored, values


def tiny_sizes() -> dict[str, Any]:
    sizes = {"key_dims": (8, 8, 8), "value_dims": (8, 8, 8), "decoder_dim": 8}
    return {"query_trunk": "resnet10", "memory_trunk": "resnet10", "norm": "group", **sizes}


def stream(model: HMMN, frames: Tensor, labels: Tensor, objects: int) -> Tensor:
    with model.sequence():
        logits = [
            model.step(frames[:, t], one_hot(labels[:, 0], objects) if t == 0 else None) for t in range(frames.shape[1])
        ]
    return torch.stack(logits, dim=1)
