"""A video that stands still: ``python -m benchmarks.still_video --ckpt runs/siam_dyn-demo/.../last.ckpt``.

The first frame of every second demo video comes again and again. Nothing moves, so a tracker's state should not either,
and no object should lose pixels: for each, the IoU with its given mask on the first repeated frame, the smallest one
later and, for a method that follows targets, how far its centre went.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from callbacks import device_name
from datamodules import DavisSet
from datamodules.sequences import EvaluationSet
from lightning_vos import SiamDynSegmenter, load
from lightning_vos.functional import intersection_over_union, one_hot


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--root", default="data", help="folder that holds the data set")
    parser.add_argument("--set", default="demo", help="folder of the set below root, DAVIS layout")
    parser.add_argument("--frames", type=int, default=100)
    args = parser.parse_args()

    model = load(args.ckpt)
    video_set = EvaluationSet(DavisSet(args.set, split="val").videos(Path(args.root)))
    print(f"{type(model).__name__}, {args.frames} frames, {device_name('cpu')}")
    print("video                            object  IoU first  IoU least  drift in pixels")
    kept, still, objects = 0, 0, 0
    for index in range(0, len(video_set), 2):
        video = video_set[index]
        frame = video.read_frame(0).unsqueeze(0)
        count = int(video.prompts[0].max())
        mask = one_hot(video.prompts[0], count).unsqueeze(0)
        overlaps, drift = [], torch.zeros(count)
        with model.sequence():
            model.step(frame, mask)
            start = model.state.centre.clone() if isinstance(model, SiamDynSegmenter) else None
            for _ in range(args.frames):
                found = one_hot(model.step(frame).argmax(dim=1)[0].to(torch.uint8), count).unsqueeze(0)
                overlaps.append(intersection_over_union(found > 0, mask > 0)[0].diagonal())
                if start is not None:
                    drift = drift.maximum((model.state.centre - start).norm(dim=2)[0])
        first, least = overlaps[0], torch.stack(overlaps).amin(dim=0)
        for k in range(count):
            print(f"{video.name:<33}{k + 1:<8}{first[k]:<11.3f}{least[k]:<11.3f}{drift[k]:.2f}", flush=True)
        objects += count
        kept += int((first - least <= 0.02).sum())
        still += int((drift <= 1).sum())
    print(f"{kept} of {objects} objects keep their IoU to 0.02, {still} stay within one pixel")


if __name__ == "__main__":
    main()
