"""Instances of a COCO annotation file, as strangers write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.utilities import rank_zero_warn
from pycocotools import mask as native

from datamodules.foreign_json import array, identifier, number, read_json, shown, table
from datamodules.images import image_size
from datamodules.run_lengths import Size, encoded, is_missing, sides
from lightning_vos.names import below

Id = int | str


class Instance(NamedTuple):
    """One annotated object.

    Attributes:
        picture: id of its picture.
        image: the picture.
        code: compressed run-length code of its mask, which is not empty.
    """

    picture: Id
    image: Path
    code: dict[str, Any]


def read_instances(path: Path, images: Path, min_area: float) -> list[Instance]:
    """All instances but crowds, in the order of their ids.

    ``iscrowd``, ``area``, the ids of annotations and the sizes of pictures may be left out. Annotations without a mask,
    or with one that covers no pixel, are passed over, with a warning that counts them.

    Args:
        path: the annotation file.
        images: folder of the pictures.
        min_area: instances smaller than this fraction of their picture are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or one of its entries.
    """
    content = table(read_json(path), str(path))
    entries: dict[Id, dict[str, Any]] = {}
    for place, entry in enumerate(array(content.get("images"), f"{path}, images"), 1):
        where = f"{path}, image number {place}"
        id_ = identifier(table(entry, where).get("id"), f"{where}, id")
        if id_ in entries:
            raise ValueError(f"{where}: the id {shown(id_)} is that of another image; give each its own")
        entries[id_] = entry
    annotations = array(content.get("annotations"), f"{path}, annotations")
    pictures: dict[Id, tuple[Path, Size]] = {}
    found: list[tuple[Id, Instance]] = []
    without: list[Id] = []
    for place, entry in enumerate(annotations, 1):
        where = f"{path}, annotation number {place}"
        id_ = identifier(table(entry, where).get("id", place), f"{where}, id")
        where = f"{path}, annotation {shown(id_)}"
        if _is_crowd(entry, where):
            continue
        owner = identifier(entry.get("image_id"), f"{where}, image_id")
        if owner not in entries:
            raise ValueError(f"{where}: there is no image {shown(owner)}; correct image_id or add the image")
        if is_missing(entry.get("segmentation")):
            without.append(id_)
            continue
        if owner not in pictures:
            pictures[owner] = _picture(images, entries[owner], f"{path}, image {shown(owner)}")
        image, size = pictures[owner]
        least = min_area * size[0] * size[1]
        area = entry.get("area")
        if area is not None and number(area, f"{where}, area") < least:
            continue
        code = encoded(entry["segmentation"], size, where)
        covered = int(native.area(code))
        if not covered:
            without.append(id_)
        elif area is not None or covered >= least:
            found.append((id_, Instance(owner, image, code)))
    if without:
        rank_zero_warn(
            f"{path}: {len(without)} of {len(annotations)} annotations have no mask (first: {shown(without[0])}); "
            "they are left out"
        )
    return [instance for _, instance in sorted(found, key=lambda pair: in_order(pair[0]))]


def in_order(id_: Id) -> tuple[bool, Id]:
    """Sorting key: numbers before text."""
    return isinstance(id_, str), id_


def _is_crowd(annotation: dict[str, Any], where: str) -> bool:
    value = annotation.get("iscrowd")
    if value not in (None, 0, 1):
        raise ValueError(f"{where}: iscrowd is {shown(value)}; it is 0 or 1")
    return bool(value)


def _picture(images: Path, entry: dict[str, Any], where: str) -> tuple[Path, Size]:
    """Where a picture is, and its size: as the file says, or else as the picture does."""
    path = below(images, entry.get("file_name"), where)
    if entry.get("height") is None or entry.get("width") is None:
        return path, image_size(path)
    return path, sides(entry["height"], entry["width"], where)
