"""Pictures on disk, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from lightning_vos.atomic import unfinished


def save_picture(path: Path, image: Image.Image, **options: Any) -> None:
    """Write a picture in one stroke, see :func:`~lightning_vos.atomic.unfinished`.

    Args:
        path: the file; its suffix, ``.png`` or ``.webp``, names the format.
        image: the picture.
        **options: of Pillow for that format.
    """
    with unfinished(path) as beside:
        image.save(beside, format=path.suffix[1:], **options)
