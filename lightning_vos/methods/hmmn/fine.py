"""The fine memories of HMMN: first and previous frame at strides 8 and 4, read where the coarse read points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_vos.functional import Similarity, dot_similarity
from lightning_vos.memory import SequenceState
from lightning_vos.settings import Checked

CHUNK_BYTES = 2**23  # of gathered keys and values; small enough to stay in a cache


@dataclass(frozen=True)
class FineSettings(Checked):
    """The fine reads.

    Args:
        reads: 0: coarse read only; 1: also stride 8; 2: also stride 4.
        top_k: memory cells of the first and the previous frame that guide the read at stride 8; a quarter of them
            guides that at stride 4.
        dropout: probability that a fine read is left out of the decoder in training, as a whole: one draw for each
            scale and frame, the same for all clips of a step.

    Raises:
        ValueError: another number of reads, or fewer than one cell.
    """

    reads: Literal[0, 1, 2] = 2
    top_k: int = 32
    dropout: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_k < 1:
            raise ValueError(f"top_k={self.top_k}: must be at least 1")

    def cells(self, level: int) -> int:
        """How many cells are opened at stride 8 (level 0) or at stride 4 (level 1)."""
        return max(1, self.top_k // 4**level)


def by_cell(x: Tensor, side: int) -> Tensor:
    """View of a map with its pixels grouped by coarse cell.

    ``(..., C, h * side, w * side)`` to ``(..., h, w, side, side, C)``.
    """
    x = x.movedim(-3, -1)
    return x.unflatten(-2, (-1, side)).unflatten(-4, (-1, side)).transpose(-4, -3)


def to_map(x: Tensor) -> Tensor:
    """Undo :func:`by_cell`: ``(..., h, w, side, side, C)`` to ``(..., C, h * side, w * side)``, channels-last."""
    return x.transpose(-4, -3).flatten(-5, -4).flatten(-3, -2).movedim(-1, -3)


def guided_attention(
    query: Tensor, keys: Tensor, values: Tensor, cells: Tensor, similarity: Similarity = dot_similarity
) -> Tensor:
    """Attention of the pixels of a query cell to the pixels of the memory cells chosen for it.

    ``z_u = sum_n softmax_n(s_nu) v_n`` over the ``k * S`` pixels n of the k chosen cells; s the similarity of keys.

    Args:
        query: ``(R, N, S, C_k)``, S pixels of every query cell.
        keys: ``(R, M, S, C_k)``, S pixels of every memory cell.
        values: ``(R, M, S, C_v)``.
        cells: ``(R, N, k)`` int64 in [0, M).
        similarity: of keys; the paper's is the scaled dot product.

    Returns:
        ``(R, N, S, C_v)``. Peak memory is bounded: query cells are processed in pieces.
    """
    rows, memory, pixels = keys.shape[:3]
    chosen = cells.shape[-1]
    offset = memory * torch.arange(rows, device=cells.device).view(-1, 1, 1)
    index = (cells + offset).flatten(0, 1)  # (R * N, k)
    query = query.flatten(0, 1)
    keys, values = keys.reshape(rows * memory, -1), values.reshape(rows * memory, -1)
    cell_bytes = chosen * (keys.shape[1] + values.shape[1]) * keys.element_size()
    pieces = []
    for part, which in zip(
        *(tensor.split(max(1, CHUNK_BYTES // cell_bytes)) for tensor in (query, index)), strict=True
    ):
        # Whole cells are gathered, S pixels of one cell lying together: long runs, not single pixels.
        near_keys = keys.index_select(0, which.flatten()).view(len(part), chosen * pixels, -1)
        near_values = values.index_select(0, which.flatten()).view(len(part), chosen * pixels, -1)
        attention = similarity(near_keys, part).softmax(dim=-1)
        pieces.append(attention.to(near_values.dtype) @ near_values)
    return torch.cat(pieces).unflatten(0, (rows, -1))


class FineMemory(SequenceState):
    """Keys and values of every object's first frame and of the previous frame, at one fine stride.

    Shapes: ``(B, K, 2, h, w, side, side, C)``: first frame, previous frame; pixels grouped by the coarse cell that they
    belong to.

    Args:
        side: fine pixels along the side of a coarse cell: 2 at stride 8, 4 at stride 4.
        similarity: of keys.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, side: int, similarity: Similarity = dot_similarity) -> None:
        super().__init__("keys", "values")
        self.similarity = similarity
        self.side = side

    def write(self, key: Tensor, value: Tensor, new: list[bool]) -> None:
        """Replace the previous frame; for objects that are given for the first time also their first frame.

        Args:
            key: ``(B, K, C_k, side * h, side * w)``; K may have grown since the last write.
            value: ``(B, K, C_v, side * h, side * w)``.
            new: for each of the K objects, whether this is its first frame.
        """
        for name, entry in (("keys", by_cell(key, self.side)), ("values", by_cell(value, self.side))):
            stored = getattr(self, name)
            if stored is not None and not any(new) and not torch.is_grad_enabled():
                stored[:, :, 1] = entry  # nothing is allocated, and the first frame is not copied again
                continue
            first = entry if stored is None else stored[:, :, 0]
            if stored is not None and any(new):
                first = F.pad(first, (0, 0) * 5 + (0, entry.shape[1] - first.shape[1]))
                is_new = torch.tensor(new, device=entry.device).view(1, -1, *(1,) * 5)
                first = torch.where(is_new, entry, first)
            setattr(self, name, torch.stack([first, entry], dim=2))

    def read(self, query: Tensor, cells: Tensor, objects: slice | Tensor, alone: bool) -> Tensor:
        """Read at the chosen cells.

        Args:
            query: ``(B, C_k, side * h, side * w)`` keys of the query frame.
            cells: ``(B, K', N, k)`` chosen cells of (first frame, previous frame), as the coarse read numbers them.
            objects: which of the K objects.
            alone: first and previous frame are one.

        Returns:
            ``(B, K', C_v, side * h, side * w)``.
        """
        frames = slice(1, 2) if alone else slice(0, 2)
        keys, values = (stored[:, objects][:, :, frames] for stored in (self.keys, self.values))
        batch, chosen, _, height, width = keys.shape[:5]
        pixels = by_cell(query, self.side).flatten(1, 2).flatten(2, 3)  # (B, N, S, C_k)
        read = guided_attention(
            pixels.unsqueeze(1).expand(-1, chosen, -1, -1, -1).flatten(0, 1),
            keys.flatten(0, 1).flatten(1, 3).flatten(2, 3),
            values.flatten(0, 1).flatten(1, 3).flatten(2, 3),
            cells.flatten(0, 1),
            self.similarity,
        )
        return to_map(read.view(batch, chosen, height, width, self.side, self.side, -1))
