"""The arithmetic that methods share; pure functions of tensors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-7  # smallest probability of the soft aggregation


def to_float(tensor: Tensor) -> Tensor:
    """Out of half precision: float32, or float64 where it is that already."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """``torch.autocast`` switched off on the tensor's device; nothing where it is not on, as no export knows it."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def one_hot(labels: Tensor, num_objects: int) -> Tensor:
    """Masks of the objects.

    Args:
        labels: ``(..., H, W)`` uint8, 0 background, 1..K; other values (void) belong to nobody.
        num_objects: K.

    Returns:
        ``(..., K, H, W)`` float32 in {0, 1}.
    """
    ids = torch.arange(1, num_objects + 1, device=labels.device, dtype=labels.dtype)
    return (labels.unsqueeze(-3) == ids.view(-1, 1, 1)).float()


def aggregate(probs: Tensor) -> Tensor:
    """Soft aggregation: independent object probabilities become log-odds over background and objects.

    ``p_0 = prod_o (1 - p_o)``; all maps clamped to [1e-7, 1 - 1e-7]; ``l = log(p / (1 - p))``; the softmax of ``l``
    over the K+1 maps is the normalised result (STM, Oh et al. 2019, eq. 3). Always in float32 or float64: in half
    precision 1 - 1e-7 rounds to 1.

    Args:
        probs: ``(B, K, H, W)`` in [0, 1].

    Returns:
        ``(B, K+1, H, W)`` logits, background first.
    """
    probs = to_float(probs)
    background = torch.prod(1 - probs, dim=1, keepdim=True)
    return torch.logit(torch.cat([background, probs], dim=1).clamp(EPSILON, 1 - EPSILON))


def merge_by_maximum(probs: Tensor) -> Tensor:
    """Background is what no object claims: ``p_0 = 1 - max_k p_k``.

    The label is then the object with the largest probability where that is above a half, and else the background.

    Args:
        probs: ``(B, K, H, W)`` in [0, 1].

    Returns:
        ``(B, K+1, H, W)`` logarithms, background first; for one object their softmax is ``p``.
    """
    background = 1 - probs.amax(dim=1, keepdim=True)
    return torch.cat([background, probs], dim=1).clamp(min=EPSILON).log()


