"""Colours of objects, palette PNGs and overlays; shared by what writes masks and what draws them."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from lightning_vos.atomic import unfinished
from lightning_vos.palette import PALETTE
from lightning_vos.video import Video


def save_image(path: str | Path, image: Image.Image) -> None:
    """Write a PNG in one stroke, see :func:`unfinished`."""
    with unfinished(path) as beside:
        image.save(beside, format="PNG")


def save_palette_png(path: str | Path, labels: Tensor) -> None:
    """Write labels as DAVIS and YouTube-VOS store them: one channel of ids with a palette.

    Args:
        path: the PNG; its folder is made, an existing file replaced.
        labels: ``(H, W)`` uint8, any device.
    """
    save_image(path, palette_image(labels))


def palette_image(labels: Tensor) -> Image.Image:
    """Labels ``(H, W)`` uint8 as a picture of palette indices."""
    image = Image.fromarray(labels.cpu().numpy())
    image.putpalette(PALETTE.tobytes())
    return image


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
        prompt = video.prompts[t].to(labels.device)
        echo = torch.isin(labels, prompt.unique())
        labels = torch.where(prompt > 0, prompt, labels.masked_fill(echo, 0))
    ids = torch.tensor((0, *video.object_ids), dtype=torch.uint8, device=labels.device)
    return ids[labels.long()]


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
