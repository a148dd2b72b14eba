"""Sets of still images: folders of pictures and masks, or COCO instances."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as native

from datamodules.coco import Id, Instance, in_order, read_instances
from datamodules.images import IMAGE_SUFFIXES, image_size, read_image, read_labels, resize_labels
from datamodules.listing import FOREIGN, walk
from datamodules.run_lengths import decoded, size_of
from lightning_vos.types import VOID

MASK_SUFFIXES = (".png",)


class Still(NamedTuple):
    """One sample of a still-image set.

    Attributes:
        image: picture.
        mask: mask file, or a COCO run-length code ``{"size": [H, W], "counts": ...}``; or a list of such codes, at most
            254 and the largest first: number k (from 1) is object k.
    """

    image: Path
    mask: Path | dict[str, Any] | list[dict[str, Any]]

    def read(self, short_side: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Read picture and mask.

        A mask file whose largest value is above 127 is taken for 0/255: foreground is what is above 127, so that soft
        edges and JPEG-like noise do not count. In any other mask everything above 0 is foreground. Where listed objects
        overlap, the later and thus smaller one is seen; a label is missing where an object is covered altogether.

        Args:
            short_side: as for :func:`read_image`.

        Returns:
            ``(H, W, 3)`` uint8 RGB and ``(H, W)`` uint8 mask, 0 or 1; of a list of n objects labels 0 to n.

        Raises:
            FileNotFoundError: a file is gone.
            ValueError: a file is damaged, the sizes differ, or the mask is empty.
        """
        self.check()
        if isinstance(self.mask, Path):
            values = read_labels(self.mask)
            mask = (values > (127 if values.max(initial=0) > 127 else 0)).astype(np.uint8)
        else:
            codes = [self.mask] if isinstance(self.mask, dict) else self.mask
            size = size_of(codes[0], str(self.image))  # compared with the picture's
            mask = np.zeros(size, dtype=np.uint8)
            for label, code in enumerate(codes, 1):
                mask[decoded(code, size, str(self.image))] = label
        if not mask.any():
            raise ValueError(
                f"{self.mask if isinstance(self.mask, Path) else self.image}: the mask is empty; remove it"
            )
        frame = read_image(self.image, short_side)
        return frame, resize_labels(mask, frame.shape[:2])

    def check(self) -> None:
        """Compare the sizes of picture and mask, headers only.

        Raises:
            ValueError: they differ, or a file is not an image.
        """
        size = image_size(self.image)
        masks: list[Path | dict[str, Any]] = [*self.mask] if isinstance(self.mask, list) else [self.mask]
        for mask in masks:
            other = image_size(mask) if isinstance(mask, Path) else size_of(mask, str(self.image))
            if size != other:
                name = mask if isinstance(mask, Path) else "its annotation"
                raise ValueError(
                    f"{self.image} is {size[0]}x{size[1]} but {name} is {other[0]}x{other[1]} (height x width); "
                    "make them equal"
                )


@dataclass
class ImageSet:
    """Still images for training.

    Either two folders, where picture and mask carry the same name (``images/a.jpg``, ``masks/a.png``; sub-folders are
    searched, and both folders may be the same one, as in DUTS and FSS-1000), or COCO instances: every annotated
    instance is a sample of its own, or every picture with all its instances (:meth:`stills`).

    Args:
        root: folder of the set, relative to the data module's ``root``.
        images: folder of the pictures (jpg, jpeg, png, bmp) below ``root``.
        masks: folder of the masks (png) below ``root``. What counts as foreground: :meth:`Still.read`.
        annotations: COCO annotation file below ``root``; ``masks`` is then not used. Crowds are skipped, see
            :func:`~datamodules.coco.read_instances`.
        repeat: how often the set is seen in one pass over the data.
        min_area: COCO instances smaller than this fraction of their picture are skipped.
    """

    root: str
    images: str = "images"
    masks: str = "masks"
    annotations: str | None = None
    repeat: int = 1
    min_area: float = 0.01

    def __post_init__(self) -> None:
        """Refuse a set that is never seen."""
        if self.repeat < 1:
            raise ValueError(
                f"images {self.root!r}: repeat={self.repeat} must be at least 1; leave the set out instead"
            )

    def stills(self, root: Path, all_objects: bool = False) -> list[Still]:
        """The samples, each once, in the order of their names (COCO: of their ids).

        Args:
            root: the data module's root.
            all_objects: COCO only: a sample is a picture with all its instances (the 254 largest), not one instance.

        Raises:
            FileNotFoundError: a folder or the annotation file is missing.
            ValueError: pictures without mask or masks without picture, or no sample at all.
        """
        base = root / self.root
        images = _directory(base / self.images)
        if self.annotations is None:
            stills = self._folders(images, _directory(base / self.masks))
        else:
            stills = self._coco(images, base / self.annotations, all_objects)
        if not stills:
            raise ValueError(f"{base}: no sample in this image set; check its images, masks and min_area")
        return stills

    def _folders(self, images: Path, masks: Path) -> list[Still]:
        same = images.resolve() == masks.resolve()
        pictures = _by_stem(images, tuple(s for s in IMAGE_SUFFIXES if not (same and s in MASK_SUFFIXES)))
        labels = _by_stem(masks, MASK_SUFFIXES)
        if lone := sorted(pictures.keys() - labels.keys()):
            raise ValueError(
                f"{images}: {len(lone)} of {len(pictures)} pictures have no mask in {masks} (first: {lone[0]}); "
                "add the masks or remove the pictures"
            )
        if lone := sorted(labels.keys() - pictures.keys()):
            raise ValueError(
                f"{masks}: {len(lone)} of {len(labels)} masks have no picture in {images} (first: {lone[0]}); "
                "add the pictures or remove the masks"
            )
        return [Still(pictures[stem], labels[stem]) for stem in sorted(pictures)]

    def _coco(self, images: Path, path: Path, all_objects: bool) -> list[Still]:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such annotation file; correct annotations={self.annotations!r}")
        instances = read_instances(path, images, self.min_area)
        if not all_objects:
            return [Still(instance.image, instance.code) for instance in instances]
        together: dict[Id, list[Instance]] = defaultdict(list)
        for instance in instances:
            together[instance.picture].append(instance)
        # The largest first: what is painted later stays visible. Labels end below VOID.
        return [
            Still(own[0].image, sorted((i.code for i in own), key=native.area, reverse=True)[: VOID - 1])
            for _, own in sorted(together.items(), key=lambda pair: in_order(pair[0]))
        ]


def _directory(path: Path) -> Path:
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path}: no such folder; set --data.root, correct the set's root, or train on videos alone "
            "(VideoDataModule)"
        )
    return path


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in walk(folder):
        if path.suffix.lower() in FOREIGN:
            raise ValueError(f"{path}: a {path.suffix} picture is not read; save it as png, or move it elsewhere")
        if path.suffix.lower() in suffixes:
            stem = path.relative_to(folder).with_suffix("").as_posix()
            if stem in found:
                raise ValueError(f"{path}: {found[stem].name} has the same name; keep one of the two")
            found[stem] = path
    return found
