"""The unit of cost: a forward pass of torchvision's ResNet-50 to layer3, measured beside what is measured in it."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torchvision.models import resnet50
from torchvision.models.feature_extraction import create_feature_extractor

from callbacks import clock


def now(device: torch.device) -> float:
    """Seconds; of one thread on a CPU those that it had the processor, as other programs may run beside it."""
    if device.type == "cpu" and torch.get_num_threads() == 1:
        return time.thread_time()
    return clock(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """What a piece of work takes; see :func:`now`."""
    start = now(device)
    work()
    return now(device) - start


class Unit:
    """The pass on one frame: in torchvision's default layout, and channels-last, as our networks run.

    Args:
        size: height and width of the frame.
        device: to run on.
    """

    def __init__(self, size: tuple[int, int], device: torch.device) -> None:
        self.device = device
        trunk = create_feature_extractor(resnet50().eval().to(device), ["layer3"])
        image = torch.rand(1, 3, *size, device=device)
        fast = copy.deepcopy(trunk).to(memory_format=torch.channels_last)
        self._passes = [partial(trunk, image), partial(fast, image.contiguous(memory_format=torch.channels_last))]
        self._times: list[list[float]] = [[], []]

    @torch.inference_mode()
    def measure(self) -> None:
        """Once in both layouts."""
        for work, times in zip(self._passes, self._times, strict=True):
            times.append(seconds(work, self.device))

    def seconds(self) -> tuple[float, float]:
        """Medians of what was measured so far, in both layouts."""
        plain, fast = (statistics.median(times) for times in self._times)
        return plain, fast
