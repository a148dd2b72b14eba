"""Cost of a frame in units of one ResNet-50: ``python -m benchmarks.frame_cost --method HMMN``.

The unit is one forward pass of torchvision's ResNet-50 to layer3 on one frame of the same size, measured in the same
run, between the frames: what a machine does in a second cancels out. It is given twice: in torchvision's default
layout, and channels-last, as our networks run. Networks of full size, random weights, float32. The median over the
frames from the third on (a memory of two to three frames with ``memory_every=5``) is reported.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.models import resnet50
from torchvision.models.feature_extraction import create_feature_extractor

import lightning_vos
from callbacks import device_name


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def stripes(objects: int, height: int, width: int) -> Tensor:
    """One-hot masks of upright stripes, one an object."""
    masks = torch.zeros(1, objects, height, width)
    for k in range(objects):
        masks[:, k, height // 4 : 3 * height // 4, (k + 1) * width // (objects + 2) :][
            ..., : min(64, width // (objects + 2))
        ] = 1
    return masks


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="HMMN")
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--size", type=int, nargs=2, default=[480, 864], metavar=("H", "W"))
    parser.add_argument("--frames", type=int, default=10)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--set", type=json.loads, default={}, help="settings of the network, JSON")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)

    height, width = args.size
    trunk = create_feature_extractor(resnet50().eval(), ["layer3"])
    model = getattr(lightning_vos, args.method)(**args.set).eval()
    model.configure_model()
    image = torch.rand(1, 3, height, width)
    fast_trunk = copy.deepcopy(trunk).to(memory_format=torch.channels_last)
    fast_image = image.contiguous(memory_format=torch.channels_last)
    print(f"{args.method} {height}x{width}, torch {torch.__version__}, {device_name('cpu')}")
    print("objects  s/frame  s/unit  units/frame  s/unit channels-last  units/frame")
    for objects in args.objects:
        times: list[tuple[float, float, float]] = []
        with model.sequence():
            for t in range(args.frames):
                frame = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
                mask = stripes(objects, height, width) if t == 0 else None
                frame_time = seconds(lambda frame=frame, mask=mask: model.step(frame, mask))
                unit_time = seconds(lambda: trunk(image))
                fast_time = seconds(lambda: fast_trunk(fast_image))
                if t > 1:
                    times.append((frame_time, unit_time, fast_time))
        frame, unit, fast = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"{objects:<9}{frame:<9.2f}{unit:<8.3f}{frame / unit:<13.2f}{fast:<22.3f}{frame / fast:.2f}")


if __name__ == "__main__":
    main()
