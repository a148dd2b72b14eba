"""A whole evaluation the way the official DAVIS 2017 program goes about it; our own code, for comparison only.

All masks of a video are read into one float64 array, and become one mask an object by a comparison with an array of
the same kind for every object. Void pixels are looked for in every object's masks. Then J is taken of all frames of an
object at once and F frame by frame (``tests/reference.py``), each with the void pixels taken out.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests import reference

VOID = 255


def evaluate(videos: Iterable[tuple[int, list[Path], list[Path]]]) -> list[tuple[float, float]]:
    """Mean J and F of every object.

    Args:
        videos: number of objects, predicted label maps and annotations of each, in order of time.
    """
    scores = []
    for objects, found, truth in videos:
        annotations = one_mask_each(read(truth), objects)[:, 1:-1]
        predictions = one_mask_each(read(found[1:-1]), objects)
        for annotation, prediction in zip(annotations, predictions, strict=True):
            void = annotation == VOID
            kept = np.logical_not(void)
            shared = np.sum(annotation & prediction & kept, axis=(1, 2))
            union = np.sum((annotation | prediction) & kept, axis=(1, 2))
            region = np.where(union > 0, shared / np.maximum(union, 1), 1.0)
            frames = zip(*map(torch.from_numpy, (prediction, annotation, void)), strict=True)
            boundary = [reference.boundary_accuracy(*frame) for frame in frames]
            scores.append((float(np.mean(region)), float(np.mean(boundary))))
    return scores


def read(files: list[Path]) -> np.ndarray:
    """``(T, H, W)`` float64 labels, void as background."""
    labels = np.zeros((len(files), *np.array(Image.open(files[0])).shape))
    for place, path in zip(labels, files, strict=True):
        place[...] = np.array(Image.open(path))
        place[place == VOID] = 0
    return labels


def one_mask_each(labels: np.ndarray, objects: int) -> np.ndarray:
    """``(K, T, H, W)`` bool."""
    ids = np.ones((objects, *labels.shape)) * np.arange(1, objects + 1)[:, None, None, None]
    return ids == labels
