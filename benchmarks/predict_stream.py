"""Memory of a whole prediction: ``python -m benchmarks.predict_stream --ckpt runs/remn-demo/.../last.ckpt``.

Makes a long movie of the procedural demo set, played back and forth, predicts it with the callbacks of ``make predict``
and prints the resident memory of the process at regular intervals. It must not grow, and masks must appear on the way.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

import av
from lightning import LightningModule, Trainer
from PIL import Image
from torch import Tensor
from torch.nn import functional

from benchmarks.long_stream import endless, resident_mb
from callbacks import MaskWriter, OverlayVideo, device_name
from datamodules import DavisSet, PredictDataModule
from datamodules.sequences import EvaluationSet
from lightning_vos import load
from lightning_vos.frame_callback import FrameCallback
from lightning_vos.video import Video


class ResidentMemory(FrameCallback):
    """Prints the largest resident memory since the last line, and the number of masks on disk.

    The largest, as a movie is decoded in blocks: a sample depends on where in its block the frame is.
    """

    def __init__(self, masks: Path, base: int) -> None:
        self.masks, self.base, self.began = masks, base, time.perf_counter()
        self.largest, self.until_base, self.after_base = 0.0, 0.0, 0.0

    def on_frame_end(
        self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int, frame: Tensor, labels: Tensor
    ) -> None:
        """Print now and then."""
        done, now = t + 1, resident_mb()
        self.largest = max(self.largest, now)
        if done <= self.base:
            self.until_base = max(self.until_base, now)
        else:
            self.after_base = max(self.after_base, now)
        if done in {1, 100, self.base, len(video)} or done % 1000 == 0:
            speed = done / (time.perf_counter() - self.began)
            print(f"{done:<9}{len(list(self.masks.glob('*.png'))):<9}{self.largest:<13.1f}{speed:.1f}", flush=True)
            self.largest = 0.0


def write_movie(path: Path, video_set: EvaluationSet, frames: int, size: tuple[int, int]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"preset": "ultrafast"})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for frame in islice(endless(video_set, 0), frames):
            large = functional.interpolate(frame[None].float(), size, mode="bilinear")[0].byte()
            picture = av.VideoFrame.from_ndarray(large.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--root", default="data", help="folder that holds the demo set")
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--size", type=int, nargs=2, default=(480, 854), help="height and width, even")
    parser.add_argument("--base", type=int, default=500, help="frame after which memory must not grow")
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--folder", type=Path, help="new folder to keep the movie, its first mask and what is written")
    args = parser.parse_args()

    model = load(args.ckpt)
    video_set = EvaluationSet(DavisSet("demo", split="val").videos(Path(args.root)))
    if args.folder:
        args.folder.mkdir(parents=True)
    with nullcontext(args.folder) if args.folder else tempfile.TemporaryDirectory() as folder:
        movie, mask, out = Path(folder) / "long.mp4", Path(folder) / "first.png", Path(folder) / "out"
        write_movie(movie, video_set, args.frames, tuple(args.size))
        labels = video_set[0].prompts[0]
        Image.fromarray(labels.numpy()).resize(args.size[::-1], Image.Resampling.NEAREST).save(mask)
        memory = ResidentMemory(out / "masks" / "long", args.base)
        trainer = Trainer(
            accelerator=args.accelerator,
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            default_root_dir=out,
            callbacks=[MaskWriter(), memory, OverlayVideo()],
        )
        print(f"{args.frames} frames of {args.size[0]}x{args.size[1]}, {device_name(trainer.strategy.root_device)}")
        print("frame    masks    largest MB   frames/s")
        trainer.predict(model, PredictDataModule(str(movie), str(mask)), return_predictions=False)
        overlay = out / "overlays" / "long.mp4"
        print(f"largest after frame {args.base} against up to it: {memory.after_base / memory.until_base - 1:+.2%}")
        # The encoder looks ahead over a number of frames that does not depend on the length of the video.
        print(f"after the overlay ({overlay.stat().st_size / 2**20:.0f} MB): {resident_mb():.1f} MB")


if __name__ == "__main__":
    main()
