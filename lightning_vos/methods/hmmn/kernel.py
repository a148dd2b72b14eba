"""The Gaussian kernel of the coarse read: where a memory cell is expected in the query frame, and how far it answers.

Cells of the ``h x w`` grid are numbered row by row, ``index = y * w + x``; distances are in cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_vos.functional import Similarity, dot_similarity

Grid = tuple[int, int]  # (h, w)


def window(grid: Grid, radius: int, device: torch.device) -> Tensor:
    """Cells of the square window around every cell: ``(N, (2 * radius + 1)**2)`` indices.

    Beyond the border the nearest cell inside stands in: it belongs to the window already, so a maximum over the window
    does not change.
    """
    height, width = grid
    offsets = torch.arange(-radius, radius + 1, device=device)
    ys = (torch.arange(height, device=device).unsqueeze(1) + offsets).clamp(0, height - 1)  # (h, 2r+1)
    xs = (torch.arange(width, device=device).unsqueeze(1) + offsets).clamp(0, width - 1)
    return (ys[:, None, :, None] * width + xs[None, :, None, :]).reshape(height * width, -1)


@torch.no_grad()
def hop(memory: Tensor, query: Tensor, grid: Grid, radius: int, similarity: Similarity = dot_similarity) -> Tensor:
    """Where every memory cell goes in the next frame: its most similar query cell in the window around itself.

    ``phi(p) = argmax_q s_pq`` over ``|y_q - y_p| <= radius, |x_q - x_p| <= radius``.

    Args:
        memory: ``(B, K, N, C)`` keys of the newest memory frame.
        query: ``(B, N, C)`` keys of the query frame.
        grid: (h, w).
        radius: of the window, cells.
        similarity: that of the read, with the query cells in the place of the memory: what it leaves out may depend on
            p, not on q.

    Returns:
        ``(B, K, N)`` int64 indices of query cells; no gradient flows through them.
    """
    cells = window(grid, radius, query.device)
    best = similarity(query[:, cells], memory.transpose(1, 2)).argmax(dim=-1)  # of (B, N, K, 49)
    return cells.expand(len(query), -1, -1).gather(2, best).transpose(1, 2)


@torch.no_grad()
def global_centres(memory: Tensor, query: Tensor, similarity: Similarity = dot_similarity) -> Tensor:
    """The kernel centres of KMN (Seong et al., ECCV 2020): the most similar query cell, wherever it is.

    Args:
        memory: ``(B, T, K, N, C)`` keys of the stored frames.
        query: ``(B, N, C)``.
        similarity: as in :func:`hop`.

    Returns:
        ``(B, T, K, N)`` int64.
    """
    # One frame at a time: all affinities at once would grow with the memory.
    return torch.stack([similarity(query.unsqueeze(1), frame).argmax(dim=-1) for frame in memory.unbind(1)], dim=1)


def squared_distance(coordinate: Tensor, positions: range, sigma: Tensor) -> Tensor:
    """One axis of the kernel's exponent, ``(q - c(p))^2 / (2 sigma^2)``; the kernel is ``exp(-(rows + columns))``.

    Args:
        coordinate: ``(..., T, N)`` row or column of every centre.
        positions: rows or columns of the query cells.
        sigma: ``(T,)`` width of every stored frame's kernel.

    Returns:
        ``(..., len(positions), T * N)``.
    """
    query = torch.arange(positions.start, positions.stop, device=coordinate.device)
    distance = (query[:, None, None] - coordinate.unsqueeze(-3)).to(sigma.dtype)
    return (distance**2 / (2 * sigma**2).unsqueeze(-1)).flatten(-2)
