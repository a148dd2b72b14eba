"""The stream of training samples and the distribution of videos over ranks."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from datamodules.samplers import ClipKey, ClipSampler, VideoSampler

CURRICULUM = [(0.0, 5), (0.1, 10), (0.3, 15), (0.9, 5)]


def stream(ranks: int, batch_size: int = 8, start: int = 0, seed: int = 3) -> list[ClipKey]:
    """The run as the ranks together see it, put back in the order of the global batches."""
    shares = [
        list(ClipSampler(11, batch_size, 80, start, seed, CURRICULUM, num_replicas=ranks, rank=rank))
        for rank in range(ranks)
    ]
    share = batch_size // ranks
    return [
        key
        for batch in range(len(shares[0]) // share)
        for keys in shares
        for key in keys[batch * share : (batch + 1) * share]
    ]


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_stream_does_not_depend_on_ranks(ranks: int) -> None:
    assert stream(ranks) == stream(1)


def test_stream_does_not_depend_on_the_size_of_the_forward_pass() -> None:
    # Gradient accumulation halves the batch of a forward pass; the order of the samples stays.
    assert stream(1, batch_size=4) == stream(1, batch_size=8)


@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("start", [8, 40, 72])
def test_restart_continues_the_stream(ranks: int, start: int) -> None:
    assert stream(ranks, start=start) == stream(1)[start:]


def test_start_may_be_a_function() -> None:
    positions = iter([0, 16])
    sampler = ClipSampler(11, 8, 80, lambda: next(positions), 3, CURRICULUM, num_replicas=1, rank=0)
    assert list(sampler) == stream(1)
    assert list(sampler) == stream(1)[16:]


def test_length_is_that_of_the_whole_run() -> None:
    for start in (0, 40):
        assert len(ClipSampler(11, 8, 80, start, num_replicas=4, rank=1)) == 20


def test_every_pass_is_a_permutation_of_its_own() -> None:
    indices = [key.index for key in stream(1)]
    passes = [tuple(indices[i : i + 11]) for i in range(0, 77, 11)]
    assert all(sorted(one) == list(range(11)) for one in passes)
    assert len(set(passes)) == len(passes)


def test_seeds_never_repeat_and_follow_the_seed_of_the_run() -> None:
    seeds = [key.seed for key in stream(1)]
    assert len(set(seeds)) == len(seeds)
    assert not set(seeds) & {key.seed for key in stream(1, seed=4)}
    assert [key.index for key in stream(1)] != [key.index for key in stream(1, seed=4)]


def test_stream_is_pinned() -> None:
    # A change here breaks the resumption of every run that users have under way.
    assert stream(1)[:3] == [
        ClipKey(9, 5, 11425928242767342472),
        ClipKey(7, 5, 14964165266733655597),
        ClipKey(0, 5, 11679836372483601169),
    ]


def test_curriculum() -> None:
    gaps = [key.max_skip for key in stream(1)]
    assert gaps == [5] * 8 + [10] * 16 + [15] * 48 + [5] * 8


def test_ranks_must_divide_the_batch() -> None:
    with pytest.raises(ValueError, match=r"batch_size=10 cannot be split over 4 ranks; use a multiple of 4, such as 8"):
        ClipSampler(11, 10, 80, num_replicas=4, rank=0)


def test_no_items() -> None:
    with pytest.raises(ValueError, match="nothing to sample"):
        ClipSampler(0, 8, 80, num_replicas=1, rank=0)


@pytest.mark.parametrize("schedule", [[], [(0.1, 5)], [(0.0, 5), (0.5, 3), (0.2, 4)], [(0.0, 5), (1.0, 3)]])
def test_fractions_of_the_curriculum(schedule: list[tuple[float, int]]) -> None:
    with pytest.raises(ValueError, match="fractions of the run"):
        ClipSampler(11, 8, 80, max_skip=schedule, num_replicas=1, rank=0)


def test_gap_of_the_curriculum() -> None:
    with pytest.raises(ValueError, match="at least 1 frame"):
        ClipSampler(11, 8, 80, max_skip=[(0.0, 0)], num_replicas=1, rank=0)


LENGTHS = [50, 80, 84, 40, 50, 49, 25, 104]


@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 8])
def test_every_video_exactly_once(ranks: int) -> None:
    shares = [list(VideoSampler(LENGTHS, ranks, rank)) for rank in range(ranks)]
    assert Counter(video for share in shares for video in share) == Counter(range(len(LENGTHS)))
    for share in shares:
        lengths = [LENGTHS[video] for video in share]
        assert lengths == sorted(lengths, reverse=True)


def test_one_rank_keeps_the_order_of_equal_lengths() -> None:
    assert list(VideoSampler(LENGTHS, 1, 0)) == [7, 2, 1, 0, 4, 5, 3, 6]


@pytest.mark.parametrize("ranks", [2, 3])
def test_packing_is_within_a_third_of_the_optimum(ranks: int) -> None:
    loads = [sum(LENGTHS[video] for video in VideoSampler(LENGTHS, ranks, rank)) for rank in range(ranks)]
    deals = itertools.product(range(ranks), repeat=len(LENGTHS))
    best = min(
        max(sum(length for length, to in zip(LENGTHS, deal, strict=True) if to == rank) for rank in range(ranks))
        for deal in deals
    )
    assert max(loads) <= (4 / 3 - 1 / (3 * ranks)) * best


def test_a_rank_without_video_repeats_the_shortest() -> None:
    shares = [list(VideoSampler([9, 4, 6], 5, rank)) for rank in range(5)]
    assert shares == [[0], [2], [1], [1], [1]]
    assert [len(VideoSampler([9, 4, 6], 5, rank)) for rank in range(5)] == [1] * 5


def test_no_videos() -> None:
    with pytest.raises(ValueError, match="no video to evaluate"):
        VideoSampler([], 1, 0)
