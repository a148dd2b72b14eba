"""Masks as DAVIS and YouTube-VOS store them: PNGs of one channel of ids, with a palette."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from callbacks.picture_file import save_picture
from lightning_vos.palette import PALETTE
from lightning_vos.video import Video


def save_palette_png(path: str | Path, labels: Tensor) -> None:
    """Write labels as DAVIS and YouTube-VOS store them: one channel of ids with a palette.

    Args:
        path: the PNG; its folder is made, an existing file replaced.
        labels: ``(H, W)`` uint8, any device.
    """
    save_picture(Path(path), palette_image(labels))


def palette_image(labels: Tensor) -> Image.Image:
    """Labels ``(H, W)`` uint8 as a picture of palette indices."""
    image = Image.fromarray(labels.cpu().numpy())
    image.putpalette(PALETTE.tobytes())
    return image


def laid_over(given: Tensor, labels: Tensor) -> Tensor:
    """What is given of a frame, and what was predicted of the other objects: ``(H, W)`` uint8 both, and the result."""
    echo = torch.isin(labels, given.unique())
    return torch.where(given > 0, given, labels.masked_fill(echo, 0))


def labels_to_save(video: Video, t: int, labels: Tensor) -> Tensor:
    """Labels as the files write them. Of an object given on this frame the prompt is saved, not its echo.

    Args:
        video: the video.
        t: frame number.
        labels: ``(H, W)`` uint8, predicted on this frame.

    Returns:
        ``(H, W)`` uint8 ids.
    """
    if t in video.prompts:
        labels = laid_over(video.prompts[t].to(labels.device), labels)
    ids = torch.tensor((0, *video.object_ids), dtype=torch.uint8, device=labels.device)
    return ids[labels.long()]
