"""Which sample comes when, on which rank.

Training data is a stream addressed by position: sample ``i`` of a run is the same clip with the same augmentation on 1
or 8 ranks, with 0 or 16 workers, before or after a restart. Nothing random is left to a worker: the sampler decides, in
the main process, and hands a :class:`ClipKey` to the data set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch.distributed
from numpy.random import SeedSequence
from torch.utils.data import DistributedSampler

# Seeds of the two kinds of draw are kept apart by their first word.
PERMUTATION, SAMPLE = 0, 1


class ClipKey(NamedTuple):
    """What a training data set needs to know to make one clip, and all of it.

    Attributes:
        index: item of the data set.
        max_skip: largest gap between consecutive frames of the clip, in frames of the original video.
        seed: seed of every draw made for this clip, 64 bits.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a key
    max_skip: int
    seed: int


def world() -> tuple[int, int]:
    """Number of ranks and number of this rank: from ``torch.distributed`` where it runs, ``(1, 0)`` elsewhere."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size(), torch.distributed.get_rank()
    return 1, 0


class ClipSampler(DistributedSampler[ClipKey]):
    """The samples of one whole training run, in order, without end of epoch.

    Position ``i`` falls into pass ``i // num_items`` over the data; each pass is a permutation of its own. Rank ``r``
    of ``R`` takes the positions ``[r * batch_size / R, (r + 1) * batch_size / R)`` of every global batch. It subclasses
    ``DistributedSampler`` so that Lightning neither replaces nor splits it.

    Args:
        num_items: length of the data set.
        batch_size: samples that all ranks together take in one forward pass.
        length: samples of the whole run, over all ranks.
        start: first position to deliver, over all ranks; or a function that tells it when an iteration begins.
        seed: seed of the run.
        max_skip: ``(fraction of the run, largest gap)`` pairs; a pair holds from its fraction on. The first is 0.
        num_replicas: number of ranks. Default: from ``torch.distributed``, else 1.
        rank: this rank. Default: likewise, else 0.
        origin: where the first batch would begin, had the run had this batch size all along: 0 unless it was changed.

    Raises:
        ValueError: no items, ranks that do not divide the batch, or a schedule that does not start at 0 or not rise.
    """

    def __init__(
        self,
        num_items: int,
        batch_size: int,
        length: int,
        start: int | Callable[[], int] = 0,
        seed: int = 0,
        max_skip: Sequence[tuple[float, int]] = ((0.0, 1),),
        num_replicas: int | None = None,
        rank: int | None = None,
        origin: int = 0,
    ) -> None:
        ranks, this = world()
        ranks = ranks if num_replicas is None else num_replicas
        if num_items < 1:
            raise ValueError("num_items is 0: there is nothing to sample; give at least one training set")
        if batch_size < 1 or batch_size % ranks:
            raise ValueError(
                f"batch_size={batch_size} cannot be split over {ranks} ranks; "
                f"use a multiple of {ranks}, such as {max(1, round(batch_size / ranks)) * ranks}"
            )
        fractions = [fraction for fraction, _ in max_skip]
        if not fractions or fractions[0] != 0 or fractions != sorted(set(fractions)) or fractions[-1] >= 1:
            raise ValueError(
                f"max_skip={list(max_skip)}: fractions of the run must start at 0.0, rise and stay below 1"
            )
        if any(gap < 1 for _, gap in max_skip):
            raise ValueError(f"max_skip={list(max_skip)}: a gap must be at least 1 frame")
        # The base class only wants something with a length; it must not see the items.
        super().__init__(range(num_items), ranks, this if rank is None else rank, seed=seed)  # type: ignore[arg-type]
        self.num_items = num_items
        self.batch_size = batch_size
        self.length = length
        self.start = start
        self.origin = origin
        self.max_skip = list(max_skip)
        self._pass: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        """Samples of this rank in the whole run, those before ``start`` included: Lightning counts them as done."""
        return (self.length - self.origin) // self.batch_size * (self.batch_size // self.num_replicas)

    def __iter__(self) -> Iterator[ClipKey]:
        """Keys of this rank from ``start`` to the end of the run."""
        start = self.start() if callable(self.start) else self.start
        share = self.batch_size // self.num_replicas
        for batch in range((start - self.origin) // self.batch_size, len(self) // share):
            first = self.origin + batch * self.batch_size + self.rank * share
            for position in range(first, first + share):
                yield self.key(position)

    def key(self, position: int) -> ClipKey:
        """The sample at one position of the run, 0-based, over all ranks."""
        turn, offset = divmod(position, self.num_items)
        if self._pass[0] != turn:
            order = np.random.default_rng(SeedSequence([self.seed, PERMUTATION, turn])).permutation(self.num_items)
            self._pass = (turn, order)
        gaps = [gap for fraction, gap in self.max_skip if position >= fraction * self.length]
        seed = SeedSequence([self.seed, SAMPLE, position]).generate_state(1, np.uint64)[0]
        return ClipKey(int(self._pass[1][offset]), gaps[-1], int(seed))


class VideoSampler(DistributedSampler[int]):
    """Every video exactly once over all ranks, the longest first.

    Videos are dealt out longest first, each to the rank with the least frames so far (LPT packing), so that ranks
    finish at about the same time. A rank that would stay without a video gets the shortest one again: Lightning refuses
    an empty loader, and a metric with one row per video absorbs the duplicate. It subclasses ``DistributedSampler``
    because Lightning would split a plain sampler a second time and lose videos without a word.

    Args:
        lengths: number of frames of each video.
        num_replicas: number of ranks. Default: from ``torch.distributed``, else 1.
        rank: this rank. Default: likewise, else 0.

    Raises:
        ValueError: no videos.
    """

    def __init__(self, lengths: Sequence[int], num_replicas: int | None = None, rank: int | None = None) -> None:
        if not lengths:
            raise ValueError("lengths is empty: there is no video to evaluate; check the split of data.val")
        ranks, this = world()
        super().__init__(
            range(len(lengths)),  # type: ignore[arg-type]
            ranks if num_replicas is None else num_replicas,
            this if rank is None else rank,
            shuffle=False,
        )
        order = sorted(range(len(lengths)), key=lambda video: -lengths[video])
        loads = [0] * self.num_replicas
        shares: list[list[int]] = [[] for _ in loads]
        for video in order:
            lightest = loads.index(min(loads))
            loads[lightest] += max(1, lengths[video])
            shares[lightest].append(video)
        self.videos = shares[self.rank] or [order[-1]]

    def __len__(self) -> int:
        """Number of videos of this rank."""
        return len(self.videos)

    def __iter__(self) -> Iterator[int]:
        """Indices of this rank's videos, the longest first."""
        return iter(self.videos)
