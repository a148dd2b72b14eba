"""Callbacks that see every frame of an evaluation or a prediction as it is segmented."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from lightning import Callback
from torch import Tensor

from lightning_vos.column import Column
from lightning_vos.video import Footage, Video

if TYPE_CHECKING:
    from lightning import LightningModule, Trainer


class FrameCallback(Callback):
    """A Lightning callback that also sees every frame of evaluation as it is segmented.

    A video can be of any length, so predictions are handed on frame by frame and never gathered. ``VOSModule`` calls
    these hooks in ``validation_step``, ``test_step`` and ``predict_step``; what happens between ``on_frame_start`` and
    ``on_frame_end`` is exactly the work of segmenting one frame (the frame is on the device before, nothing is copied
    back inside).

    Attributes:
        columns: figures that the callback logs and that tables of several evaluations show.
        output_dir: where a callback that writes files puts them; ``None``: the trainer's ``default_root_dir``.
    """

    columns: ClassVar[tuple[Column, ...]] = ()
    output_dir: str | None = None

    def output_folder(self, trainer: Trainer) -> Path:
        """``output_dir``, or what stands for it."""
        return Path(trainer.default_root_dir if self.output_dir is None else self.output_dir)

    def on_footage_start(self, trainer: Trainer, pl_module: LightningModule, footage: Footage) -> None:
        """In prediction, called before the first pass of a video; may set ``start`` and ``state`` of its passes."""

    def on_footage_end(self, trainer: Trainer, pl_module: LightningModule, footage: Footage) -> None:
        """In prediction, called after the last pass of a video, unless it failed."""

    def on_frame_start(self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int) -> None:
        """Called when frame ``t`` lies on the device and its segmentation is about to start."""

    def on_frame_logits(
        self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int, logits: Tensor
    ) -> None:
        """Called before ``on_frame_end`` with what the labels are made of; not where nothing is followed yet.

        Args:
            trainer: the trainer.
            pl_module: the model.
            video: the video.
            t: frame number, 0-based.
            logits: ``(1, K+1, h, w)`` on the device, background first; their softmax over dim 1 is the probability.
        """

    def on_frame_end(
        self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int, frame: Tensor, labels: Tensor
    ) -> None:
        """Called when frame ``t`` has been segmented.

        Args:
            trainer: the trainer.
            pl_module: the model.
            video: the video.
            t: frame number, 0-based.
            frame: ``(3, h, w)`` uint8 RGB on the device.
            labels: ``(H, W)`` uint8 labels of size ``video.size`` on the device, 0 background, 1..K.
        """
