"""How large and how certain every object is on every frame, as a prediction runs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from callbacks.mask_png import labels_to_save
from lightning_vos.atomic import unfinished
from lightning_vos.frame_callback import FrameCallback
from lightning_vos.video import Footage, Video


class ObjectReport(FrameCallback):
    """Appends a line of JSON for each frame to ``<output_dir>/objects/<video>.jsonl`` when its mask has been written.

    A prediction begins with ``{"starts": [...], "lengths": [...], "time": seconds}``: the frame of each pass that it
    begins with, and how many there are. A frame is ``{"pass": 0, "frame": name, "time": seconds, "objects": {id:
    [pixels, confidence]}}``. The confidence of an object is the mean probability of its pixels, in [0, 1]; that of one
    without a pixel is 0, and that of a given one 1. Of several lines for a frame and an object the last one holds.

    Args:
        output_dir: ``None``: the trainer's ``default_root_dir``.
    """

    def __init__(self, output_dir: str | None = None) -> None:
        self.output_dir = output_dir
        self._passes: tuple[Video, ...] = ()
        self._confidence: Tensor | None = None

    def on_footage_start(self, trainer: Trainer, pl_module: LightningModule, footage: Footage) -> None:
        """Say where the prediction begins."""
        self._passes = footage.passes
        path = self._path(trainer, footage.video)
        if all(video.start == 0 for video in footage.passes):  # of masks that are gone
            with unfinished(path) as beside:
                beside.touch()
        starts, lengths = [video.start for video in footage.passes], [len(video) for video in footage.passes]
        _append(path, {"starts": starts, "lengths": lengths, "time": time.time()})

    def on_frame_logits(
        self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int, logits: Tensor
    ) -> None:
        """Measure the confidence of all objects."""
        self._confidence = confidence(logits)

    def on_frame_end(
        self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int, frame: Tensor, labels: Tensor
    ) -> None:
        """Write the line."""
        number = next(i for i, other in enumerate(self._passes) if other is video)
        areas = labels_to_save(video, t, labels).flatten().bincount(minlength=256).tolist()
        certain = [] if self._confidence is None else self._confidence.tolist()
        given = {video.object_ids[k - 1] for k in video.prompts[t].unique().tolist() if k} if t in video.prompts else ()
        objects = {
            id_: [areas[id_], 1.0 if id_ in given else round(value, 4) if areas[id_] else 0.0]
            for id_, value in zip(video.object_ids, certain, strict=False)
        }
        line = {"pass": number, "frame": video.frame_names[t], "time": time.time(), "objects": objects}
        _append(self._path(trainer, video), line)
        self._confidence = None

    def _path(self, trainer: Trainer, video: Video) -> Path:
        return self.output_folder(trainer) / "objects" / f"{video.name}.jsonl"


def confidence(logits: Tensor) -> Tensor:
    """Mean probability of the pixels of each object; 0 for one without a pixel.

    Args:
        logits: ``(1, K+1, h, w)``, background first.

    Returns:
        ``(K,)`` in [0, 1].
    """
    sure, labels = torch.softmax(logits[0].float(), dim=0).flatten(1).max(dim=0)
    count = logits.shape[1]
    sums = torch.zeros(count, device=logits.device).index_add_(0, labels, sure)
    return (sums / labels.bincount(minlength=count).clamp(min=1))[1:]


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
