"""A user's own videos and first masks, to be segmented by ``python -m lightning_vos predict``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from datamodules.annotations import SUFFIXES
from datamodules.first_mask import read_given
from datamodules.images import IMAGE_SUFFIXES
from datamodules.listing import FOREIGN, left_aside, video_name, visible
from datamodules.movies import MOVIE_SUFFIXES, Movie, open_movie
from lightning_vos.video import Footage, Video, why

Direction = Literal["forward", "backward", "both"]


class PredictDataModule(LightningDataModule):
    """Videos to segment from given masks.

    Args:
        video: a video file, a folder of frames (jpg, jpeg, png, bmp), or a folder of such files and folders.
        mask: the given masks, see :func:`~datamodules.first_mask.read_given`; for a folder of videos a folder with a
            mask file or folder for each, named as the video.
        frame: frame, by name or number, of a mask that names none; by default the first one, or the last one if the
            direction is ``backward``.
        masks: frames whose masks are read, where ``mask`` has several: names separated by commas, or ``all``; ``None``:
            the first one alone.
        direction: ``forward`` in time, ``backward``, or ``both`` from the given masks. In ``both`` the masks of the
            forward pass go first; those of the backward pass fill the time before an object is given.
        short_side: frames are shrunk so that the shorter side has at most this many pixels; ``None`` keeps them. Masks
            have the size of the video in any case.
        fps: pictures a second of a folder of frames.

    Attributes:
        problems: after the prediction of a folder of videos, the errors of those that could not be segmented, by name.
        videos: how many there are, problems included.
    """

    def __init__(
        self,
        video: str,
        mask: str,
        frame: str | None = None,
        masks: str | None = None,
        direction: Direction = "forward",
        short_side: int | None = 480,
        fps: float = 24.0,
    ) -> None:
        super().__init__()
        if fps <= 0 or (short_side is not None and short_side < 1):
            raise ValueError(f"data.fps={fps}, data.short_side={short_side}: both must be above 0")
        self.video = Path(video)
        self.mask = Path(mask)
        self.frame = frame
        self.masks = masks
        self.direction = direction
        self.short_side = short_side
        self.fps = fps
        self.problems: dict[str, Exception] = {}
        self.videos = 0
        self._takes: list[_Take] = []

    def setup(self, stage: str) -> None:
        """Open every video and read its masks, so that mistakes are known before the first frame is segmented.

        Args:
            stage: ``predict``.

        Raises:
            FileNotFoundError: the video or its mask is missing.
            ValueError: one of them cannot be used. Of several videos, the others are segmented and :attr:`problems`
                says which ones are not.
        """
        if stage != "predict":
            raise ValueError(f"PredictDataModule has no data to {stage} with; use it with predict")
        several = _videos(self.video)
        self.problems, self._takes, self.videos = {}, [], max(1, len(several))
        for path in several or [self.video]:
            try:
                mask = _mask_of(path, self.mask) if several else self.mask
                take = _Take(self, path, mask)
                if any(take.name == other.name for other in self._takes):
                    raise ValueError(f"{path}: another video is called {take.name}; rename one of the two")
                take.footage()  # only a check: the masks of all videos at once might not fit into memory
                self._takes.append(take)
            except Exception as error:  # whatever it is, the other videos are not to blame
                if not several:
                    raise
                self.problems[path.name] = error
                rank_zero_warn(f"{path.name}: {why(error)}; the other videos are segmented")

    def predict_dataloader(self) -> DataLoader[Footage]:
        """The videos, one at a time; they decode their own frames ahead.

        Raises:
            ValueError: on several devices, where one would wait for the other's video.
        """
        if self.trainer is not None and self.trainer.world_size > 1:
            raise ValueError("trainer.devices: prediction runs on one; start it for each device with its own videos")
        several = self.problems if _videos(self.video) else None
        return DataLoader(_Takes(self._takes, several), batch_size=None, num_workers=0)


class _Takes(IterableDataset[Footage]):
    def __init__(self, takes: Sequence[_Take], problems: dict[str, Exception] | None) -> None:
        self.takes = takes
        self.problems = problems

    def __iter__(self) -> Iterator[Footage]:
        for index, take in enumerate(self.takes):
            try:
                footage = take.footage(index, self.problems)
            except Exception as error:  # files have changed since they were looked at
                if self.problems is None:
                    raise
                self.problems[take.name] = error
                rank_zero_warn(f"{take.name}: {why(error)}; going on with the next video")
            else:
                yield footage


class _Take:
    """One video and its masks: what is known of it before it is segmented."""

    def __init__(self, settings: PredictDataModule, path: Path, mask: Path) -> None:
        self.movie: Movie = open_movie(path, settings.fps, mask)
        self.mask = mask
        self.settings = settings
        self.name = video_name(path)

    def footage(self, index: int = 0, problems: dict[str, Exception] | None = None) -> Footage:
        """The video with its passes; the masks are read now, frames when they are asked for.

        Raises:
            FileNotFoundError: the mask is missing.
            ValueError: it cannot be used.
        """
        movie, settings = self.movie, self.settings
        prompts = read_given(self.mask, movie, settings.direction, settings.frame, settings.masks)
        count = len(movie.frame_names)
        orders = passes(settings.direction, prompts, count)
        read = movie.reader(settings.short_side)
        about = f"{movie.identity} {movie.size} {orders} {settings.short_side}"
        whole, digests = hashlib.sha256(about.encode()), {}
        for t, ids in sorted(prompts.items()):
            content = f"{t} {ids.shape}".encode() + ids.tobytes()
            whole.update(content)
            digests[t] = hashlib.sha256(content).hexdigest()
        return Footage(
            _video(self, index, range(count), {}, movie.reader()),
            tuple(_video(self, index, order, prompts, read) for order in orders),
            movie.seconds,
            identity=whole.hexdigest(),
            prefix=partial(_identity_before, about, digests, orders),
            given=prompts.words,
            problems=problems,
        )


def passes(direction: Direction, prompts: dict[int, np.ndarray], count: int) -> list[range]:
    """The frames of each pass, in its order.

    In ``both``, the backward pass begins where the last object is given for the first time, and the forward pass where
    the first one is.

    Args:
        direction: of the prediction.
        prompts: frame number -> ``(H, W)`` ids.
        count: frames of the video.

    Returns:
        Ranges of frame numbers.
    """
    if direction == "forward":
        return [range(count)]
    if direction == "backward":
        return [range(count - 1, -1, -1)]
    starts: dict[int, int] = {}
    for t in sorted(prompts):
        for id_ in np.unique(prompts[t]):
            starts.setdefault(int(id_), t)
    starts.pop(0, None)
    backward = range(max(starts.values()), -1, -1)
    forward = range(min(starts.values()), count)
    return [forward] if backward.start == 0 else [backward, forward]


def _video(
    take: _Take, index: int, order: range, prompts: dict[int, np.ndarray], read: Callable[[int], Tensor]
) -> Video:
    """The frames of a pass; its objects are numbered in the order in which they start in it."""
    names = take.movie.frame_names
    given = {order.index(t): ids for t, ids in prompts.items() if t in order}
    object_ids = list(dict.fromkeys(int(id_) for t in sorted(given) for id_ in np.unique(given[t]) if id_))
    lookup = np.zeros(256, dtype=np.uint8)
    lookup[object_ids] = np.arange(1, len(object_ids) + 1)
    return Video(
        index=index,
        name=take.name,
        size=take.movie.size,
        object_ids=tuple(object_ids),
        prompts={t: torch.from_numpy(lookup[ids]) for t, ids in given.items()},
        frame_names=[names[t] for t in order],
        read_frame=partial(_read, read, order),
        read_target=_no_target,
    )


def _read(read: Callable[[int], Tensor], order: range, t: int) -> Tensor:
    return read(order[t])


def _no_target(t: int) -> None:
    return None


def _identity_before(about: str, digests: Mapping[int, str], orders: Sequence[range], number: int, end: int) -> str:
    """Of what a prediction sees before frame ``end`` of pass ``number``: see :attr:`Footage.prefix`."""
    seen = [*orders[:number], orders[number][:end]]
    given = {t: digest for t, digest in digests.items() if any(t in order for order in seen)}
    return hashlib.sha256(f"{about} {given}".encode()).hexdigest()


def _videos(path: Path) -> list[Path]:
    """The videos in a folder; none if it is a file or the folder of the frames of one.

    Raises:
        ValueError: both frames and video files are in it.
    """
    if not path.is_dir():
        return []
    inside = visible(path)
    movies = [p for p in inside if not p.is_dir() and p.suffix.lower() in MOVIE_SUFFIXES]
    pictures = {*IMAGE_SUFFIXES, *FOREIGN} - {*MOVIE_SUFFIXES}
    if any(not p.is_dir() and p.suffix.lower() in pictures for p in inside):
        if movies:
            raise ValueError(f"{path}: frames of a video, or videos such as {movies[0].name}? Move one kind elsewhere")
        return []
    clips = [p for p in inside if p.is_dir() or p in movies or not p.exists()]  # a link to nothing is a problem
    if clips:
        left_aside(path, [p for p in inside if p not in clips])
    return clips


def _mask_of(video: Path, masks: Path) -> Path:
    """The mask of one of several videos."""
    if not masks.is_dir():
        raise FileNotFoundError(f"{masks}: no such folder; for a folder of videos give one with a mask for each")
    name = video_name(video)
    found = [path for path in (masks / name, *(masks / f"{name}{suffix}" for suffix in SUFFIXES)) if path.exists()]
    if len(found) != 1:
        what = " and ".join(path.name for path in found) or "no mask"
        raise ValueError(f"{video}: {what} in {masks}; put one file or folder called {name} there")
    return found[0]
