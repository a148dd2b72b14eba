"""What travels between the parts: clips for training, videos for evaluation, footage for prediction.

Dimension letters, the same in every docstring of this project:

====  =======================================================
B     clips of a batch
T     frames of a clip (or stored frames of a memory bank)
K     objects; K+1 counts the background, which comes first
C     channels
N     positions of the feature grid, N = h * w
M     memory positions, M = T * N
H W   image height and width, pixels
h w   height and width of the feature grid, cells
====  =======================================================

*Labels* are uint8 maps: 0 background, 1..K objects, 255 void (ground truth only). *Masks* given to a model are
one-hot float maps in [0, 1]. *Probabilities* are in [0, 1]; *logits* are log-odds.
"""

from __future__ import annotations

import copy
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from lightning import Callback
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from lightning import LightningModule, Trainer

VOID = 255


def _voc_palette() -> NDArray[np.uint8]:
    """The bits of a label, dealt out in turn to red, green and blue, from the most significant bit down."""
    labels = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for place in range(8):
        for channel in range(3):
            palette[:, channel] |= (((labels >> (3 * place + channel)) & 1) << (7 - place)).astype(np.uint8)
    return palette


PALETTE: NDArray[np.uint8] = _voc_palette()
"""``(256, 3)`` uint8 RGB: the palette of PASCAL VOC and DAVIS. 0 black, 1 (128, 0, 0), 2 (0, 128, 0), ..."""


class Clip(NamedTuple):
    """One training sample.

    Attributes:
        frames: ``(T, 3, H, W)`` uint8 RGB.
        masks: ``(T, H, W)`` uint8 labels, 0 background, ``1..num_objects``. Every object is visible in frame 0.
        num_objects: number of objects, at least 1.
    """

    frames: Tensor
    masks: Tensor
    num_objects: int


class ClipBatch(NamedTuple):
    """Clips of equal length and size.

    Attributes:
        frames: ``(B, T, 3, H, W)`` uint8 RGB.
        masks: ``(B, T, H, W)`` uint8 labels.
        num_objects: ``(B,)`` int64, objects of each clip.
        max_objects: the largest of them, known on the host so that no step has to wait for the device.
    """

    frames: Tensor
    masks: Tensor
    num_objects: Tensor
    max_objects: int

    @classmethod
    def collate(cls, clips: Sequence[Clip]) -> ClipBatch:
        """Stack clips; the ``collate_fn`` of the training loaders."""
        return cls(
            torch.stack([clip.frames for clip in clips]),
            torch.stack([clip.masks for clip in clips]),
            torch.tensor([clip.num_objects for clip in clips]),
            max(clip.num_objects for clip in clips),
        )


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
        identity: changes when files, given masks or passes do.
        problems: where it is noted, by name, why a video could not be segmented, so that the next one has its turn;
            ``None``: the error is raised.
    """

    video: Video
    passes: tuple[Video, ...]
    seconds: Sequence[float]
    identity: str = ""
    problems: dict[str, str] | None = None

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


class FrameCallback(Callback):
    """A Lightning callback that also sees every frame of evaluation as it is segmented.

    A video can be of any length, so predictions are handed on frame by frame and never gathered. ``VOSModule`` calls
    these hooks in ``validation_step``, ``test_step`` and ``predict_step``; what happens between ``on_frame_start`` and
    ``on_frame_end`` is exactly the work of segmenting one frame (the frame is on the device before, nothing is copied
    back inside).

    Attributes:
        output_dir: where a callback that writes files puts them; ``None``: the trainer's ``default_root_dir``.
    """

    output_dir: str | None = None

    def output_folder(self, trainer: Trainer) -> Path:
        """``output_dir``, or what stands for it."""
        return Path(trainer.default_root_dir if self.output_dir is None else self.output_dir)

    def on_footage_start(self, trainer: Trainer, pl_module: LightningModule, footage: Footage) -> None:
        """In prediction, called before the first pass of a video; may set ``start`` and ``state`` of its passes."""

    def on_footage_end(self, trainer: Trainer, pl_module: LightningModule, footage: Footage) -> None:
        """In prediction, called after the last pass of a video, unless it failed."""

    def on_frame_start(self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int) -> None:
        """Called when frame ``t`` lies on the device and its segmentation is about to start."""

    def on_frame_end(
        self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int, frame: Tensor, labels: Tensor
    ) -> None:
        """Called when frame ``t`` has been segmented.

        Args:
            trainer: the trainer.
            pl_module: the model.
            video: the video.
            t: frame number, 0-based.
            frame: ``(3, h, w)`` uint8 RGB on the device.
            labels: ``(H, W)`` uint8 labels of size ``video.size`` on the device, 0 background, 1..K.
        """


@runtime_checkable
class TargetTracker(Protocol):
    """A method that follows targets and knows when it has lost one: what callbacks may ask of it."""

    @property
    def lost_targets(self) -> Tensor | None:
        """``(B, K)`` bool, objects that were not found on the last frame; ``None`` outside a sequence."""


@runtime_checkable
class MaskMatcher(Protocol):
    """A method that matches mask proposals: what callbacks may ask of it."""

    stride: int

    @property
    def proposal_masks(self) -> Tensor | None:
        """``(B, m, H, W)`` proposals of the last frame in [0, 1], padded to the stride; ``None`` outside a sequence."""

    def reveal(self, truth: Tensor | None) -> None:
        """Give the ground truth ``(B, K, H, W)``, padded, of the next frame: it is then matched perfectly."""
