"""Reading pictures and masks.

Orientation tags (EXIF) are ignored unless ``upright`` is asked for: the masks of data sets are drawn on the stored
pixels, those of a user on what a viewer shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile

from datamodules.patient_file import open_patiently
from lightning_vos.passing import PassingFault, passes

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
# Whatever a file is called, Pillow tries no other format: some of them start programs.
FORMATS = ("JPEG", "PNG", "BMP")
MASK_FORMATS = ("PNG", "BMP")  # which keep ids
MOST_PIXELS = 2**26  # twice what 8K video has; a small file may claim to be far larger

_TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@contextmanager
def opened(path: Path, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """An image file, of which the header was read; :func:`load` reads the rest.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        PassingFault: it could not be read, at several tries, for a reason that may pass.
        ValueError: the file is damaged, too large, or not an image of one of the formats.
    """
    with ExitStack() as stack:
        with _named(path):
            file = stack.enter_context(open_patiently(path))
            image = stack.enter_context(Image.open(file, formats=formats))
        if image.width * image.height > MOST_PIXELS:
            size = f"{image.height}x{image.width}"
            raise ValueError(f"{path}: {size}, and at most {MOST_PIXELS} pixels are read; shrink the picture")
        yield image


def load(image: Image.Image, path: Path) -> None:
    """Decode the pixels.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged.
    """
    with _named(path):
        image.load()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Whatever Pillow fails with names the file: a damaged one makes it fail in any way."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file; restore it or correct the list that names it") from error
    except Exception as error:
        if passes(error):
            raise error if isinstance(error, PassingFault) else PassingFault(f"{path}: {error}") from error
        if isinstance(error, OSError) and error.errno is not None:  # of the system, not of the file's content
            error.filename = error.filename or str(path)
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # says where the object lies in memory
            reason = f"none of {', '.join(FORMATS)}" if path.stat().st_size else "no bytes in it"
        raise ValueError(f"{path}: not a readable image ({reason}); replace the file") from error


def image_size(path: Path, upright: bool = False) -> tuple[int, int]:
    """``(H, W)`` of an image file, from its header alone; ``upright`` as for :func:`read_image`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not an image.
    """
    with opened(path) as image:
        turned = upright and orientation(image, path) >= 5
        return (image.width, image.height) if turned else (image.height, image.width)


def orientation(image: Image.Image, path: Path) -> int:
    """What the file's orientation tag says, 1 to 8; 1 if there is none that makes sense."""
    with _named(path):
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    return value if value in _TURNS else 1


def read_image(path: Path, short_side: int | None = None, upright: bool = False) -> np.ndarray:
    """Read a picture.

    Args:
        path: jpg, png or bmp file; grey, palette and CMYK pictures are converted, 16 bits become 8.
        short_side: shrink so that the shorter side has at most this many pixels. Smaller pictures stay as they are.
        upright: turn it as its orientation tag (EXIF) says.

    Returns:
        ``(H, W, 3)`` uint8 RGB.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        ValueError: the file is damaged or not an image, or has fewer bits than it says.
    """
    with opened(path) as image:
        width, height = shrunk(image.size, short_side)
        # JPEGs far larger than needed are decoded at 1/2, 1/4 or 1/8, never below twice the wanted size.
        if (width, height) != image.size:
            image.draft("RGB", (2 * width, 2 * height))
        picture = _in_8_bits(image, path).convert("RGB")
        turn = _TURNS[orientation(image, path)] if upright else None
        if (width, height) != picture.size:
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        return np.array(picture if turn is None else picture.transpose(turn))


