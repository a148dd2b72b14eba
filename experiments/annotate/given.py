"""The given masks of a video on disk, as a prediction reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from callbacks import save_palette_png
from datamodules.annotations import MOST
from datamodules.images import read_labels


class GivenMasks:
    """``<folder>/<frame>.png``: palette PNGs of ids, one for each frame where the user has given masks.

    Args:
        folder: made when the first mask is written.
        frame_names: of the video.
        size: ``(H, W)`` of the video.

    Attributes:
        ids: frame number -> the ids that are given on it.

    Raises:
        ValueError: a mask that is there is damaged, or of another size.
    """

    def __init__(self, folder: Path, frame_names: list[str], size: tuple[int, int]) -> None:
        self.folder = folder
        self.frame_names = frame_names
        self.size = size
        self.ids: dict[int, list[int]] = {}
        names = {path.stem for path in folder.glob("*.png")} if folder.is_dir() else set()
        for t, name in enumerate(frame_names):
            if name in names and (labels := self.read(t)) is not None:
                self.ids[t] = _ids(labels)

    def path(self, t: int) -> Path:
        """The file of a frame."""
        return self.folder / f"{self.frame_names[t]}.png"

    def read(self, t: int) -> np.ndarray | None:
        """``(H, W)`` uint8 ids; ``None`` where nothing is given.

        Raises:
            ValueError: the file is damaged, or of another size.
        """
        path = self.path(t)
        if not path.exists():
            return None
        labels = read_labels(path)
        if labels.shape != self.size:
            raise ValueError(
                f"{path} is {labels.shape[0]}x{labels.shape[1]}, the video {self.size[0]}x{self.size[1]} (height x "
                "width); give OUT of this video, or another folder"
            )
        return labels

    def write(self, t: int, labels: np.ndarray) -> None:
        """Give a mask, in one stroke; one that shows no object says nothing and is removed.

        Args:
            t: frame number.
            labels: ``(H, W)`` uint8 ids, at most 254.

        Raises:
            OSError: it cannot be written; what was given before stays.
            ValueError: wrong size, or an id that no object can have.
        """
        if labels.shape != self.size or labels.dtype != np.uint8:
            raise ValueError(f"mask of frame {t}: {labels.shape} {labels.dtype}; give {self.size} uint8")
        if labels.max() > MOST:
            raise ValueError(f"mask of frame {t}: id {labels.max()}; ids are 1 to {MOST}")
        ids = _ids(labels)
        if not ids:
            self.remove(t)
            return
        save_palette_png(self.path(t), torch.tensor(labels))
        self.ids[t] = ids

    def remove(self, t: int) -> None:
        """Take a mask back."""
        self.path(t).unlink(missing_ok=True)
        self.ids.pop(t, None)


def _ids(labels: np.ndarray) -> list[int]:
    return [id_ for id_ in np.unique(labels).tolist() if id_]
