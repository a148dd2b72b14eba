"""Masks drawn on frames, pixel by pixel."""

from __future__ import annotations

import torch

from callbacks import overlay


def test_overlay_pixels() -> None:
    """Half tint inside, own colour on the rim, white around, the rest untouched."""
    frame = torch.full((3, 12, 12), 100, dtype=torch.uint8)
    labels = torch.zeros(12, 12, dtype=torch.uint8)
    labels[3:9, 3:9] = 1
    picture = overlay(frame, labels)
    assert picture.dtype == torch.uint8
    assert picture[:, 5, 5].tolist() == [114, 50, 50]
    assert picture[:, 3, 5].tolist() == [128, 0, 0]
    assert picture[:, 2, 5].tolist() == [255, 255, 255]
    assert picture[:, 0, 0].tolist() == [100, 100, 100]
    assert overlay(frame[:, :6, :6], labels).shape == (3, 12, 12)
    assert torch.equal(overlay(frame, torch.zeros_like(labels)), frame)
