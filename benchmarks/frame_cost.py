"""Cost of a frame: ``python -m benchmarks.frame_cost --method REMN HMMN DMMNet SiamDyn --size 480x864 1080x1920``.

Networks of full size, random weights, float32 (``--bf16``: autocast to bfloat16). The masks of the first frames are
given (``--memory``), so that all are remembered; medians are reported of the frames after them, and of those among the
first that were segmented and written. What a machine does in a second cancels out in the unit: one forward pass of
torchvision's ResNet-50 to layer3 on one frame of the first size, measured in the same run, between the frames. It is
given twice: in torchvision's default layout, and channels-last, as our networks run. ``--parts`` adds a line of the
frames' parts, each without the others that it calls, in units of the second kind.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import lightning_vos
from benchmarks.unit import Unit, now, seconds
from callbacks import device_name
from lightning_vos import VOSModule

STEPS = ("encode", "query", "segment", "memorize")


def size(text: str) -> tuple[int, int]:
    height, width = text.split("x")
    return int(height), int(width)


def stripes(objects: int, height: int, width: int, device: torch.device) -> Tensor:
    """One-hot masks of upright stripes, one an object, of half their distance but at most a fifteenth of the width."""
    masks = torch.zeros(1, objects, height, width, device=device)
    for k in range(objects):
        left = (k + 1) * width // (objects + 2)
        masks[:, k, height // 4 : 3 * height // 4, left : left + width // max(15, 2 * objects + 4)] = 1
    return masks


class PartTimes:
    """Seconds of a model's steps and of its parts, each without the others that it calls."""

    def __init__(self, model: VOSModule, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device
        self._inner = 0.0  # seconds of the parts that the running one has called
        for name in STEPS:
            setattr(model, name, self._timed(name, getattr(model, name)))
        for name, part in model.named_children():
            part.forward = self._timed(name, part.forward)  # type: ignore[method-assign]

    def _timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            outer, self._inner = self._inner, 0.0
            start = now(self._device)
            out = work(*args, **kwargs)
            took = now(self._device) - start
            self.seconds[name] = self.seconds.get(name, 0.0) + took - self._inner
            self._inner = outer + took
            return out

        return timed


@torch.inference_mode()
def measure(model: VOSModule, shape: tuple[int, int], objects: int, unit: Unit, args: argparse.Namespace) -> None:
    """Print the row of a network, a size and a number of objects."""
    plain: list[float] = []
    written: list[float] = []
    parts = PartTimes(model, args.device) if args.parts else None
    with model.sequence(), torch.autocast(args.device.type, torch.bfloat16, enabled=args.bf16):
        for t in range(args.memory + args.frames):
            if parts is not None and t == args.memory:
                parts.seconds.clear()
            frame = torch.randint(0, 256, (1, 3, *shape), dtype=torch.uint8, device=args.device)
            mask = stripes(objects, *shape, args.device) if t < args.memory else None
            took = seconds(partial(model.step, frame, mask), args.device)
            unit.measure()
            if t > 0:
                (written if t < args.memory else plain).append(took)
    cost, (slow, fast) = statistics.median(plain), unit.seconds()
    extra = statistics.median(written) / fast if written else float("nan")
    print(
        f"{type(model).__name__:<9}{f'{shape[0]}x{shape[1]}':<11}{objects:<9}{cost:<9.3f}{1 / cost:<8.2f}{slow:<8.3f}"
        f"{cost / slow:<13.2f}{fast:<22.3f}{cost / fast:<13.2f}{extra:.2f}",
        flush=True,
    )
    if parts is not None:
        shares = {name: value / len(plain) / fast for name, value in parts.seconds.items()}
        named = sorted(shares.items(), key=lambda item: -item[1])
        print("  " + ", ".join(f"{name} {value:.2f}" for name, value in named if value >= 0.005), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", nargs="+", default=["HMMN"])
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 3, 10])
    parser.add_argument("--size", type=size, nargs="+", default=[(480, 864)], metavar="HxW")
    parser.add_argument("--memory", type=int, default=3, help="frames whose masks are given, at least 1; %(default)s")
    parser.add_argument("--frames", type=int, default=8, help="frames of each row after these; %(default)s")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", type=torch.device, default="cpu", help="cpu or cuda; %(default)s if not given")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--parts", action="store_true", help="also part by part; on a GPU the parts then wait for it")
    parser.add_argument("--set", type=json.loads, default={}, help="settings of the network, JSON")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    unit = Unit(args.size[0], args.device)
    print(f"torch {torch.__version__}, {device_name(args.device)}, {'bf16' if args.bf16 else 'float32'}")
    print(
        "method   size       objects  s/frame  FPS     s/unit  units/frame  s/unit channels-last  units/frame  written"
    )
    for name in args.method:
        for shape in args.size:
            for objects in args.objects:
                model = getattr(lightning_vos, name)(**args.set).eval()
                model.configure_model()
                measure(model.to(args.device), shape, objects, unit, args)


if __name__ == "__main__":
    main()
