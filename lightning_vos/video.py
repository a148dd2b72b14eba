"""What is segmented: a video for evaluation, and footage, a video of a user that may be passed through twice."""

from __future__ import annotations

import copy
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


class Video:
    """One evaluation sequence, streamed: at most ``read_ahead`` decoded frames exist at any time.

    Args:
        index: position in the evaluation set, the row of the metric's state.
        name: name of the sequence, as its folder is called.
        size: ``(H, W)`` of the annotations; predictions are scored and written at this size.
        object_ids: the ids that the files use; object ``k`` (1..K) of every label map here is ``object_ids[k - 1]``.
        prompts: frame number -> ``(H, W)`` uint8 labels of the objects that start on that frame, and only those.
            ``{0: ...}`` on DAVIS; later ones as well on YouTube-VOS.
        frame_names: file stem of every frame, in order.
        read_frame: frame number -> ``(3, h, w)`` uint8 RGB on the CPU. May be smaller than ``size``.
        read_target: frame number -> ``(H, W)`` uint8 labels with 255 = void, or ``None`` where nothing is annotated.
        device: where frames are delivered.
        read_ahead: frames decoded in advance by a small thread pool.

    Attributes:
        start: frame to begin with; earlier ones are done. Whoever raises it gives ``state`` as well.
        state: what :meth:`~lightning_vos.module.VOSModule.sequence_state` returned before that frame.
    """

    def __init__(
        self,
        index: int,
        name: str,
        size: tuple[int, int],
        object_ids: tuple[int, ...],
        prompts: dict[int, Tensor],
        frame_names: Sequence[str],
        read_frame: Callable[[int], Tensor],
        read_target: Callable[[int], Tensor | None],
        device: torch.device | str = "cpu",
        read_ahead: int = 4,
    ) -> None:
        self.index = index
        self.name = name
        self.size = size
        self.object_ids = object_ids
        self.prompts = prompts
        self.frame_names = frame_names
        self.read_frame = read_frame
        self.read_target = read_target
        self.device = torch.device(device)
        self.read_ahead = read_ahead
        self.start = 0
        self.state: dict[str, Any] | None = None

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.frame_names)

    def __repr__(self) -> str:
        """Name, length, size and number of objects."""
        return (
            f"Video({self.name!r}, {len(self)} frames, {self.size[0]}x{self.size[1]}, {len(self.object_ids)} objects)"
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Video:
        """The same video delivering its frames on ``device`` (Lightning calls this to move the batch)."""
        moved = copy.copy(self)
        moved.device = torch.device(device)
        return moved

    def __iter__(self) -> Iterator[Tensor]:
        """Frames in order, from ``start`` on: ``(3, h, w)`` uint8 RGB on the device."""
        pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="decode")
        waiting: deque[Future[Tensor]] = deque()
        try:
            for t in range(self.start, len(self)):
                waiting.append(pool.submit(self.read_frame, t))
                if len(waiting) > self.read_ahead:
                    yield waiting.popleft().result().to(self.device)
            while waiting:
                yield waiting.popleft().result().to(self.device)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def target(self, t: int) -> Tensor | None:
        """Ground truth of frame ``t``: ``(H, W)`` uint8 labels with 255 = void, or ``None`` where there is none."""
        return self.read_target(t)


@dataclass(frozen=True)
class Footage:
    """A video to be segmented for its user: there is no ground truth, and masks may be given on any frame.

    Attributes:
        video: all frames once, as they are played, at their own size; for whoever draws on them.
        passes: what the model is led through, one after another; together they see every frame of ``video``, each one
            some of them, in its own direction. Where two passes see a frame, the later one has the last word on every
            object that has started in it.
        seconds: time at which each frame is shown.
        given: what is given of it, in words: which objects start on which frames, from which files.
        identity: changes when files, given masks or passes do.
        problems: where the error of a video that cannot be segmented is noted, by name, so that the next one has its
            turn; ``None``: the error is raised.
        prefix: number of a pass and of a frame in it -> the identity of all before that frame; ``None``: ``identity``.
    """

    video: Video
    passes: tuple[Video, ...]
    seconds: Sequence[float]
    identity: str = ""
    given: str = ""
    problems: dict[str, Exception] | None = None
    prefix: Callable[[int, int], str] | None = None

    def identity_before(self, number: int, t: int) -> str:
        """What a model has seen before frame ``t`` of pass ``number``: later given masks do not change it."""
        return self.identity if self.prefix is None else self.prefix(number, t)

    @classmethod
    def of(cls, video: Video) -> Footage:
        """A sequence of a data set, in one pass at 24 frames a second."""
        given = {t: zlib.crc32(prompt.numpy().tobytes()) for t, prompt in video.prompts.items()}
        return cls(video, (video,), [t / 24 for t in range(len(video))], f"{video} {given}")

    def __repr__(self) -> str:
        """That of the video."""
        return f"Footage({self.video!r}, {len(self.passes)} passes)"

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Footage:
        """The same footage with passes that deliver their frames on ``device``; what is drawn on stays on the CPU."""
        return replace(self, passes=tuple(video.to(device, non_blocking) for video in self.passes))


def why(error: Exception) -> str:
    """One line on why a video could not be segmented; errors that nobody foresaw are named by their kind, too."""
    text = " ".join(str(error).split())
    return text if text and isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {text}"
