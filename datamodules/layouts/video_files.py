"""The files of one video sequence, and the objects on its masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from datamodules.images import image_size, read_labels
from lightning_vos.types import VOID


@dataclass(frozen=True)
class VideoFiles:
    """The files of one sequence; masks are read when they are asked for.

    Attributes:
        name: name of the sequence, as its folder is called.
        frames: pictures in order of time.
        masks: frame number (0-based) -> mask file; frames without annotation are missing.
        starts: frame number -> ids of the objects that start there; ``None``: all on its mask that no earlier one of
            these frames shows.
        single_object: every label above 0, 255 included, is object 1.
        only: frame number -> the ids that count on its mask, all others are background; ``None``: all do.
    """

    name: str
    frames: tuple[Path, ...]
    masks: dict[int, Path]
    starts: Mapping[int, list[int] | None]
    single_object: bool = False
    only: dict[int, list[int]] | None = None

    def labels(self, t: int) -> np.ndarray:
        """Labels of annotated frame ``t``: ``(H, W)`` uint8, 255 = void (never with ``single_object``)."""
        labels = read_labels(self.masks[t])
        if self.single_object:
            labels = (labels > 0).astype(np.uint8)
        if self.only is not None:
            labels = np.where(np.isin(labels, [*self.only[t], VOID]), labels, 0).astype(np.uint8)
        return labels

    def without_void(self, t: int) -> np.ndarray:
        """Labels of annotated frame ``t`` with void as background: ``(H, W)`` uint8."""
        labels = self.labels(t)
        labels[labels == VOID] = 0
        return labels

    def ids(self, t: int) -> list[int]:
        """Object ids on annotated frame ``t``, rising, without background and void."""
        return [int(label) for label in np.unique(self.labels(t)) if label not in (0, VOID)]

    def starting_ids(self) -> dict[int, list[int]]:
        """Frame number -> ids of the objects that start there: what is given of the video when it is evaluated.

        Masks are read only where ``starts`` does not name the ids.

        Raises:
            ValueError: an object starts on a frame without a mask, or there is no object at all.
        """
        starts: dict[int, list[int]] = {}
        seen: set[int] = set()
        for t, named in sorted(self.starts.items()):
            if named and t not in self.masks:
                raise ValueError(
                    f"{self.frames[t]}: object {named[0]} of video {self.name!r} starts here, but the frame has no "
                    "mask; add the mask or correct meta.json"
                )
            if new := [id_ for id_ in (self.ids(t) if named is None else named) if id_ not in seen]:
                starts[t] = new
                seen.update(new)
        if not starts:
            mask = self.masks[min(self.starts, default=min(self.masks))]
            raise ValueError(
                f"{mask if len(self.starts) == 1 else mask.parent}: no object to follow in video {self.name!r} (0 is "
                "background, 255 void); take the video off the list, or set single_object: true if 255 means the object"
            )
        return starts

    def given(self) -> VideoFiles:
        """The sequence with no more masks than an evaluation gives: objects on the frames where they start.

        Raises:
            ValueError: as for :meth:`starting_ids`.
        """
        starts = self.starting_ids()
        return replace(self, masks={t: self.masks[t] for t in starts}, starts=starts, only=starts)

    def check(self) -> None:
        """Compare the sizes of all frames and masks, headers only.

        Raises:
            ValueError: they differ, or a file is not an image.
        """
        size = image_size(self.frames[0])
        for path in (*self.frames, *self.masks.values()):
            if (other := image_size(path)) != size:
                raise ValueError(
                    f"{path} is {other[0]}x{other[1]} but {self.frames[0]} is {size[0]}x{size[1]} (height x width); "
                    "frames and masks of a sequence must have one size"
                )
