"""The measures as the official DAVIS 2017 code computes them: full frames, OpenCV's dilation by a disk.

What the fast ones are tested and timed against.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from torch import Tensor


def boundary_map(mask: np.ndarray) -> np.ndarray:
    """``(H, W)`` bool -> bool map of the pixels that differ from their right, lower or lower right neighbour."""
    right, down, diagonal = np.zeros_like(mask), np.zeros_like(mask), np.zeros_like(mask)
    right[:, :-1] = mask[:, 1:]
    down[:-1] = mask[1:]
    diagonal[:-1, :-1] = mask[1:, 1:]
    bounds = (mask ^ right) | (mask ^ down) | (mask ^ diagonal)
    bounds[-1] = mask[-1] ^ right[-1]
    bounds[:, -1] = mask[:, -1] ^ down[:, -1]
    bounds[-1, -1] = False
    return bounds


def dilate(mask: np.ndarray, radius: int) -> np.ndarray:
    """Dilation of ``(H, W)`` bool by a disk."""
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disk = (y**2 + x**2 <= radius**2).astype(np.uint8)
    return cv2.dilate(mask.astype(np.uint8), disk).astype(bool)


def region_similarity(pred: Tensor, target: Tensor, void: Tensor | None = None) -> float:
    """J of two ``(H, W)`` bool masks."""
    found, truth = _without_void(pred, target, void)
    union = np.sum(found | truth)
    return float(np.sum(found & truth) / union) if union else 1.0


def boundary_accuracy(pred: Tensor, target: Tensor, void: Tensor | None = None, tolerance: float = 0.008) -> float:
    """F of two ``(H, W)`` bool masks."""
    found, truth = _without_void(pred, target, void)
    radius = int(tolerance) if tolerance >= 1 else math.ceil(tolerance * float(np.linalg.norm(found.shape)))
    on_pred, on_target = boundary_map(found), boundary_map(truth)
    near_pred, near_target = dilate(on_pred, radius), dilate(on_target, radius)
    num_pred, num_target = int(np.sum(on_pred)), int(np.sum(on_target))
    if num_pred == 0 or num_target == 0:
        return float(num_pred == num_target)
    precision = int(np.sum(on_pred & near_target)) / num_pred
    recall = int(np.sum(on_target & near_pred)) / num_target
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _without_void(pred: Tensor, target: Tensor, void: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    if void is None:
        return pred.numpy(), target.numpy()
    return (pred & ~void).numpy(), (target & ~void).numpy()


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
