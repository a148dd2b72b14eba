"""Pictures on disk, whole or not at all."""

from __future__ import annotations

import io
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
    buffer = io.BytesIO()  # what Pillow writes to a full disk fails with no reason
    image.save(buffer, format=path.suffix[1:], **options)
    with unfinished(path) as beside:
        beside.write_bytes(buffer.getbuffer())
