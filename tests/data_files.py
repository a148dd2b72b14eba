"""Small data sets on disk, in the layouts of the real ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules import ImageSet
from datamodules.transforms import StaticTransform

SIZE = (24, 36)
EMPTY = np.zeros(SIZE, dtype=np.uint8)


class Unchanged(StaticTransform):
    """Leaves the picture as it is, so that a clip can be compared with its files pixel by pixel."""

    def draw(
        self, frames: Sequence[np.ndarray], masks: Sequence[np.ndarray], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        return np.stack(frames), np.stack(masks)


def save(path: Path, array: np.ndarray, palette: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if palette:
        image.putpalette([(7 * i) % 256 for i in range(768)])  # all 256 entries, or PNG stores fewer bits
    image.save(path, quality=95) if path.suffix == ".jpg" else image.save(path)
    return path


def picture(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize(size[::-1]))


def block(ids: dict[int, tuple[int, int]], size: tuple[int, int] = SIZE) -> np.ndarray:
    """Labels with an 8x8 block of each id at (row, column)."""
    labels = np.zeros(size, dtype=np.uint8)
    for id_, (row, column) in ids.items():
        labels[row : row + 8, column : column + 8] = id_
    return labels


def write_sequence(
    base: Path,
    name: str,
    masks: Sequence[np.ndarray | None],
    resolution: str = "480p",
    stems: Sequence[str] | None = None,
    seed: int = 0,
) -> None:
    for t, mask in enumerate(masks):
        stem = stems[t] if stems else f"{t:05d}"
        save(base / "JPEGImages" / resolution / name / f"{stem}.jpg", picture(seed + t))
        if mask is not None:
            save(base / "Annotations" / resolution / name / f"{stem}.png", mask, palette=True)


def write_davis(
    base: Path, lists: dict[str, Sequence[str]], year: str = "2017", frames: int = 6, ids: Sequence[int] = (1, 2)
) -> Path:
    places = [(2, 3), (10, 20), (12, 4)]
    for split, names in lists.items():
        for n, name in enumerate(names):
            masks = [
                block({id_: (r + t % 3, c) for id_, (r, c) in zip(ids, places, strict=False)}) for t in range(frames)
            ]
            write_sequence(base, name, masks, seed=17 * n)
        (base / "ImageSets" / year).mkdir(parents=True, exist_ok=True)
        (base / "ImageSets" / year / f"{split}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    return base


def write_static(base: Path, count: int = 5, foreground: int = 255) -> Path:
    for i in range(count):
        save(base / "images" / f"{i}.jpg", picture(i))
        save(base / "masks" / f"{i}.png", block({foreground: (4 + i % 3, 6 + i)}))
    return base


def write_coco(base: Path) -> None:
    save(base / "images/7.jpg", picture(0, (40, 50)))
    square = {"id": 1, "image_id": 7, "category_id": 1, "iscrowd": 0, "area": 200, "bbox": [5, 10, 20, 10]}
    crowd = {"counts": [0, 2000], "size": [40, 50]}
    annotations = [
        square | {"segmentation": [[5, 10, 25, 10, 25, 20, 5, 20]]},
        square | {"id": 2, "area": 15, "segmentation": [[0, 0, 5, 0, 5, 3, 0, 3]]},
        square | {"id": 3, "iscrowd": 1, "area": 2000, "segmentation": crowd},
        square
        | {"id": 4, "area": 500, "segmentation": [[0, 0, 10, 0, 10, 10, 0, 10], [20, 20, 40, 20, 40, 40, 20, 40]]},
    ]
    index = {
        "images": [{"id": 7, "file_name": "7.jpg", "height": 40, "width": 50}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "thing"}],
    }
    (base / "instances.json").write_text(json.dumps(index), encoding="utf-8")


def write_boxes(base: Path, pictures: dict[int, list[tuple[int, int, int, int]]], size: tuple[int, int]) -> ImageSet:
    """A COCO set: picture id -> boxes (top, left, bottom, right); annotation ids run backwards over the pictures."""
    annotations: list[dict[str, Any]] = []
    for id_ in sorted(pictures, reverse=True):
        save(base / f"images/{id_}.png", picture(id_, size))
        for top, left, bottom, right in pictures[id_]:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": id_,
                    "category_id": 1,
                    "iscrowd": 0,
                    "area": (bottom - top) * (right - left),
                    "bbox": [left, top, right - left, bottom - top],
                    "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
                }
            )
    index = {
        "images": [{"id": id_, "file_name": f"{id_}.png", "height": size[0], "width": size[1]} for id_ in pictures],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "thing"}],
    }
    (base / "instances.json").write_text(json.dumps(index), encoding="utf-8")
    return ImageSet(base.name, annotations="instances.json", min_area=0)