def shrunk(size: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """Both sides in proportion, the shorter one at most ``short_side`` (``None``: as they are), none below 1."""
    scale = min(1.0, short_side / min(size)) if short_side else 1.0
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _in_8_bits(image: Image.Image, path: Path) -> Image.Image:
    """The decoded picture; of 16 bits the upper 8.

    Raises:
        ValueError: it has 16 bits but uses the lower 12 at most, as some cameras write: it would become nearly black.
    """
    deep = has_16_bits(image)
    load(image, path)
    if not deep:
        return image
    if image.mode.startswith("I"):  # grey, which Pillow would clip at 255
        values = np.asarray(image)
        most, image = int(values.max()), Image.fromarray((values >> 8).astype(np.uint8))
    else:  # colours, of which Pillow keeps the upper 8 bits
        colours = image.getextrema()[: 1 if image.mode == "LA" else 3]
        most = 256 * max(high for _, high in colours) + 255  # type: ignore[misc]
        most = 0 if most == 255 else most
    if 0 < most < 2**12:
        raise ValueError(
            f"{path}: 16 bits with no value above {most}, so of 12 bits or nearly black; save it with 8 bits, or "
            "scaled to 65535"
        )
    return image


def has_16_bits(image: Image.Image) -> bool:
    """Whether a picture that is not yet decoded has 16 bits a channel, of which Pillow often keeps 8."""
    return isinstance(image, PngImageFile) and any("16" in str(tile.args) for tile in image.tile)


def check_depth(image: Image.Image, path: Path) -> None:
    """Refuse a mask, not yet decoded, of 2 or 4 bits of grey: Pillow makes other values of those in the file.

    Raises:
        ValueError: it is one.
    """
    bits = {"L;2": 2, "L;4": 4}.get(str(image.tile[0].args)) if isinstance(image, PngImageFile) and image.tile else None
    if bits is not None:
        raise ValueError(
            f"{path}: grey with {bits} bits a pixel: ids up to {2**bits - 1}, or shades up to 255? Save the mask with "
            "8 bits, or as a palette PNG"
        )


def read_labels(path: Path) -> np.ndarray:
    """Read a mask: palette indices of a palette PNG, values of a grey one.

    Returns:
        ``(H, W)`` uint8, exactly as stored.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        ValueError: the file is damaged, has more than 8 bits or too few, or shows colours instead of labels.
    """
    with opened(path, MASK_FORMATS) as image:
        check_depth(image, path)
        deep = has_16_bits(image)
        load(image, path)
        if image.mode in ("P", "L", "1"):
            if not has_ids(image):
                raise ValueError(
                    f"{path}: a palette PNG whose background is not index 0, so its indices are not labels; save it "
                    "with the background at index 0"
                )
            return np.array(image, dtype=np.uint8)
        if (
            image.mode in ("RGB", "RGBA") and not deep
        ):  # some DAVIS masks are grey pictures stored with three equal channels
            red, green, blue, *alpha = np.moveaxis(np.asarray(image), -1, 0)
            if (red == green).all() and (red == blue).all():
                if any(len(np.unique(opaque)) > 1 and ((opaque > 127) != (red > 0)).any() for opaque in alpha):
                    raise ValueError(
                        f"{path}: what is transparent and what is black differ, so its labels are unclear; save the "
                        "mask as a palette or grey PNG"
                    )
                return red.copy()
        bits = " with 16 bits" if deep else ""
        raise ValueError(f"{path}: a mask of mode {image.mode}{bits}; labels must be an 8-bit grey or palette PNG")


def has_ids(image: Image.Image) -> bool:
    """Whether the indices of a palette picture can be ids; so they are in pictures without a palette.

    Programs that reduce colours put these in any order. Then black, or what is transparent, has another index than 0.
    """
    palette = image.getpalette("RGBA") if image.mode == "P" else None
    if not palette:
        return True
    colours = np.array(palette).reshape(-1, 4)
    is_background = (colours[:, :3] == 0).all(axis=1) | (colours[:, 3] < 128)
    if is_background[0]:
        return True
    used = [index for index, count in enumerate(image.histogram()[: len(colours)]) if count]
    return not is_background[used].any()


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest neighbour, pixel centres aligned: ``(H, W)`` -> ``size``."""
    if labels.shape == size:
        return labels
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64) for new, old in zip(size, labels.shape, strict=True)
    )
    return labels[rows[:, None], columns]
