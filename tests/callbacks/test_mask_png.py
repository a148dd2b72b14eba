"""Mask files: the colours of DAVIS, and ids that come back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from callbacks import PALETTE, save_palette_png


def test_palette() -> None:
    """The first colours of PASCAL VOC, and its last."""
    first = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128)]
    assert [tuple(colour) for colour in PALETTE[:7].tolist()] == first
    assert tuple(PALETTE[255].tolist()) == (224, 224, 192)
    assert len({tuple(colour) for colour in PALETTE.tolist()}) == 256


def test_palette_png_round_trip(tmp_path: Path) -> None:
    labels = torch.randint(0, 256, (9, 14), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        save_palette_png(tmp_path / "a" / "b.png", labels)
    image = Image.open(tmp_path / "a" / "b.png")
    assert np.array_equal(np.array(image), labels.numpy())
    assert np.array_equal(np.array(image.convert("RGB")), PALETTE[labels.numpy()])
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.png"]
