"""The correspondence loss of REMN's journal version: an InfoNCE with many positives, on the affinity the network reads.

Known from the abstract: a contrastive training framework that makes query-memory correspondence reliable. The form is
our design: no extra head, temperature or queue.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_vos.functional import l2_similarity

IMPURE = -1


def pure_labels(labels: Tensor, stride: int, purity: float = 0.9) -> Tensor:
    """Label of every grid cell that one label covers to at least ``purity``; -1 for the others.

    Args:
        labels: ``(B, T, H, W)`` uint8 labels, sides multiples of ``stride``.
        stride: cell size, pixels.
        purity: share of the cell.

    Returns:
        ``(B, T, N)`` int64.
    """
    cells = F.unfold(labels.flatten(0, 1).unsqueeze(1).float(), stride, stride=stride).long()  # (BT, stride^2, N)
    label = cells.mode(dim=1).values
    votes = (cells == label.unsqueeze(1)).sum(dim=1)
    return torch.where(votes >= purity * stride**2, label, IMPURE).unflatten(0, labels.shape[:2])


def correspondence_loss(query: Tensor, query_labels: Tensor, memory: Tensor, memory_labels: Tensor) -> Tensor:
    """``- mean_i log(sum_{j: y_j = y_i} W_ij + 1e-8)``, W the softmax of the similarity over pure memory cells.

    The mean is over the pure query cells of each label, then over the labels present, then over clips: a small object
    weighs as much as the background.

    Args:
        query: ``(B, N, C)`` keys of the query frame.
        query_labels: ``(B, N)`` labels, -1 impure.
        memory: ``(B, M, C)`` stored keys.
        memory_labels: ``(B, M)`` labels, -1 impure.

    Returns:
        Scalar; 0 when every query spends all its attention on its own label. A clip without pure cells counts 0.
    """
    similarity = l2_similarity(memory, query)
    pure = (memory_labels != IMPURE).unsqueeze(1)
    # A very negative number instead of -inf: a clip without a pure memory cell must not become NaN.
    log_weights = similarity.masked_fill(~pure, -1e9).log_softmax(dim=-1)
    same = (memory_labels.unsqueeze(1) == query_labels.unsqueeze(2)) & pure
    mass = (log_weights.exp() * same).sum(dim=-1)
    loss = -torch.log(mass + 1e-8)  # (B, N)
    labels = torch.unique(query_labels)
    labels = labels[labels != IMPURE]
    members = (query_labels.unsqueeze(1) == labels.view(1, -1, 1)) & pure.any(dim=-1, keepdim=True)  # (B, L, N)
    count = members.sum(dim=-1)
    per_label = (loss.unsqueeze(1) * members).sum(dim=-1) / count.clamp(min=1)
    present = count > 0
    return ((per_label * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)).mean()
