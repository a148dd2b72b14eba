"""Evaluation of a segmenter by Lightning: videos are streamed, frame callbacks see what comes out."""

from __future__ import annotations

from contextlib import closing

from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_vos.frame_callback import FrameCallback
from lightning_vos.segmenter import Segmenter
from lightning_vos.streaming import stream
from lightning_vos.video import Footage, Video, why


class FrameEvaluation(Segmenter, LightningModule):
    """A segmenter that a trainer validates, tests and predicts with; what is measured is up to the frame callbacks."""

    def validation_step(self, video: Video, batch_idx: int) -> None:
        """Segment a video; the frame callbacks score, time and draw."""
        self.segment_video(video)

    test_step = validation_step

    def predict_step(self, footage: Footage, batch_idx: int) -> None:
        """Segment a user's video, pass after pass; the frame callbacks write what comes out.

        Raises:
            Exception: the video cannot be segmented, unless ``footage`` takes note.
        """
        try:
            for callback in self._frame_callbacks():
                callback.on_footage_start(self.trainer, self, footage)
            for video in footage.passes:
                self.segment_video(video)
            for callback in self._frame_callbacks():
                callback.on_footage_end(self.trainer, self, footage)
        except Exception as error:
            if footage.problems is None:
                raise
            footage.problems[footage.video.name] = error
            rank_zero_warn(f"{footage.video.name}: {why(error)}; going on with the next video")

    def segment_video(self, video: Video) -> None:
        """Stream a video and hand every frame's labels to the trainer's frame callbacks."""
        callbacks = self._frame_callbacks()

        def on_start(t: int) -> None:
            for callback in callbacks:
                callback.on_frame_start(self.trainer, self, video, t)

        def on_logits(t: int, logits: Tensor) -> None:
            for callback in callbacks:
                callback.on_frame_logits(self.trainer, self, video, t, logits)

        with closing(stream(self, video, on_start, on_logits)) as frames:  # type: ignore[type-var]
            for t, frame, labels in frames:
                for callback in callbacks:
                    callback.on_frame_end(self.trainer, self, video, t, frame, labels)

    def _frame_callbacks(self) -> list[FrameCallback]:
        return [callback for callback in self.trainer.callbacks if isinstance(callback, FrameCallback)]  # type: ignore[attr-defined]
