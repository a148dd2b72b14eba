"""What the tests of SiamDyn share: random numbers, targets, masks, clips, and what a network might say."""

from __future__ import annotations

from random import Random

import torch
import torch.nn.functional as F
from conftest import squares
from torch import Tensor

from lightning_vos.methods.siam_dyn.network import Prediction
from lightning_vos.methods.siam_dyn.pairs import draw_numbers
from lightning_vos.methods.siam_dyn.target import Target
from lightning_vos.types import Clip, ClipBatch

UNIT = 128


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def target(x: float, y: float, width: float, height: float) -> Target:
    """One target ``(1, 1)``."""
    return Target(*(torch.tensor([[pair]], dtype=torch.float64) for pair in ((x, y), (width, height))))


def close(actual: Tensor, expected: Tensor | list | float, atol: float = 1e-12) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=0, atol=atol)


def rectangle(height: int, width: int, x: int, y: int, w: int, h: int) -> Tensor:
    """``(1, 1, H, W)`` bool with the given first column and row, width and height."""
    mask = torch.zeros(1, 1, height, width, dtype=torch.bool)
    mask[..., y : y + h, x : x + w] = True
    return mask


def predicted(
    cls: float = 4.0, ctr: float = 4.0, size: int = 11, mask: Tensor | None = None, box: float = 16.0
) -> Prediction:
    """What a network might say of one window of 129: constant maps; a mask ``(33, 33)`` of logits through theta."""
    constant = torch.full((1, size, size), 1.0)
    theta = torch.zeros(1, 169, size, size)
    theta[:, 2], theta[:, 80], theta[:, 144] = 1, 1, 1  # h1 = relu(F_0), h2 = relu(h1_0), logit = h2_0 + b3
    theta[:, 168] = -1
    features = torch.zeros(1, 8, 33, 33) if mask is None else F.pad(mask.float()[None, None] * 2, (0, 0, 0, 0, 0, 7))
    return Prediction(
        cls * constant, ctr * constant, box * constant.unsqueeze(1).expand(1, 4, size, size), theta, features
    )


def drawn(clips: int, pairs: int) -> Tensor:
    """Random numbers of pairs, ``(clips, pairs, 92)``."""
    return draw_numbers(lambda *place: Random(str(place)), range(clips), pairs, torch.device("cpu"))


def clips(count: int, objects: int = 2, frames: int = 3, size: int = 64) -> ClipBatch:
    pictures, labels = squares(count, frames, objects, size=(size, size))
    return ClipBatch.collate([Clip(pictures[b], labels[b], objects) for b in range(count)])
