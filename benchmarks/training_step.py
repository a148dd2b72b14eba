"""Cost of a training step: ``python -m benchmarks.training_step --method REMN --crop 128 --clip 3 --objects 2``.

Forward and backward of one batch by networks of full size, random weights, float32 (``--bf16``: autocast), without the
optimiser; the shortest of ``--rounds`` after the first. The unit is a forward pass of torchvision's ResNet-50 to layer3
on one frame of the crop's size, channels-last, measured in the same run between the steps. The peak of memory is that
of the process (on a GPU: of tensors), so give one method a run to compare it.
"""

from __future__ import annotations

import argparse
import json
import warnings
from functools import partial

import torch

import lightning_vos
from benchmarks.frame_cost import stripes
from benchmarks.unit import Unit, seconds
from callbacks import device_name
from callbacks.device import peak_memory
from lightning_vos import VOSModule
from lightning_vos.types import Clip, ClipBatch


def noise(batch: int, length: int, objects: int, crop: int, device: torch.device) -> ClipBatch:
    """Clips of noise with stripes that stand still."""
    masks = stripes(objects, crop, crop, device)[0]
    labels = (masks * torch.arange(1, objects + 1, device=device)[:, None, None]).amax(dim=0).to(torch.uint8)
    clips = []
    for _ in range(batch):
        frames = torch.randint(0, 256, (length, 3, crop, crop), dtype=torch.uint8, device=device)
        clips.append(Clip(frames, labels.expand(length, -1, -1), objects))
    return ClipBatch.collate(clips)


def step(model: VOSModule, batch: ClipBatch, bf16: bool) -> None:
    model.zero_grad()
    with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
        loss = model.training_step(batch, 0)
    loss.backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", nargs="+", default=["REMN", "HMMN"])
    parser.add_argument("--crop", type=int, default=384, help="side of the frames; %(default)s")
    parser.add_argument("--clip", type=int, default=8, help="frames of a clip; %(default)s")
    parser.add_argument("--batch", type=int, default=1, help="clips; %(default)s")
    parser.add_argument("--objects", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="steps that count; %(default)s")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", type=torch.device, default="cpu", help="cpu or cuda; %(default)s if not given")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--set", type=json.loads, default={}, help="settings of the network, JSON")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", message=".*self.log.*")  # there is no trainer to log to
    unit = Unit((args.crop, args.crop), args.device)
    print(f"torch {torch.__version__}, {device_name(args.device)}, {'bf16' if args.bf16 else 'float32'}")
    print("method   s/step   s/unit   units/step  peak GB")
    for name in args.method:
        model = getattr(lightning_vos, name)(**args.set).train()
        model.configure_model()
        model.to(args.device)
        batch = noise(args.batch, args.clip, args.objects, args.crop, args.device)
        times = []
        for _ in range(args.rounds + 1):
            times.append(seconds(partial(step, model, batch, args.bf16), args.device))
            unit.measure()
        cost, fast = min(times[1:]), unit.seconds()[1]
        peak = peak_memory(args.device) / 1e9
        print(f"{name:<9}{cost:<9.3f}{fast:<9.3f}{cost / fast:<12.1f}{peak:.2f}", flush=True)


if __name__ == "__main__":
    main()
