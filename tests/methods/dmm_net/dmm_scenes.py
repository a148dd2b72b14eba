"""Boxes, blobs and clips that the tests of DMM-Net share."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from conftest import SMALL
from torch import Tensor

from lightning_vos import DMMNet, DMMNetProposals
from lightning_vos.functional import tight_boxes
from lightning_vos.methods.dmm_net.boxes import paste_masks
from lightning_vos.methods.dmm_net.proposals import Proposals
from lightning_vos.settings import build, nested
from lightning_vos.types import Clip, ClipBatch

SIZE = (64, 96)


MATCHERS = ["paper", "official", "exact", "hungarian"]


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(actual: Tensor, expected: Tensor | list, atol: float = 1e-12) -> None:
    if not isinstance(expected, Tensor):
        expected = torch.tensor(expected, dtype=actual.dtype)
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def random_boxes(count: int, seed: int = 0, low: float = 4, high: float = 40) -> Tensor:
    """``(count, 4)`` boxes of ``low`` to ``high`` pixels, many of them partly outside of the frame."""
    height, width = SIZE
    centre = rand(count, 2, seed=seed) * torch.tensor([width, height])
    half = (low + (high - low) * rand(count, 2, seed=seed + 1)) / 2
    return torch.cat([centre - half, centre + half], dim=1)


def blob_masks(count: int, seed: int = 0) -> Tensor:
    """``(count, 28, 28)`` soft blobs."""
    coarse = rand(count, 1, 5, 5, seed=seed)
    return F.interpolate(coarse, size=(28, 28), mode="bilinear", align_corners=False)[:, 0]


def with_proposals(model: DMMNet, boxes: Tensor, masks: Tensor) -> DMMNet:
    """A model whose detector sees the same proposals ``(m, 4), (m, 28, 28)`` in every frame of ``SIZE``."""
    found = tight_boxes(paste_masks(masks, boxes, SIZE) > 0.4)[0]
    scores = torch.linspace(0.9, 0.5, len(boxes), dtype=boxes.dtype)
    one = (boxes, masks, found, scores, torch.ones(len(boxes), dtype=torch.bool))
    model.detector.forward = lambda image: Proposals(*(part.expand(len(image), *part.shape) for part in one))
    return model


def squares_as_proposals(*boxes: tuple[float, float, float, float]) -> tuple[Tensor, Tensor]:
    return torch.tensor(boxes), torch.ones(len(boxes), 28, 28)


def trained(model: DMMNet, frames: Tensor, labels: Tensor, objects: int) -> Tensor:
    """Loss of one training step on clips ``(B, T, 3, H, W), (B, T, H, W)``."""
    clips = [Clip(frames[b], labels[b], objects) for b in range(len(frames))]
    return model.train().training_step(ClipBatch.collate(clips), 0)


def stream(model: DMMNet, frames: Tensor, given: dict[int, Tensor]) -> Tensor:
    """Logits ``(T, B, K+1, H, W)``; ``given`` holds masks by frame number, all with K channels."""
    with model.sequence():
        return torch.stack([model.step(frames[:, t], given.get(t)) for t in range(frames.shape[1])])


def overlap(a: Tensor, b: Tensor) -> float:
    return int((a & b).sum()) / (int((a | b).sum()) + 1e-6)


def first_stage(seed: int = 0, **changes: Any) -> DMMNetProposals:
    """The small network as the class of stage one; changes as for :func:`small`."""
    torch.manual_seed(seed)
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    return build(DMMNetProposals, nested({**SMALL["DMMNet"], **dotted})).eval()
