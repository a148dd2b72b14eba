"""Clips for the page: every frame once, and the masks of each record as a layer over it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import TypedDict

from PIL import Image

from lightning_vos.compare.records import Record


class Clip(TypedDict):
    """What the page's player needs of a sequence.

    Attributes:
        size: width and height, pixels.
        numbers: numbers of the frames that are there, 0-based.
        frames: pictures as data URIs.
        layers: caption -> masks as data URIs, empty where there is none; the ground truth first, then the records.
    """

    size: tuple[int, int]
    numbers: list[int]
    frames: list[str]
    layers: dict[str, list[str]]


def read_clip(records: Sequence[Record], sequence: str, budget: int) -> Clip | None:
    """The pictures that ``callbacks.ClipImages`` wrote of a sequence, thinned out evenly until they fit.

    Args:
        records: what to lay side by side.
        sequence: name of the sequence.
        budget: most bytes of all pictures together.

    Returns:
        ``None`` where there are no pictures.
    """
    first = records[0].folder
    numbers = first.clip_frames(sequence)
    if not numbers:
        return None
    pictures = [first.clip_frame(sequence, t) for t in numbers]
    layers = {"ground truth": [first.clip_truth(sequence, t) for t in numbers]}
    layers |= {record.name: [record.folder.clip_masks(sequence, t) for t in numbers] for record in records}
    size = sum(path.stat().st_size for paths in (pictures, *layers.values()) for path in paths if path.is_file())
    step = max(1, ceil(size / budget))
    chosen = range(0, len(numbers), step)
    with Image.open(pictures[0]) as picture:
        return Clip(
            size=picture.size,
            numbers=[numbers[i] for i in chosen],
            frames=[_data_uri(pictures[i]) for i in chosen],
            layers={caption: [_data_uri(paths[i]) for i in chosen] for caption, paths in layers.items()},
        )


def _data_uri(path: Path) -> str:
    if not path.is_file():
        return ""
    return f"data:image/{path.suffix[1:]};base64,{b64encode(path.read_bytes()).decode()}"
