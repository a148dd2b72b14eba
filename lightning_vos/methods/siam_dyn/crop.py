"""Windows cut out of frames around targets, and pasted back.

Pixel centres lie at integer coordinates. The window of a target is measured in *crop pixels*: its side ``s``, which
grows with the target, is always the same number of them (128 at full size), so that every target looks equally large.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_vos.functional import to_float
from lightning_vos.methods.siam_dyn.target import Target


def offsets(size: int, step: int = 1, like: Tensor | None = None) -> Tensor:
    """Crop pixels ``0, step, ...`` of a window of ``size``, relative to its middle ``(size - 1) / 2``: ``(n,)``."""
    dtype, device = (None, None) if like is None else (like.dtype, like.device)
    return torch.arange(0, size, step, dtype=dtype, device=device) - (size - 1) / 2


def crop_frames(frames: Tensor, target: Target, unit: int, size: int) -> Tensor:
    """Square windows around targets, bilinear; outside of the frame its mean colour.

    Where a crop pixel covers more than one of the frame it is the mean of four readings (ours): one would skip what
    lies between, and thin parts of large targets would flicker.

    Args:
        frames: ``(B, C, H, W)``.
        target: ``(B, K)`` of each frame.
        unit: crop pixels that the targets' ``side`` maps to.
        size: side of a window, crop pixels.

    Returns:
        ``(B * K, C, size, size)``, float32 or float64.
    """
    frames = to_float(frames)  # half precision cannot tell one pixel of a frame from the next
    mean = frames.mean(dim=(2, 3), keepdim=True)
    windows = _sample(frames - mean, target, unit, offsets(size, like=target.centre), "bilinear")
    return (windows + mean.unsqueeze(1)).flatten(0, 1)


def crop_masks(masks: Tensor, target: Target, unit: int, size: int, step: int = 1) -> Tensor:
    """Every ``step``-th pixel of the windows that :func:`crop_frames` would cut; nearest, 0 outside.

    Args:
        masks: ``(B, H, W)``.
        target: ``(B, K)``.
        unit: as there.
        size: as there.
        step: of the samples, crop pixels.

    Returns:
        ``(B, K, n, n)`` with ``n = (size - 1) / step + 1``.
    """
    return _sample(masks.unsqueeze(1), target, unit, offsets(size, step, target.centre), "nearest").squeeze(2)


def crop_templates(
    frames: Tensor, masks: Tensor, target: Target, unit: int, masked: bool, marked: bool = False
) -> Tensor:
    """Template windows: :func:`crop_frames`, one crop pixel larger than the unit so that a pixel is in the middle.

    Args:
        frames: ``(B, C, H, W)``.
        masks: ``(B, K, H, W)`` of the targets.
        target: ``(B, K)``.
        unit: as there.
        masked: put the mean colour also where the target is not.
        marked: append the mask as a channel.

    Returns:
        ``(B * K, C, unit + 1, unit + 1)``, one channel more if marked.
    """
    windows = crop_frames(frames, target, unit, unit + 1)
    if not (masked or marked):
        return windows
    one_each = target.flattened().one_each()
    inside = crop_masks(masks.flatten(0, 1).to(windows.dtype), one_each, unit, unit + 1)
    if masked:
        mean = to_float(frames).mean(dim=(2, 3), keepdim=True).repeat_interleave(masks.shape[1], dim=0)
        windows = torch.lerp(mean, windows, inside)
    return torch.cat([windows, inside], dim=1) if marked else windows


def to_window(points: Tensor, target: Target, unit: int, size: int) -> Tensor:
    """Pixels of the frame ``(..., 2)`` in crop pixels of the windows around targets ``(...)``."""
    return (points - target.centre) * (unit / target.side).unsqueeze(-1) + (size - 1) / 2


def to_frame(points: Tensor, target: Target, unit: int, size: int) -> Tensor:
    """The inverse of :func:`to_window`."""
    return (points - (size - 1) / 2) * (target.side / unit).unsqueeze(-1) + target.centre


def _sample(maps: Tensor, target: Target, unit: int, offset: Tensor, mode: Literal["bilinear", "nearest"]) -> Tensor:
    """``(B, C, H, W)`` read at ``centre + offset * side / unit`` on both axes: ``(B, K, C, n, n)``, 0 outside."""
    scale = (target.side / unit).unsqueeze(-1)
    steps = offset * scale
    if mode == "bilinear":
        # Two readings on each axis, each of which covers two pixels of the frame; at scale 1 and below they coincide.
        reach = torch.minimum((scale - 1) / 2, scale / 4).clamp(min=0)
        steps = torch.stack([steps - reach, steps + reach], dim=-1).flatten(-2)
    columns, rows = (target.centre[..., axis, None] + steps for axis in (0, 1))
    # One tall picture of all windows of a frame: the frame itself need not be repeated for its objects.
    grid = _grid(columns, rows, maps.shape[-2:]).flatten(1, 2)
    windows = F.grid_sample(maps, grid.to(maps.dtype), mode, padding_mode="zeros", align_corners=True)
    if mode == "bilinear":
        windows = F.avg_pool2d(windows, 2)
    return windows.unflatten(2, (-1, len(offset))).transpose(1, 2)


def paste_windows(windows: Tensor, target: Target, unit: int, frame: tuple[int, int]) -> Tensor:
    """The inverse of cropping: every pixel of the frame reads the window, bilinear; 0 outside of it.

    Args:
        windows: ``(B, K, n, n)``.
        target: ``(B, K)``.
        unit: crop pixels that the targets' ``side`` maps to.
        frame: ``(H, W)``.

    Returns:
        ``(B, K, H, W)``.
    """
    scale = (unit / target.side).unsqueeze(-1)
    middle = (windows.shape[-1] - 1) / 2
    columns, rows = (
        (torch.arange(frame[1 - axis], device=scale.device) - target.centre[..., axis, None]) * scale + middle
        for axis in (0, 1)
    )
    grid = _grid(columns, rows, windows.shape[-2:]).flatten(0, 1)
    maps = to_float(windows).flatten(0, 1).unsqueeze(1)
    pasted = F.grid_sample(maps, grid.to(maps.dtype), "bilinear", padding_mode="zeros", align_corners=True)
    return pasted.view(*windows.shape[:2], *frame)


def _grid(columns: Tensor, rows: Tensor, size: tuple[int, ...]) -> Tensor:
    """Pixels ``(..., w)`` and ``(..., h)`` of a map of ``size`` as a sampling grid ``(..., h, w, 2)``."""
    x, y = (2 * place / max(1, size[axis] - 1) - 1 for place, axis in ((columns, 1), (rows, 0)))
    shape = (*x.shape[:-1], y.shape[-1], x.shape[-1])
    return torch.stack([x.unsqueeze(-2).expand(shape), y.unsqueeze(-1).expand(shape)], dim=-1)
