"""Frames, seconds and latencies of an evaluation in dense sums, which ranks can add up."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_SHORTEST, _RATIO, _BINS = 1e-5, 1.02, 1024  # seconds; 1.02 ** 1023 reaches from 10 microseconds to 1.7 hours


class LatencyTally:
    """Dense sums, however many frames there are.

    Attributes:
        sums: ``(4,)`` float64: frames, busy seconds, videos, objects.
        histogram: int64 frames per latency bin; bin i begins at ``_SHORTEST * _RATIO ** i`` seconds.
    """

    def __init__(self) -> None:
        self.sums = torch.zeros(4, dtype=torch.float64)
        self.histogram = torch.zeros(_BINS, dtype=torch.int64)

    def add(self, seconds: float, objects: int | None) -> None:
        """Count a frame; ``objects`` with the first one of its video."""
        self.sums[0] += 1
        self.sums[1] += seconds
        if objects is not None:
            self.sums[2] += 1
            self.sums[3] += objects
        place = math.floor(math.log(max(seconds, _SHORTEST) / _SHORTEST, _RATIO))
        self.histogram[min(place, _BINS - 1)] += 1


def percentile(histogram: Tensor, share: float) -> float:
    """Latency that the given share of the frames does not exceed.

    Args:
        histogram: of a :class:`LatencyTally`, or the sum of several.
        share: in (0, 1].

    Returns:
        Seconds: the middle (geometric) of the bin, at most 1 % off.
    """
    cumulative = histogram.cumsum(0)
    rank = max(1, math.ceil(share * int(cumulative[-1])))
    place = int(torch.searchsorted(cumulative, rank))
    return _SHORTEST * _RATIO ** (place + 0.5)
