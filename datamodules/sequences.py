"""Data sets of videos: whole ones for evaluation, short clips for training."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.frame_names import frame_numbers
from datamodules.images import image_size, read_image, resize_labels
from datamodules.layouts import VideoFiles
from datamodules.samplers import ClipKey
from datamodules.transforms import VISIBLE, ClipTransform, to_clip
from lightning_vos.types import VOID, Clip
from lightning_vos.video import Video

FIRST_FRAME_TRIES = 8


class EvaluationSet(Dataset[Video]):
    """Videos to segment and score, read from disk frame by frame.

    Ground truth is delivered where masks exist beyond those that start objects. A set with prompts alone (YouTube-VOS
    ``valid``, DAVIS ``test-dev``) has none: such masks may show only the objects that start on them.

    Args:
        videos: the sequences.
        short_side: frames are shrunk so that the shorter side has at most this many pixels; ``None`` keeps them.
            Prompts and targets keep the size of the annotations (the model brings prompts to the size of the frames).

    Attributes:
        names: names of the sequences.
        object_ids: ids of the objects of each sequence, as its files write them. They are in the order in which the
            objects start, so that objects 1..K are known at any time and no number is missing between them.
        max_objects: largest number of objects in a sequence.
        lengths: number of frames of each sequence.

    Raises:
        ValueError: a first mask without objects, or an object that is not on the mask it starts with.
    """

    def __init__(self, videos: Sequence[VideoFiles], short_side: int | None = None) -> None:
        self.videos = list(videos)
        self.short_side = short_side
        # For each video: frame number -> ids that start there.
        self.starts = [video.starting_ids() for video in self.videos]
        self.names = [video.name for video in self.videos]
        self.object_ids = [tuple(id_ for t in sorted(starts) for id_ in sorted(starts[t])) for starts in self.starts]
        self.max_objects = max((len(ids) for ids in self.object_ids), default=0)
        self.lengths = [len(video.frames) for video in self.videos]

    def __len__(self) -> int:
        """Number of videos."""
        return len(self.videos)

    @property
    def has_truth(self) -> bool:
        """Whether there is a frame to score: with a mask beyond those given, and neither first nor last of several."""
        return any(
            set(video.masks) - set(starts) and any(t > min(starts) and (t < length - 1 or t == 1) for t in video.masks)
            for video, starts, length in zip(self.videos, self.starts, self.lengths, strict=True)
        )

    def __getitem__(self, index: int) -> Video:
        """The video; its prompts are read now, frames and targets when they are asked for."""
        video, ids = self.videos[index], self.object_ids[index]
        prompts = {t: self._prompt(index, t) for t in self.starts[index]}
        scored = set(video.masks) - set(prompts)
        return Video(
            index=index,
            name=video.name,
            size=image_size(video.masks[min(prompts)]),
            object_ids=ids,
            prompts=prompts,
            frame_names=[frame.stem for frame in video.frames],
            read_frame=partial(_read_frame, video, self.short_side),
            read_target=partial(_read_target, video, ids) if scored else _no_target,
        )

    def _prompt(self, index: int, t: int) -> Tensor:
        video, ids = self.videos[index], self.object_ids[index]
        labels = video.labels(t)
        lookup = np.zeros(256, dtype=np.uint8)
        for id_ in self.starts[index][t]:
            if not (labels == id_).any():
                raise ValueError(
                    f"{video.masks[t]}: object {id_} of video {video.name!r} should start here but is not on the mask; "
                    "correct meta.json or the mask"
                )
            lookup[id_] = ids.index(id_) + 1
        return torch.from_numpy(lookup[labels])


def _read_frame(video: VideoFiles, short_side: int | None, t: int) -> Tensor:
    return torch.from_numpy(read_image(video.frames[t], short_side)).permute(2, 0, 1).contiguous()


def _read_target(video: VideoFiles, ids: tuple[int, ...], t: int) -> Tensor | None:
    if t not in video.masks:
        return None
    labels = video.labels(t)
    if ids == tuple(range(1, len(ids) + 1)) and labels.max() <= len(ids):  # as most are; a look-up costs more to read
        return torch.from_numpy(labels)
    if stray := sorted(set(np.unique(labels).tolist()) - {0, VOID, *ids}):
        raise ValueError(
            f"{video.masks[t]}: labels {stray} of video {video.name!r}, frame {video.frames[t].stem}, are not among "
            f"its objects {list(ids)}; correct the mask or the prompts"
        )
    lookup = np.zeros(256, dtype=np.uint8)
    lookup[list(ids)] = np.arange(1, len(ids) + 1)
    lookup[VOID] = VOID
    return torch.from_numpy(lookup[labels])


def _no_target(t: int) -> None:
    return None


def draw_times(
    numbers: Sequence[int], length: int, max_skip: int, rng: np.random.Generator, first: int | None = None
) -> list[int]:
    """Choose the frames of a clip, forward in time.

    Gaps are uniform in 1..``max_skip``, cut where the end of the video leaves too little room. Where even neighbours
    are further apart than ``max_skip`` (YouTube-VOS annotates every 5th frame) the next one is taken. A video shorter
    than the clip is run back and forth.

    Args:
        numbers: rising numbers of the annotated frames, on the clock of the original video.
        length: frames of the clip, T.
        max_skip: largest gap, on the same clock.
        rng: source of the draws.
        first: index of the first frame; drawn such that the clip has room if not given.

    Returns:
        T indices into ``numbers``.
    """
    count = len(numbers)
    if first is None:
        first = int(rng.integers(max(1, count - length + 1)))
    span = min(length, count - first)
    times = [first]
    while len(times) < span:
        reach = bisect_right(numbers, numbers[times[-1]] + max_skip) - 1
        room = count - (span - len(times))
        times.append(int(rng.integers(times[-1] + 1, max(times[-1] + 1, min(reach, room)) + 1)))
    period = max(1, 2 * (span - 1))
    return [times[min(i % period, -i % period)] for i in range(length)]


class TrainingSequences(Dataset[Clip]):
    """Clips of annotated frames.

    Half of the clips run backwards in time. The first frame of a clip shows at least one object; of the objects that
    are visible there after augmentation up to ``max_objects`` are kept, the others become background, as void does.

    Args:
        videos: the sequences; one that is listed twice is seen twice as often.
        clip_length: frames of a clip, T.
        max_objects: most objects of a clip.
        transform: augmentation.
    """

    def __init__(
        self, videos: Sequence[VideoFiles], clip_length: int, max_objects: int, transform: ClipTransform
    ) -> None:
        self.videos = list(videos)
        self.clip_length = clip_length
        self.max_objects = max_objects
        self.transform = transform

    def __len__(self) -> int:
        """Number of sequences, repeats included."""
        return len(self.videos)

    def __getitem__(self, key: ClipKey) -> Clip:
        """The clip that the key describes, always the same one.

        Raises:
            ValueError: a damaged file, frames of different sizes, or a sequence without any object.
        """
        video = self.videos[key.index]
        rng = np.random.default_rng(key.seed)
        read = lru_cache(self.clip_length + FIRST_FRAME_TRIES)(video.without_void)  # each mask once
        times = self._choose(video, key.max_skip, rng, read)
        frames: dict[int, np.ndarray] = {}  # a short video is run back and forth
        masks: dict[int, np.ndarray] = {}
        for t in times:
            if t in frames:
                continue
            frame = read_image(video.frames[t], self.transform.short_side)
            if frames and frame.shape != frames[times[0]].shape:
                raise ValueError(f"{video.frames[t]}: its size differs from other frames of the video; make them equal")
            frames[t], masks[t] = frame, resize_labels(read(t), frame.shape[:2])
        clip = self.transform([frames[t] for t in times], [masks[t] for t in times], rng)
        return to_clip(*clip, self.max_objects, rng)

    def _choose(
        self, video: VideoFiles, max_skip: int, rng: np.random.Generator, read: Callable[[int], np.ndarray]
    ) -> list[int]:
        """Numbers of the clip's frames; ``read`` gives the labels of one."""
        annotated = sorted(video.masks)
        stems = [video.frames[t].stem for t in annotated]
        clock = frame_numbers(stems) or annotated
        backwards = bool(rng.random() < 0.5)
        for _ in range(FIRST_FRAME_TRIES):
            chosen = _directed(clock, self.clip_length, max_skip, rng, backwards)
            labels = read(annotated[chosen[0]])
            areas = np.bincount(labels.ravel())
            if areas[1:].max(initial=0) >= VISIBLE * areas.sum():
                return [annotated[i] for i in chosen]
        # Objects are rare or tiny here: start from the frame that shows most, towards the farther end.
        first = most = 0
        for i, t in enumerate(annotated):
            if (area := np.count_nonzero(read(t))) > most:
                first, most = i, area
        if not most:
            raise ValueError(f"{video.masks[annotated[0]].parent}: no mask shows an object; remove the sequence")
        chosen = _directed(clock, self.clip_length, max_skip, rng, first > len(annotated) // 2, first)
        return [annotated[i] for i in chosen]


def _directed(
    clock: Sequence[int],
    length: int,
    max_skip: int,
    rng: np.random.Generator,
    backwards: bool,
    first: int | None = None,
) -> list[int]:
    if not backwards:
        return draw_times(clock, length, max_skip, rng, first)
    last = len(clock) - 1
    mirrored = [-number for number in reversed(clock)]
    times = draw_times(mirrored, length, max_skip, rng, None if first is None else last - first)
    return [last - i for i in times]
