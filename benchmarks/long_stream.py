"""Memory over a very long stream: ``python -m benchmarks.long_stream --ckpt runs/remn-demo/.../last.ckpt``.

Streams frames of the procedural demo set, back and forth without end, through a trained network, and prints the size of
the memory bank and the resident memory of the process at regular intervals. Both must stay flat.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from callbacks import device_name
from datamodules import DavisSet
from datamodules.sequences import EvaluationSet
from lightning_vos import load
from lightning_vos.functional import one_hot
from lightning_vos.memory import FrameBank


def resident_mb() -> float:
    """Resident set of this process, MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def endless(video_set: EvaluationSet, index: int) -> Iterator[Tensor]:
    """Frames of one video, forwards and backwards for ever; decoded anew each time."""
    video = video_set[index]
    order = [*range(len(video)), *range(len(video) - 2, 0, -1)]
    for t in itertools.cycle(order):
        yield video.read_frame(t)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--root", default="data", help="folder that holds the data set")
    parser.add_argument("--set", default="demo", help="folder of the set below root, DAVIS layout")
    parser.add_argument("--video", type=int, default=0, help="index of the video")
    parser.add_argument("--frames", type=int, default=10_000)
    args = parser.parse_args()

    model = load(args.ckpt)
    video_set = EvaluationSet(DavisSet(args.set, split="val").videos(Path(args.root)))
    video = video_set[args.video]
    bank = next(module for module in model.modules() if isinstance(module, FrameBank))
    mask = one_hot(video.prompts[0], len(video.object_ids)).unsqueeze(0)
    print(f"{video}, {args.frames} frames, {device_name('cpu')}")
    print("frame    bank  resident MB  frames/s")
    peak, base, start = 0, 0.0, time.perf_counter()
    with model.sequence():
        for t, frame in enumerate(itertools.islice(endless(video_set, args.video), args.frames)):
            model.step(frame.unsqueeze(0), mask if t == 0 else None)
            peak = max(peak, len(bank))
            if t == 500:
                base = resident_mb()
            if t in {1, 100, 500} or (t + 1) % 1000 == 0:
                print(f"{t + 1:<9}{len(bank):<6}{resident_mb():<13.1f}{(t + 1) / (time.perf_counter() - start):.1f}")
    growth = resident_mb() / base - 1
    print(f"largest bank {peak} (bound {bank.capacity}), resident memory since frame 500: {growth:+.2%}")


if __name__ == "__main__":
    main()
