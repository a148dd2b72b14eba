"""What a tracker may have found of the target in the frame before, made of a mask in this one, for training.

The idea is that of MaskTrack (Perazzi et al., CVPR 2017): the mask is moved and scaled, and so are its edges; in one
pair of ten there is nothing.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lightning_vos.methods.siam_dyn.crop import crop_masks
from lightning_vos.methods.siam_dyn.target import Jitter, Target

BLOTS = 9  # values on each axis that move the edges
PARTS = (3, 1, BLOTS**2)  # random numbers: shift and scale; whether there is nothing; blots
JITTER = Jitter(shift=1 / 16, scale=0.1)
NOTHING = 0.1  # share of the masks that are empty
EDGE = 2  # crop pixels by which the edges move at most


def previous_masks(masks: Tensor, draws: Tensor, unit: int, jitter: float) -> Tensor:
    """Spoil masks.

    Args:
        masks: ``(n, m, m)`` in {0, 1}, in the search windows.
        draws: ``(n, 85)`` in [0, 1), see ``PARTS``.
        unit: crop pixels that a target's side maps to.
        jitter: factor of all of it.

    Returns:
        ``(n, m, m)`` in {0, 1}.
    """
    move, nothing, blots = draws.split(PARTS, dim=1)
    middle = (masks.shape[-1] - 1) / 2
    # The windows as frames that hold a target in the middle, whose side is the unit: a pixel is a crop pixel.
    place = Target(masks.new_full((len(masks), 1, 2), middle), masks.new_full((len(masks), 1, 2), unit / 2))
    found = crop_masks(masks, place.jittered(move.unsqueeze(1), JITTER, jitter), unit, masks.shape[-1])
    # At most a half, so that only edges move: a window is mostly background, and islands there would hide the mask.
    blots = jitter * (blots.view(-1, 1, BLOTS, BLOTS) - 0.5)
    blots = F.interpolate(blots, size=found.shape[-2:], mode="bilinear", align_corners=True)
    spoiled = F.avg_pool2d(found, 2 * EDGE + 1, stride=1, padding=EDGE) + blots > 0.5
    return (spoiled.squeeze(1) & (nothing >= NOTHING).unsqueeze(2)).to(masks.dtype)
