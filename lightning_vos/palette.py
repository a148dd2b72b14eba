"""The colours of the objects, as DAVIS and PASCAL VOC have them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


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
