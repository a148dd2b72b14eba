"""Colours of objects, palette PNGs and overlays; shared by what writes masks and what draws them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional


def _voc_palette() -> NDArray[np.uint8]:
    """The bits of a label, dealt out in turn to red, green and blue, from the most significant bit down."""
    labels = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for place in range(8):
        for channel in range(3):
            palette[:, channel] |= (((labels >> (3 * place + channel)) & 1) << (7 - place)).astype(np.uint8)
    return palette


PALETTE: NDArray[np.uint8] = _voc_palette()
"""``(256, 3)`` uint8 RGB: the palette of PASCAL VOC and DAVIS. 0 black, 1 (128, 0, 0), 2 (0, 128, 0), ..."""


def save_image(path: str | Path, image: Image.Image) -> None:
    """Write a PNG in one stroke: whoever reads ``path`` sees the old file or the whole new one. Makes the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    image.save(unfinished, format="PNG")
    os.replace(unfinished, path)


def save_palette_png(path: str | Path, labels: Tensor) -> None:
    """Write labels as DAVIS and YouTube-VOS store them: one channel of ids with a palette.

    Args:
        path: the PNG; its folder is made, an existing file replaced.
        labels: ``(H, W)`` uint8, any device.
    """
    image = Image.fromarray(labels.cpu().numpy())
    image.putpalette(PALETTE.tobytes())
    save_image(path, image)


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