def pad_to_stride(image: Tensor, stride: int) -> tuple[Tensor, tuple[int, int, int, int]]:
    """Zero-pad ``(..., H, W)`` symmetrically to multiples of ``stride``; an odd pixel goes to the right or bottom.

    Returns:
        The padded tensor and the pads (left, right, top, bottom), for :func:`unpad`.
    """
    height, width = image.shape[-2:]
    extra_h, extra_w = -height % stride, -width % stride
    pads = (extra_w // 2, extra_w - extra_w // 2, extra_h // 2, extra_h - extra_h // 2)
    return (F.pad(image, pads) if extra_h or extra_w else image), pads


def unpad(image: Tensor, pads: tuple[int, int, int, int]) -> Tensor:
    """Undo :func:`pad_to_stride` on ``(..., H, W)``."""
    left, right, top, bottom = pads
    return image[..., top : image.shape[-2] - bottom, left : image.shape[-1] - right]


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest-neighbour resize of ``(H, W)`` uint8 labels, sampling pixel centres."""
    if labels.shape[-2:] == torch.Size(size):
        return labels
    return F.interpolate(labels[None, None].float(), size=size, mode="nearest-exact")[0, 0].to(labels.dtype)


def shrink_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """:func:`resize_labels` that keeps every object: one that would vanish gets the free pixel nearest to its middle.

    A pixel is free that is not the only one of another object; where there are more objects than pixels, some vanish.

    Args:
        labels: ``(H, W)`` uint8.
        size: ``(h, w)``.

    Returns:
        ``(h, w)`` uint8.
    """
    resized = resize_labels(labels, size)
    if resized is labels:
        return labels
    kept = set(resized.unique().tolist())
    for label in labels.unique().tolist():
        if label == 0 or label in kept:
            continue
        free = (resized == 0) | (torch.bincount(resized.flatten(), minlength=256)[resized.long()] > 1)
        if not free.any():
            break
        middle = (labels == label).nonzero().float().add(0.5).mean(dim=0)
        row, column = (middle[i] * size[i] / labels.shape[i] - 0.5 for i in (0, 1))
        rows, columns = (torch.arange(side, device=labels.device) for side in size)
        distance = (rows - row).square()[:, None] + (columns - column).square()
        resized.view(-1)[distance.masked_fill(~free, float("inf")).argmin()] = label
    return resized


def tight_boxes(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Box around each mask.

    Args:
        masks: ``(..., H, W)`` bool.

    Returns:
        ``(..., 4)`` float, first and last column and row: x0, y0, x1, y1; the whole frame for an empty mask.
        ``(...)`` bool, whether there is any pixel.
    """
    ends = []
    for along in (masks.any(dim=-2), masks.any(dim=-1)):  # columns, rows
        along = along.byte()
        ends.append((along.argmax(dim=-1), along.shape[-1] - 1 - along.flip(-1).argmax(dim=-1)))
    boxes = torch.stack([ends[0][0], ends[1][0], ends[0][1], ends[1][1]], dim=-1).float()
    seen = masks.flatten(-2).any(dim=-1)
    return boxes, seen


def intersection_over_union(a: Tensor, b: Tensor) -> Tensor:
    """IoU of every mask of one list with every mask of another.

    Args:
        a: ``(B, n, H, W)`` bool.
        b: ``(B, m, H, W)`` bool.

    Returns:
        ``(B, n, m)`` float; 0 for two empty masks.
    """
    a, b = a.flatten(2).float(), b.flatten(2).float()
    with without_autocast(a):  # half precision cannot count to 257
        shared = a @ b.transpose(1, 2)
    return shared / (a.sum(2).unsqueeze(2) + b.sum(2).unsqueeze(1) - shared + 1e-6)


Similarity = Callable[[Tensor, Tensor], Tensor]


def dot_similarity(memory: Tensor, query: Tensor) -> Tensor:
    """Scaled dot product ``s_ij = k_j . q_i / sqrt(C)`` (STM, Oh et al. 2019); arguments of :func:`l2_similarity`."""
    with without_autocast(query):
        memory, query = to_float(memory), to_float(query)
        return (memory.shape[-1] ** -0.5 * query) @ memory.transpose(-1, -2)


def l2_similarity(memory: Tensor, query: Tensor) -> Tensor:
    """Negative squared distance up to a term constant in the memory position (STCN, Cheng et al. 2021).

    ``s_ij = (2 k_j . q_i - |k_j|^2) / sqrt(C)``; its softmax over j equals that of ``-|k_j - q_i|^2 / sqrt(C)``.

    Args:
        memory: ``(..., M, C)`` memory keys k.
        query: ``(..., N, C)`` query keys q.

    Returns:
        ``(..., N, M)``, float32 at least: half precision is not enough for a difference of squares.
    """
    with without_autocast(query):
        memory, query = to_float(memory), to_float(query)
        scale = memory.shape[-1] ** -0.5
        offset = (scale * memory.pow(2).sum(-1)).unsqueeze(-2)
        # In place: the (N, M) matrix is the largest tensor of the whole method.
        return ((2 * scale * query) @ memory.transpose(-1, -2)).sub_(offset)


def topk_read(similarity: Tensor, values: Tensor, k: int) -> Tensor:
    """Softmax over the ``k`` most similar memory positions of every query, and the weighted sum of their values.

    Args:
        similarity: ``(B, N, M)``; ``-inf`` marks positions that must not be read (at least one must be readable).
        values: ``(B, M, C)``.
        k: positions that enter the softmax, at least 1; fewer when M is smaller.

    Returns:
        ``(B, N, C)``.
    """
    batch, num_queries, num_memory = similarity.shape
    best, indices = similarity.topk(min(k, num_memory), dim=-1)
    weights = best.softmax(dim=-1)  # exp(-inf) = 0: a masked position that had to fill up the k adds nothing
    rows = indices + num_memory * torch.arange(batch, device=indices.device).view(-1, 1, 1)
    # embedding_bag is a fused gather-and-add: the (N, k, C) tensor of gathered values never exists.
    out = F.embedding_bag(
        rows.flatten(0, 1),
        values.reshape(batch * num_memory, -1),
        per_sample_weights=weights.flatten(0, 1).to(values.dtype),
        mode="sum",
    )
    return out.view(batch, num_queries, -1)


def to_labels(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Label maps at the original size: probabilities are up-sampled before the arg-max.

    Args:
        logits: ``(B, K+1, h, w)``, background first.
        size: ``(H, W)``.

    Returns:
        ``(B, H, W)`` uint8.
    """
    if logits.shape[-2:] != torch.Size(size):
        logits = F.interpolate(torch.softmax(logits, dim=1), size=size, mode="bilinear", align_corners=False)
    return logits.argmax(dim=1).to(torch.uint8)
