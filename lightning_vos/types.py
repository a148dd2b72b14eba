"""What a training sample is: frames and labels of a clip.

Dimension letters, the same in every docstring of this project:

====  =======================================================
B     clips of a batch
T     frames of a clip (or stored frames of a memory bank)
K     objects; K+1 counts the background, which comes first
C     channels
N     positions of the feature grid, N = h * w
M     memory positions, M = T * N
H W   image height and width, pixels
h w   height and width of the feature grid, cells
====  =======================================================

*Labels* are uint8 maps: 0 background, 1..K objects, 255 void (ground truth only). *Masks* given to a model are
one-hot float maps in [0, 1]. *Probabilities* are in [0, 1]; *logits* are log-odds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

VOID = 255
"""Label of pixels that are neither scored nor learned from."""


class Clip(NamedTuple):
    """One training sample.

    Attributes:
        frames: ``(T, 3, H, W)`` uint8 RGB.
        masks: ``(T, H, W)`` uint8 labels, 0 background, ``1..num_objects``. Every object is visible in frame 0.
        num_objects: number of objects, at least 1.
    """

    frames: Tensor
    masks: Tensor
    num_objects: int


class ClipBatch(NamedTuple):
    """Clips of equal length and size.

    Attributes:
        frames: ``(B, T, 3, H, W)`` uint8 RGB.
        masks: ``(B, T, H, W)`` uint8 labels.
        num_objects: ``(B,)`` int64, objects of each clip.
        max_objects: the largest of them, known on the host so that no step has to wait for the device.
    """

    frames: Tensor
    masks: Tensor
    num_objects: Tensor
    max_objects: int

    @classmethod
    def collate(cls, clips: Sequence[Clip]) -> ClipBatch:
        """Stack clips; the ``collate_fn`` of the training loaders."""
        return cls(
            torch.stack([clip.frames for clip in clips]),
            torch.stack([clip.masks for clip in clips]),
            torch.tensor([clip.num_objects for clip in clips]),
            max(clip.num_objects for clip in clips),
        )
