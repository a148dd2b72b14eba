"""Textbook versions of the measures: full frames, nothing clever. What the fast ones are tested and timed against."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def boundary_map(mask: Tensor) -> Tensor:
    """``(H, W)`` bool -> bool map of the pixels that differ from their right, lower or lower right neighbour."""
    right, down, diagonal = torch.zeros_like(mask), torch.zeros_like(mask), torch.zeros_like(mask)
    right[:, :-1] = mask[:, 1:]
    down[:-1] = mask[1:]
    diagonal[:-1, :-1] = mask[1:, 1:]
    bounds = (mask ^ right) | (mask ^ down) | (mask ^ diagonal)
    bounds[-1] = mask[-1] ^ right[-1]
    bounds[:, -1] = mask[:, -1] ^ down[:, -1]
    bounds[-1, -1] = False
    return bounds


def dilate_by_shifts(mask: Tensor, radius: int) -> Tensor:
    """Dilation of ``(H, W)`` bool by a disk: one shift of the whole frame per pixel of the disk."""
    height, width = mask.shape
    padded = functional.pad(mask, (radius, radius, radius, radius))
    result = torch.zeros_like(mask)
    for dy in range(2 * radius + 1):
        for dx in range(2 * radius + 1):
            if (dy - radius) ** 2 + (dx - radius) ** 2 <= radius**2:
                result |= padded[dy : dy + height, dx : dx + width]
    return result


def dilate_by_convolution(mask: Tensor, radius: int) -> Tensor:
    """Dilation of ``(H, W)`` bool by a disk: one convolution with the disk."""
    steps = torch.arange(-radius, radius + 1)
    disk = (steps[:, None] ** 2 + steps**2 <= radius**2).float()
    return functional.conv2d(mask[None, None].float(), disk[None, None], padding=radius)[0, 0] > 0.5


def region_similarity(pred: Tensor, target: Tensor, void: Tensor | None = None) -> float:
    """J of two ``(H, W)`` bool masks."""
    if void is not None:
        pred, target = pred & ~void, target & ~void
    union = int((pred | target).sum())
    return int((pred & target).sum()) / union if union else 1.0


def boundary_accuracy(
    pred: Tensor, target: Tensor, void: Tensor | None = None, tolerance: float = 0.008, convolve: bool = False
) -> float:
    """F of two ``(H, W)`` bool masks, on the full frame."""
    if void is not None:
        pred, target = pred & ~void, target & ~void
    radius = int(tolerance) if tolerance >= 1 else math.ceil(tolerance * float(np.linalg.norm(pred.shape)))
    dilate = dilate_by_convolution if convolve else dilate_by_shifts
    on_pred, on_target = boundary_map(pred), boundary_map(target)
    num_pred, num_target = int(on_pred.sum()), int(on_target.sum())
    if num_pred == 0 or num_target == 0:
        return float(num_pred == num_target)
    precision = int((on_pred & dilate(on_target, radius)).sum()) / num_pred
    recall = int((on_target & dilate(on_pred, radius)).sum()) / num_target
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def statistics(values: list[float]) -> tuple[float, float, float]:
    """Mean, recall and decay of per-frame values, float64."""
    frames = np.asarray(values, dtype=np.float64)
    ids = (np.round(np.linspace(1, len(frames), 5) + 1e-10) - 1).astype(np.int64)
    bins = [frames[ids[i] : ids[i + 1] + 1] for i in range(4)]
    return float(frames.mean()), float((frames > 0.5).mean()), float(bins[0].mean() - bins[3].mean())


def blobs(
    height: int, width: int, generator: torch.Generator, count: int = 4, low: float = 0.05, high: float = 0.25
) -> Tensor:
    """``(H, W)`` bool: a union of random ellipses with semi-axes of ``low..high`` of the frame."""
    y = torch.arange(height)[:, None] / height
    x = torch.arange(width) / width
    mask = torch.zeros(height, width, dtype=torch.bool)
    for _ in range(count):
        cy, cx, a, b = torch.rand(4, generator=generator).tolist()
        a, b = low + (high - low) * a, low + (high - low) * b
        mask |= ((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 <= 1
    return mask
