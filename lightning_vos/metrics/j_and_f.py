"""J and F of whole videos, and their mean over objects, equal to the official DAVIS 2017 code.

The one intended difference: the official decay casts frame numbers to 8 bits and is wrong above 255 frames; here it is
right for any length.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

STATISTICS = ("J", "J_recall", "J_decay", "F", "F_recall", "F_decay")
"""Columns of the state of `JAndF`, in order."""


class ObjectScores(NamedTuple):
    """What `JAndF` knows of one object.

    Attributes:
        video: index of the video.
        object: label of the object, 1..K.
        frames: scored frames of the video.
        values: ``J&F`` and every name of `STATISTICS`.
    """

    video: int
    object: int
    frames: int
    values: dict[str, float]


class JAndF(Metric):
    """J&F of DAVIS: mean, recall and decay per object, then the mean over all objects of all videos.

    The states are dense and summed over ranks, so ranks may have seen different numbers of videos, none, or the same
    video twice: a repetition adds to numerator (``scores``) and denominator (``seen``) alike.

    Args:
        num_videos: rows of the state, the length of the evaluation set.
        max_objects: largest number of objects in one video.

    Raises:
        ValueError: if one of them is below 1.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    scores: Tensor
    seen: Tensor
    frames: Tensor

    def __init__(self, num_videos: int, max_objects: int) -> None:
        super().__init__()
        if num_videos < 1 or max_objects < 1:
            raise ValueError(f"JAndF(num_videos={num_videos}, max_objects={max_objects}): both must be at least 1")
        shape = (num_videos, max_objects)
        self.add_state("scores", torch.zeros(*shape, len(STATISTICS), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("seen", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("frames", torch.zeros(num_videos, dtype=torch.int64), dist_reduce_fx="max")

    def update(self, video: int, j: Tensor, f: Tensor) -> None:
        """Add one whole video.

        Args:
            video: index of the video.
            j: ``(T, K)`` region similarities of the scored frames, in order; the caller leaves out the first and the
                last frame. NaN: this object is not scored on this frame.
            f: ``(T, K)`` boundary accuracies, NaN at the same places.

        An object without any scored frame is not counted.

        Raises:
            ValueError: if the index, a shape or the number of objects does not fit, or NaNs differ.
        """
        num_videos, max_objects = self.seen.shape
        if not 0 <= video < num_videos:
            raise ValueError(f"video={video}: must be in 0..{num_videos - 1}; give the metric the whole set's length")
        if j.ndim != 2 or j.shape != f.shape:
            raise ValueError(f"j {tuple(j.shape)}, f {tuple(f.shape)}: both must be (T, K) for the same T and K")
        if j.shape[1] > max_objects:
            raise ValueError(f"video={video} has {j.shape[1]} objects, more than max_objects={max_objects}; raise it")
        j, f = j.to(self.scores), f.to(self.scores)
        kept = ~j.isnan()
        if not torch.equal(kept, ~f.isnan()):
            raise ValueError(f"video={video}: j and f are NaN at different places; leave out both or none of a frame")
        for k in range(j.shape[1]):
            if kept[:, k].any():
                self.scores[video, k] += torch.cat([_statistics(v[kept[:, k], k]) for v in (j, f)])
                self.seen[video, k] += 1
        self.frames[video] = torch.maximum(self.frames[video], kept.any(1).sum())

    def compute(self) -> dict[str, Tensor]:
        """Means over all seen objects.

        Returns:
            Scalars (float64) ``J&F``, ``J``, ``J_recall``, ``J_decay``, ``F``, ``F_recall``, ``F_decay``; recall is
            the share of frames above 0.5, decay the first quarter's mean minus the last's. NaN if nothing was seen.
        """
        mean = self._averaged()[self.seen > 0].mean(0)
        return {"J&F": (mean[0] + mean[3]) / 2, **dict(zip(STATISTICS, mean.unbind(), strict=True))}

    def per_object(self) -> list[ObjectScores]:
        """Every seen object, by video and label. Gathers over ranks: call it on all of them or on none."""
        with self.sync_context():
            averaged, frames = self._averaged().tolist(), self.frames.tolist()
            table = []
            for video, k in self.seen.nonzero().tolist():
                values = dict(zip(STATISTICS, averaged[video][k], strict=True))
                jf = (values["J"] + values["F"]) / 2
                table.append(ObjectScores(video, k + 1, frames[video], {"J&F": jf, **values}))
        return table

    def _averaged(self) -> Tensor:
        return self.scores / self.seen.clamp(min=1)[..., None]


def _statistics(values: Tensor) -> Tensor:
    """Mean, recall and decay of ``(T,)`` values, T >= 1; the official ``db_statistics``."""
    n = len(values)
    # round(linspace(1, n, 5) + 1e-10) - 1 of the official code, in integers. Neighbouring bins share a frame.
    edges = [((n - 1) * i + 2) // 4 for i in range(5)]
    decay = values[: edges[1] + 1].mean() - values[edges[3] :].mean()
    return torch.stack([values.mean(), (values > 0.5).to(values).mean(), decay])
