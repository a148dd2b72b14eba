"""Reading pictures and masks.

Orientation tags (EXIF) are ignored unless ``upright`` is asked for: the masks of data sets are drawn on the stored
pixels, those of a user on what a viewer shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from datamodules.patient_file import open_patiently
from lightning_vos.passing import PassingFault, passes

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image file while it is read; what goes wrong meanwhile is named with the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or not an image.
        PassingFault: it could not be read, at several tries, for a reason that may pass.
    """
    try:
        with open_patiently(path) as file, Image.open(file) as image:
            yield image
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file; restore it or correct the list that names it") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # broken PNGs are SyntaxErrors to Pillow
        if passes(error):
            raise error if isinstance(error, PassingFault) else PassingFault(f"{path}: {error}") from error
        raise ValueError(f"{path}: not a readable image ({error}); replace the file") from error


def image_size(path: Path, upright: bool = False) -> tuple[int, int]:
    """``(H, W)`` of an image file, from its header alone; ``upright`` as for :func:`read_image`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not an image.
    """
    with opened(path) as image:
        turned = upright and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return (image.width, image.height) if turned else (image.height, image.width)


def read_image(path: Path, short_side: int | None = None, upright: bool = False) -> np.ndarray:
    """Read a picture.

    Args:
        path: file in any format that Pillow reads; grey, palette and CMYK pictures are converted, 16 bits become 8.
        short_side: shrink so that the shorter side has at most this many pixels. Smaller pictures stay as they are.
        upright: turn it as its orientation tag (EXIF) says.

    Returns:
        ``(H, W, 3)`` uint8 RGB.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or not an image.
    """
    with opened(path) as image:
        width, height = shrunk(image.size, short_side)
        # JPEGs far larger than needed are decoded at 1/2, 1/4 or 1/8, never below twice the wanted size.
        if (width, height) != image.size:
            image.draft("RGB", (2 * width, 2 * height))
        picture = _in_8_bits(image).convert("RGB")
        if (width, height) != picture.size:
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        return np.array(ImageOps.exif_transpose(picture) if upright else picture)


def shrunk(size: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """Both sides in proportion, the shorter one at most ``short_side`` (``None``: as they are), none below 1."""
    scale = min(1.0, short_side / min(size)) if short_side else 1.0
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _in_8_bits(image: Image.Image) -> Image.Image:
    if not image.mode.startswith("I"):
        return image
    grey = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))  # Pillow would clip at 255
    grey.info = image.info
    return grey


def read_labels(path: Path) -> np.ndarray:
    """Read a mask: palette indices of a palette PNG, values of a grey one.

    Returns:
        ``(H, W)`` uint8, exactly as stored.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, has more than 8 bits, or shows colours instead of labels.
    """
    with opened(path) as image:
        if image.mode in ("P", "L", "1"):
            return np.array(image, dtype=np.uint8)
        if image.mode in ("RGB", "RGBA"):  # some DAVIS masks are grey pictures stored with three equal channels
            red, green, blue = np.moveaxis(np.asarray(image)[..., :3], -1, 0)
            if (red == green).all() and (red == blue).all():
                return red.copy()
        raise ValueError(f"{path}: a mask of mode {image.mode}; labels must be an 8-bit grey or palette PNG")


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest neighbour, pixel centres aligned: ``(H, W)`` -> ``size``."""
    if labels.shape == size:
        return labels
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64) for new, old in zip(size, labels.shape, strict=True)
    )
    return labels[rows[:, None], columns]
