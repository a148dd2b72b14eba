"""Region similarity J, boundary accuracy F, and their mean over objects, equal to the official DAVIS 2017 code.

Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016, section 5, as
implemented in davis2017-evaluation (``davis2017/metrics.py``, ``davis2017/utils.py``). The one intended difference: the
official decay casts frame numbers to 8 bits and is wrong above 255 frames; here it is right for any length.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

STATISTICS = ("J", "J_recall", "J_decay", "F", "F_recall", "F_decay")
"""Columns of the state of `JAndF`, in order."""

# Of the 16 codes of _match_table: matched pixels of pred's and of target's boundary, then all of pred's and target's.
_COUNTS = torch.tensor(
    [[on & 1 and near & 2, on & 2 and near & 1, on & 1, on & 2] for on in range(4) for near in range(4)],
    dtype=torch.bool,
).double()
_CHUNK_BYTES = 1 << 26  # largest map dilated at once off the CPU


def region_similarity(pred: Tensor, target: Tensor, void: Tensor | None = None) -> Tensor:
    """Jaccard index J = |pred & target| / |pred | target|.

    Args:
        pred: ``(..., H, W)`` bool.
        target: ``(..., H, W)`` bool, same shape.
        void: bool, broadcastable to ``pred``; its pixels are removed from both masks.

    Returns:
        ``(...)`` float64 in [0, 1]; two empty masks score 1.

    Raises:
        ValueError: if a mask is not bool or the shapes differ.
    """
    pred, target = _valid_masks(pred, target, void)
    areas = [torch.count_nonzero(mask, dim=(-2, -1)).double() for mask in (pred & target, pred | target)]
    return (areas[0] / areas[1]).nan_to_num(1.0)  # 0 / 0


def boundary_accuracy(pred: Tensor, target: Tensor, void: Tensor | None = None, tolerance: float = 0.008) -> Tensor:
    """F measure of boundary precision and recall; a boundary pixel counts when one of the other mask is near it.

    A pixel is on the boundary when it differs from its right, lower or lower right neighbour. Precision is the share
    of ``pred``'s boundary within the tolerance (Euclidean, between pixel centres) of ``target``'s, recall the reverse.

    Only the union box of the two masks is looked at: a boundary lies in it, so nothing outside can match. The two
    boundaries are bits 0 and 1 of one map, dilated together by shifts of its flattened rows.

    Args:
        pred: ``(..., H, W)`` bool.
        target: ``(..., H, W)`` bool, same shape.
        void: bool, broadcastable to ``pred``; its pixels are removed from both masks.
        tolerance: below 1 a share of the image diagonal, rounded up to whole pixels; from 1 on, pixels.

    Returns:
        ``(...)`` float64 in [0, 1]; 1 where neither mask has a boundary, 0 where only one has.

    Raises:
        ValueError: if a mask is not bool, the shapes differ or the tolerance is negative.
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance={tolerance}: must not be negative; 0.008 is the value of DAVIS")
    pred, target = _valid_masks(pred, target, void)
    height, width = pred.shape[-2:]
    radius = tolerance if tolerance >= 1 else math.ceil(tolerance * math.sqrt(height**2 + width**2))
    preds, targets = pred.reshape(-1, height, width), target.reshape(-1, height, width)
    tables = [preds.new_zeros((0, 16), dtype=torch.int64)]
    if pred.device.type == "cpu" or not len(preds):
        for p, t in zip(preds, targets, strict=True):
            rows, columns = _union_box(p, t)
            tables.append(_match_table(p[None, rows, columns], t[None, rows, columns], radius))
    else:  # launches cost more than pixels: no boxes, which would have to be waited for
        chunk = max(1, _CHUNK_BYTES // ((height + int(radius)) * (width + int(radius))))
        for p, t in zip(preds.split(chunk), targets.split(chunk), strict=True):
            tables.append(_match_table(p, t, radius))
    counts = (torch.cat(tables).double() @ _COUNTS.to(pred.device)).view(*pred.shape[:-2], 2, 2)
    precision, recall = (counts[..., 0, :] / counts[..., 1, :]).nan_to_num(1.0).unbind(-1)  # 0 / 0: no boundary
    return (2 * precision * recall / (precision + recall)).nan_to_num(0.0)


class ObjectScores(NamedTuple):
    """What `JAndF` knows of one object.

    Attributes:
        video: index of the video.
        object: label of the object, 1..K.
        frames: scored frames of the video.
        values: ``J&F`` and every name of `STATISTICS`.
    """

    video: int
    object: int
    frames: int
    values: dict[str, float]


class JAndF(Metric):
    """J&F of DAVIS: mean, recall and decay per object, then the mean over all objects of all videos.

    The states are dense and summed over ranks, so ranks may have seen different numbers of videos, none, or the same
    video twice: a repetition adds to numerator (``scores``) and denominator (``seen``) alike.

    Args:
        num_videos: rows of the state, the length of the evaluation set.
        max_objects: largest number of objects in one video.

    Raises:
        ValueError: if one of them is below 1.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    scores: Tensor
    seen: Tensor
    frames: Tensor

    def __init__(self, num_videos: int, max_objects: int) -> None:
        super().__init__()
        if num_videos < 1 or max_objects < 1:
            raise ValueError(f"JAndF(num_videos={num_videos}, max_objects={max_objects}): both must be at least 1")
        shape = (num_videos, max_objects)
        self.add_state("scores", torch.zeros(*shape, len(STATISTICS), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("seen", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("frames", torch.zeros(num_videos, dtype=torch.int64), dist_reduce_fx="max")

    def update(self, video: int, j: Tensor, f: Tensor) -> None:
        """Add one whole video.

        Args:
            video: index of the video.
            j: ``(T, K)`` region similarities of the scored frames, in order; the caller leaves out the first and the
                last frame. NaN: this object is not scored on this frame.
            f: ``(T, K)`` boundary accuracies, NaN at the same places.

        An object without any scored frame is not counted.

        Raises:
            ValueError: if the index, a shape or the number of objects does not fit, or NaNs differ.
        """
        num_videos, max_objects = self.seen.shape
        if not 0 <= video < num_videos:
            raise ValueError(f"video={video}: must be in 0..{num_videos - 1}; give the metric the whole set's length")
        if j.ndim != 2 or j.shape != f.shape:
            raise ValueError(f"j {tuple(j.shape)}, f {tuple(f.shape)}: both must be (T, K) for the same T and K")
        if j.shape[1] > max_objects:
            raise ValueError(f"video={video} has {j.shape[1]} objects, more than max_objects={max_objects}; raise it")
        j, f = j.to(self.scores), f.to(self.scores)
        kept = ~j.isnan()
        if not torch.equal(kept, ~f.isnan()):
            raise ValueError(f"video={video}: j and f are NaN at different places; leave out both or none of a frame")
        for k in range(j.shape[1]):
            if kept[:, k].any():
                self.scores[video, k] += torch.cat([_statistics(v[kept[:, k], k]) for v in (j, f)])
                self.seen[video, k] += 1
        self.frames[video] = torch.maximum(self.frames[video], kept.any(1).sum())

    def compute(self) -> dict[str, Tensor]:
        """Means over all seen objects.

        Returns:
            Scalars (float64) ``J&F``, ``J``, ``J_recall``, ``J_decay``, ``F``, ``F_recall``, ``F_decay``; recall is
            the share of frames above 0.5, decay the first quarter's mean minus the last's. NaN if nothing was seen.
        """
        mean = self._averaged()[self.seen > 0].mean(0)
        return {"J&F": (mean[0] + mean[3]) / 2, **dict(zip(STATISTICS, mean.unbind(), strict=True))}

    def per_object(self) -> list[ObjectScores]:
        """Every seen object, by video and label. Gathers over ranks: call it on all of them or on none."""
        with self.sync_context():
            averaged, frames = self._averaged().tolist(), self.frames.tolist()
            table = []
            for video, k in self.seen.nonzero().tolist():
                values = dict(zip(STATISTICS, averaged[video][k], strict=True))
                jf = (values["J"] + values["F"]) / 2
                table.append(ObjectScores(video, k + 1, frames[video], {"J&F": jf, **values}))
        return table

    def _averaged(self) -> Tensor:
        return self.scores / self.seen.clamp(min=1)[..., None]


def _valid_masks(pred: Tensor, target: Tensor, void: Tensor | None) -> tuple[Tensor, Tensor]:
    """The two masks without void pixels, after checking them."""
    if pred.shape != target.shape or pred.ndim < 2 or 0 in pred.shape[-2:]:
        raise ValueError(f"pred {tuple(pred.shape)}, target {tuple(target.shape)}: must be the same (..., H, W)")
    for name, mask in (("pred", pred), ("target", target), ("void", void)):
        if mask is not None and mask.dtype != torch.bool:
            raise ValueError(f"{name} is {mask.dtype}: must be bool; compare the labels first, as in labels == k")
    if void is None:
        return pred, target
    return pred & ~void, target & ~void


def _union_box(pred: Tensor, target: Tensor) -> tuple[slice, slice]:
    """Rows and columns of the ``(H, W)`` masks' union, grown by one pixel inside the frame; one pixel if empty."""
    union = (pred | target).view(torch.uint8)  # amax of bytes is several times faster than any of bools
    rows = union.amax(1).nonzero()
    if not len(rows):
        return slice(0, 1), slice(0, 1)
    top, bottom = int(rows[0]), int(rows[-1])
    columns = union[top : bottom + 1].amax(0).nonzero()
    left, right = int(columns[0]), int(columns[-1])
    return slice(max(top - 1, 0), bottom + 2), slice(max(left - 1, 0), right + 2)


def _match_table(pred: Tensor, target: Tensor, radius: float) -> Tensor:
    """How many pixels lie on which boundary and near which.

    Args:
        pred: ``(N, H, W)`` bool.
        target: ``(N, H, W)`` bool.
        radius: tolerance in pixels.

    Returns:
        ``(N, 16)`` int64, pixels by ``4 * on + near``; each is 1 for pred's boundary, 2 for target's, 3 for both.
    """
    num, height, width = pred.shape
    margin = int(radius)
    both = torch.add(pred.view(torch.uint8), target.view(torch.uint8), alpha=2)
    # The margin right of and below each map is what keeps a shift of the flattened whole inside its row and its map.
    padded = both.new_zeros(num, height + margin, width + margin)
    on = padded[:, :height, :width]
    # At the frame's end the missing neighbour is taken as equal, which gives the official last row and column.
    torch.bitwise_xor(both[:, :, 1:], both[:, :, :-1], out=on[:, :, :-1])
    on[:, :-1] |= both[:, 1:] ^ both[:, :-1]
    on[:, :-1, :-1] |= both[:, 1:, 1:] ^ both[:, :-1, :-1]
    near = _dilate(padded.view(-1), width + margin, radius)
    codes = near.add_(padded.view(-1), alpha=4).view(num, -1)
    return torch.stack([torch.bincount(code, minlength=16) for code in codes])


def _dilate(flat: Tensor, stride: int, radius: float) -> Tensor:
    """Bitwise dilation of a flattened map of row length ``stride`` by a disk, row by row from its poles inwards.

    The half-width of the disk only grows on the way to its equator, so the horizontal dilation of one row is the start
    of the next one's.
    """
    wide, near, reach = flat.clone(), torch.zeros_like(flat), 0
    for dy in range(int(radius), -1, -1):
        half_width = math.isqrt(int(radius**2 - dy**2))
        for dx in range(reach + 1, half_width + 1):
            wide[dx:] |= flat[:-dx]
            wide[:-dx] |= flat[dx:]
        reach = half_width
        if dy == 0:
            return near.bitwise_or_(wide)
        near[dy * stride :] |= wide[: -dy * stride]
        near[: -dy * stride] |= wide[dy * stride :]
    return near


def _statistics(values: Tensor) -> Tensor:
    """Mean, recall and decay of ``(T,)`` values, T >= 1; the official ``db_statistics``."""
    n = len(values)
    # round(linspace(1, n, 5) + 1e-10) - 1 of the official code, in integers. Neighbouring bins share a frame.
    edges = [((n - 1) * i + 2) // 4 for i in range(5)]
    decay = values[: edges[1] + 1].mean() - values[edges[3] :].mean()
    return torch.stack([values.mean(), (values > 0.5).to(values).mean(), decay])
