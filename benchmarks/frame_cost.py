"""Cost of a frame: ``python -m benchmarks.frame_cost --method REMN HMMN DMMNet SiamDyn --size 480x864 1080x1920``.

Networks of full size, random weights, float32 (``--bf16``: autocast to bfloat16); the median over the frames from the
third on (in HMMN a memory of two to three frames) is reported. What a machine does in a second cancels out in the
unit: one forward pass of torchvision's ResNet-50 to layer3 on one frame of the first size, measured in the same run,
between the frames. It is given twice: in torchvision's default layout, and channels-last, as our networks run.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torchvision.models import resnet50
from torchvision.models.feature_extraction import create_feature_extractor

import lightning_vos
from callbacks import clock, device_name


def seconds(work: Callable[[], object], device: torch.device) -> float:
    start = clock(device)
    work()
    return clock(device) - start


def size(text: str) -> tuple[int, int]:
    height, width = text.split("x")
    return int(height), int(width)


def stripes(objects: int, height: int, width: int, device: torch.device) -> Tensor:
    """One-hot masks of upright stripes, one an object, of a fifteenth of the frame's width."""
    masks = torch.zeros(1, objects, height, width, device=device)
    for k in range(objects):
        left = (k + 1) * width // (objects + 2)
        masks[:, k, height // 4 : 3 * height // 4, left : left + width // 15] = 1
    return masks


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", nargs="+", default=["HMMN"])
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--size", type=size, nargs="+", default=[(480, 864)], metavar="HxW")
    parser.add_argument("--frames", type=int, default=10, help="of each row, at least 3")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", type=torch.device, default="cpu", help="cpu or cuda; %(default)s if not given")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--set", type=json.loads, default={}, help="settings of the network, JSON")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)

    trunk = create_feature_extractor(resnet50().eval().to(args.device), ["layer3"])
    image = torch.rand(1, 3, *args.size[0], device=args.device)
    fast_trunk = copy.deepcopy(trunk).to(memory_format=torch.channels_last)
    fast_image = image.contiguous(memory_format=torch.channels_last)
    print(f"torch {torch.__version__}, {device_name(args.device)}, {'bf16' if args.bf16 else 'float32'}")
    print("method   size       objects  s/frame  FPS     s/unit  units/frame  s/unit channels-last  units/frame")
    for name in args.method:
        model = getattr(lightning_vos, name)(**args.set).eval()
        model.configure_model()
        model.to(args.device)
        for height, width in args.size:
            for objects in args.objects:
                times: list[tuple[float, float, float]] = []
                with model.sequence(), torch.autocast(args.device.type, torch.bfloat16, enabled=args.bf16):
                    for t in range(args.frames):
                        frame = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8, device=args.device)
                        mask = stripes(objects, height, width, args.device) if t == 0 else None
                        frame_time = seconds(partial(model.step, frame, mask), args.device)
                        unit_time = seconds(partial(trunk, image), args.device)
                        fast_time = seconds(partial(fast_trunk, fast_image), args.device)
                        if t > 1:
                            times.append((frame_time, unit_time, fast_time))
                cost, unit, fast = (statistics.median(column) for column in zip(*times, strict=True))
                print(
                    f"{name:<9}{height}x{width:<{10 - len(str(height))}}{objects:<9}{cost:<9.3f}{1 / cost:<8.3f}"
                    f"{unit:<8.3f}{cost / unit:<13.2f}{fast:<22.3f}{cost / fast:.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
