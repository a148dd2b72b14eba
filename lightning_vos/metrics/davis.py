"""The semi-supervised protocol of DAVIS 2017: which frames and objects of which videos are scored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_vos.metrics.boundary import region_and_boundary
from lightning_vos.metrics.j_and_f import JAndF, ObjectScores
from lightning_vos.metrics.masks import object_masks
from lightning_vos.types import VOID
from lightning_vos.video import Video


class FrameScore(NamedTuple):
    """J and F of one object on one frame.

    Attributes:
        number: of the frame, 0-based.
        frame: name of the frame.
        object: id of the object, as the files of the data set use it.
        j: region similarity, in [0, 1].
        f: boundary accuracy, in [0, 1].
    """

    number: int
    frame: str
    object: int
    j: float
    f: float


class DavisScores:
    """J&F of a set of videos, fed frame by frame.

    The first frame of a video is given, so it is not scored, and neither is the last; a video of two frames is scored
    on its second, one of a single frame not at all. An object that starts later than frame 0 is scored from the frame
    after its prompt on. Frames without ground truth are not scored. Void pixels (255) are taken out of both masks. The
    score of an object is the mean over its frames, the total the mean over all objects of all videos.

    ::

        scores = DavisScores(videos.names, videos.object_ids)
        for video in videos:
            scores.start(video)
            for t, labels in enumerate(segment(video)):
                scores.add(t, labels)
            scores.finish()
        print(scores.compute()["J&F"])

    Where ``torch.distributed`` is initialised, results are those of all ranks; see `JAndF`.

    Args:
        names: of the videos; ``Video.index`` is a place in them.
        object_ids: for each video, the ids that its files use.
        baseline: also score the copied first mask: every object keeps the mask it was given.
        device: where the sums lie; with NCCL it must be the rank's GPU.
    """

    def __init__(
        self,
        names: Sequence[str],
        object_ids: Sequence[tuple[int, ...]],
        baseline: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        self.names = names
        objects = max((1, *map(len, object_ids)))
        self._metric = JAndF(len(names), objects).to(device)
        self._copied = JAndF(len(names), objects).to(device) if baseline else None
        self._video: VideoScores | None = None

    def start(self, video: Video) -> None:
        """Begin with a video; what an interrupted one has left is dropped.

        Raises:
            ValueError: it is not one of the set.
        """
        if video.index >= len(self.names) or self.names[video.index] != video.name:
            raise ValueError(f"{video}: is not number {video.index} of the evaluation set; check its Video.index")
        self._video = VideoScores(video, copied=self._copied is not None)

    def add(self, t: int, labels: Tensor) -> None:
        """Score one frame, if the protocol wants it.

        Args:
            t: frame number; every frame of the video must come, in order.
            labels: ``(H, W)`` uint8 of the size of the ground truth, 0 background, 1..K; any device.

        Raises:
            ValueError: no video was started, a frame is missing, or ground truth and prediction do not fit.
        """
        self._started().add(t, labels)

    def finish(self) -> list[FrameScore]:
        """End the video.

        Returns:
            Every object on every frame that was scored, in order of time.

        Raises:
            ValueError: no video was started, or it is not over.
        """
        scores = self._started()
        if scores.frames < len(scores.video):
            raise ValueError(f"{scores.video}: finished after {scores.frames} frames; add every frame of a video")
        self._video = None
        if scores.values:
            self._metric.update(scores.video.index, *torch.stack(scores.values, 1))
            if self._copied is not None:
                self._copied.update(scores.video.index, *torch.stack(scores.copied_values, 1))
        return scores.rows()

    def compute(self) -> dict[str, Tensor]:
        """Means over all objects of the finished videos: ``J&F`` and every name of `STATISTICS`; see `JAndF`."""
        return self._metric.compute()

    def baseline(self) -> dict[str, Tensor] | None:
        """The same of the copied first masks; ``None`` if they are not scored."""
        return None if self._copied is None else self._copied.compute()

    def per_object(self) -> list[ObjectScores]:
        """Every scored object, by video and label. Gathers over ranks: call it on all of them or on none."""
        return self._metric.per_object()

    def _started(self) -> VideoScores:
        if self._video is None:
            raise ValueError("no video was started; call start(video) before its first frame")
        return self._video


class VideoScores:
    """The values of one video so far; holds no frame, and one label map for the copied masks.

    Args:
        video: the video.
        copied: score the copied first masks as well.

    Attributes:
        frames: how many have come.
        times: numbers of the scored frames.
        values: for each of them ``(2, K)`` float64, J and F of every object; NaN for those that have not started.
        copied_values: the same of the copied first masks.
    """

    def __init__(self, video: Video, copied: bool) -> None:
        self.video = video
        self.frames = 0
        self.times: list[int] = []
        self.values: list[Tensor] = []
        self.copied_values: list[Tensor] = []
        self._copied = torch.zeros(video.size, dtype=torch.uint8) if copied else None
        self._starts = torch.zeros(len(video.object_ids), dtype=torch.int64)
        for t in sorted(video.prompts, reverse=True):  # the earliest prompt of an object has the last word
            self._starts[_objects_in(video.prompts[t], len(video.object_ids))] = t

    def add(self, t: int, labels: Tensor) -> None:
        """Score frame ``t`` if the protocol wants it; see :meth:`DavisScores.add`."""
        video = self.video
        if t != self.frames:
            raise ValueError(f"{video}: frame {t} came instead of {self.frames}; add every frame of a video in order")
        self.frames += 1
        if self._copied is not None and t in video.prompts:
            prompt = video.prompts[t].cpu()
            self._copied = torch.where(prompt > 0, prompt, self._copied)
        if t == 0 or (t == len(video) - 1 and t > 1):
            return
        target = video.target(t)
        if target is None:
            return
        if target.shape != labels.shape:
            raise ValueError(f"{video}: frame {t} has labels {tuple(labels.shape)}, ground truth {tuple(target.shape)}")
        highest = int(target.max())
        if highest > len(video.object_ids):
            unknown = target[(target > len(video.object_ids)) & (target != VOID)]
            if len(unknown):
                raise ValueError(
                    f"{video}: ground truth of frame {t} ({video.frame_names[t]}) has label {int(unknown[0])}, "
                    f"but there are {len(video.object_ids)} objects; check the annotation and the prompts"
                )
        void = (target == VOID).to(labels.device) if highest == VOID else None
        target = target.to(labels.device)
        self.times.append(t)
        self.values.append(self._score(t, labels, target, void))
        if self._copied is not None:
            self.copied_values.append(self._score(t, self._copied.to(labels.device), target, void))

    def rows(self) -> list[FrameScore]:
        """Every object on every frame that was scored, in order of time."""
        names, ids = self.video.frame_names, self.video.object_ids
        rows = [
            FrameScore(t, names[t], id_, j, f)
            for t, values in zip(self.times, self.values, strict=True)
            for id_, (j, f) in zip(ids, values.T.tolist(), strict=True)
        ]
        return [row for row in rows if not math.isnan(row.j)]

    def _score(self, t: int, labels: Tensor, target: Tensor, void: Tensor | None) -> Tensor:
        """``(2, K)`` float64: J and F of every object, NaN for those that have not started before ``t``."""
        objects = len(self.video.object_ids)
        pred, truth = object_masks(labels, objects), object_masks(target, objects)
        scores = torch.stack(region_and_boundary(pred, truth, void))
        return scores.masked_fill((self._starts >= t).to(labels.device), torch.nan)


def _objects_in(prompt: Tensor, objects: int) -> Tensor:
    """Indices (label - 1) of the objects that a prompt holds."""
    found = prompt.unique().long().cpu()
    return found[(found > 0) & (found <= objects)] - 1
