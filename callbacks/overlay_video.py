"""The video of a prediction with its masks drawn on it."""

from __future__ import annotations

import glob
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from lightning import LightningModule, Trainer
from PIL import Image
from rich.progress import track
from torch import Tensor
from torch.nn import functional

from callbacks.drawing import overlay
from lightning_vos.atomic import unfinished
from lightning_vos.frame_callback import FrameCallback
from lightning_vos.results_folder import ResultsFolder
from lightning_vos.video import Footage

_TICKS = 90_000  # a second, as usual for video: fine enough for any rate, also a variable one


class OverlayVideo(FrameCallback):
    """Writes ``<output_dir>/overlays/<video>.mp4`` when the masks of a video are complete.

    The frames are read once more, and the masks from disk: H.264 with the time stamps of the video. Players ask for
    even sides, so a last row or column may be doubled.

    Args:
        alpha: opacity of the tint, 0..1.
        short_side: larger videos are shrunk to this shorter side, pixels.
        output_dir: ``None``: the trainer's ``default_root_dir``.

    Raises:
        ValueError: if ``alpha`` is not in [0, 1] or ``short_side`` below 2.
    """

    def __init__(self, alpha: float = 0.5, short_side: int = 1080, output_dir: str | None = None) -> None:
        if not 0 <= alpha <= 1 or short_side < 2:
            raise ValueError(f"OverlayVideo(alpha={alpha}, short_side={short_side}): needs 0 to 1 and 2 pixels")
        self.alpha = alpha
        self.short_side = short_side
        self.output_dir = output_dir

    def on_footage_start(self, trainer: Trainer, pl_module: LightningModule, footage: Footage) -> None:
        """Remove the overlay of masks that are about to change, and what was being written when a run was killed."""
        path = self._path(trainer, footage)
        if any(video.start < len(video) for video in footage.passes):
            path.unlink(missing_ok=True)
        for part in path.parent.glob(f".{glob.escape(path.name)}.*"):
            part.unlink()

    def on_footage_end(self, trainer: Trainer, pl_module: LightningModule, footage: Footage) -> None:
        """Draw and encode, unless that has been done."""
        path = self._path(trainer, footage)
        if path.exists():
            return
        masks = ResultsFolder(self.output_folder(trainer))
        with unfinished(path) as beside:
            self._write(beside, footage, masks)

    def _path(self, trainer: Trainer, footage: Footage) -> Path:
        root = self.output_folder(trainer)
        return root / "overlays" / f"{footage.video.name}.mp4"

    def _write(self, path: Path, footage: Footage, masks: ResultsFolder) -> None:
        video = footage.video
        scale = min(1.0, self.short_side / min(video.size))
        size = tuple(max(1, round(side * scale)) for side in video.size)
        rate = Fraction(len(video) - 1) / Fraction(footage.seconds[-1]) if len(video) > 1 else Fraction(24)
        with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=rate.limit_denominator(1001), options={"crf": "20"})
            stream.height, stream.width = (side + side % 2 for side in size)
            stream.pix_fmt = "yuv420p"
            stream.codec_context.time_base = Fraction(1, _TICKS)
            frames = track(
                video, f"overlay of {video.name}", len(video), transient=True, disable=not sys.stdout.isatty()
            )
            for frame, name, seconds in zip(frames, video.frame_names, footage.seconds, strict=True):
                with Image.open(masks.mask(video.name, name)) as image:
                    labels = torch.from_numpy(np.array(image))
                if labels.shape != size:
                    labels = functional.interpolate(labels[None, None].float(), size, mode="nearest-exact")[0, 0].byte()
                picture = av.VideoFrame.from_ndarray(_even(overlay(frame, labels, self.alpha)), format="rgb24")
                picture.pts, picture.time_base = round(seconds * _TICKS), Fraction(1, _TICKS)
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))


def _even(picture: Tensor) -> np.ndarray:
    """``(3, H, W)`` to ``(H', W', 3)`` with even sides: the last row or column may come twice."""
    _, height, width = picture.shape
    padded = functional.pad(picture[None].float(), (0, width % 2, 0, height % 2), mode="replicate")[0].byte()
    return padded.permute(1, 2, 0).contiguous().numpy()
