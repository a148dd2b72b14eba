"""Masks drawn on frames: tinted objects with their outlines, at a size that fits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lightning_vos.palette import PALETTE


def overlay(frame: Tensor, labels: Tensor, alpha: float = 0.5) -> Tensor:
    """Tint the objects of a frame and outline them: their own colour inside, white around.

    Args:
        frame: ``(3, h, w)`` uint8 RGB; resized to the labels if the sizes differ.
        labels: ``(H, W)`` uint8, on the same device.
        alpha: opacity of the tint, 0..1.

    Returns:
        ``(3, H, W)`` uint8 RGB.
    """
    picture = frame.float()
    if frame.shape[-2:] != labels.shape:
        size = tuple(labels.shape)
        picture = functional.interpolate(picture[None], size, mode="bilinear", antialias=True)[0].clamp(0, 255)
    colours = torch.from_numpy(PALETTE).to(labels.device)[labels.long()].permute(2, 0, 1).float()
    inside, edge = labels > 0, edges(labels)
    picture = torch.where(inside, (1 - alpha) * picture + alpha * colours, picture)
    picture = torch.where(edge & inside, colours, picture)
    return picture.masked_fill(edge & ~inside, 255.0).round().to(torch.uint8)


def edges(labels: Tensor) -> Tensor:
    """Pixels of ``(H, W)`` uint8 labels with another label among their eight neighbours: ``(H, W)`` bool."""
    around = functional.pad(labels[None, None].float(), (1, 1, 1, 1), mode="replicate")
    largest, smallest = functional.max_pool2d(around, 3, 1)[0, 0], -functional.max_pool2d(-around, 3, 1)[0, 0]
    return (largest != labels) | (smallest != labels)


def shrunk(frame: Tensor, labels: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Frame and labels at the size of the labels, or at ``width`` where these are wider.

    Args:
        frame: ``(3, h, w)`` uint8 RGB.
        labels: ``(H, W)`` uint8, on the same device.
        width: largest width, pixels.

    Returns:
        ``(3, h', w')`` uint8 and ``(h', w')`` uint8.
    """
    size = labels.shape[-2:]
    if size[1] > width:
        size = torch.Size((max(1, round(size[0] * width / size[1])), width))
        labels = functional.interpolate(labels[None, None].float(), size, mode="nearest-exact")[0, 0].to(torch.uint8)
    if frame.shape[-2:] != size:
        picture = functional.interpolate(frame[None].float(), size, mode="bilinear", antialias=True)
        frame = picture[0].clamp(0, 255).round().to(torch.uint8)
    return frame, labels
