"""Colours of augmentation: brightness, contrast, saturation and grey are one matrix a frame, however many are drawn.

Each of them is ``x -> own * x + grey * luma(x) + level`` for a pixel x, and so is what they make in turn, as the luma
of a luma is itself. The definitions are those of ``ColorJitter`` in torchvision and albumentations. The latter clips to
0..255 and cuts off what is behind the point after each step, which darkens by some 2 levels in all; here only the end
result is clipped, and rounded. Hue is not of this kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


class Tone(NamedTuple):
    """``x -> own * x + grey * luma(x) + level``, of pixels from 0 to 255."""

    own: float = 1.0
    grey: float = 0.0
    level: float = 0.0

    def then(self, later: Tone) -> Tone:
        """This, and ``later`` of what comes out."""
        return Tone(
            later.own * self.own,
            later.own * self.grey + later.grey * (self.own + self.grey),
            later.luma(self.level),
        )

    def luma(self, value: float) -> float:
        """What becomes of the luma of a pixel, or of its mean over a picture."""
        return (self.own + self.grey) * value + self.level

    def jittered(self, drawn: Mapping[str, Any], mean: float) -> Tone:
        """This, and a jitter of what comes out.

        Args:
            drawn: parameters of albumentations' ``ColorJitter``: ``brightness``, ``contrast`` and ``saturation``, and
                their ``order`` as numbers 0, 1, 2; hue, 3, is left out.
            mean: mean luma of the picture before all this: contrast moves colours away from its mean.
        """
        tone = self
        for step in drawn["order"]:
            if step == 0:
                tone = tone.then(Tone(drawn["brightness"]))
            elif step == 1:
                tone = tone.then(Tone(drawn["contrast"], level=(1 - drawn["contrast"]) * tone.luma(mean)))
            elif step == 2:
                tone = tone.then(Tone(drawn["saturation"], 1 - drawn["saturation"]))
        return tone

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """``(H, W, 3)`` uint8 RGB -> the same, rounded and clipped."""
        matrix = self.own * np.eye(3) + self.grey * LUMA
        return cv2.transform(picture, np.column_stack([matrix, np.full(3, self.level)]))


GREY = Tone(own=0.0, grey=1.0)


def mean_luma(picture: np.ndarray) -> float:
    """Mean luma of ``(H, W, 3)`` RGB, on its own scale."""
    return float(LUMA @ np.array(cv2.mean(picture))[:3])
