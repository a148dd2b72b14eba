"""Reading pictures and masks of every kind, and naming those that are broken."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from data_files import SIZE, block, picture, save
from PIL import Image

from datamodules.annotations import read_annotation
from datamodules.images import image_size, read_image, read_labels, resize_labels


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "RGBA"])
def test_pictures_of_every_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.fromarray(picture(0)).convert(mode).save(path)
    image = read_image(path)
    assert image.shape == (*SIZE, 3)
    assert image.dtype == np.uint8
    if mode == "RGB":
        assert np.array_equal(image, picture(0))
    if mode == "L":
        assert (image[..., 0] == image[..., 2]).all()


def test_orientation_tags_are_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.fromarray(picture(0)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape[:2] == image_size(tmp_path / "a.jpg") == SIZE


@pytest.mark.parametrize(("limit", "expected"), [(None, (240, 400)), (300, (240, 400)), (60, (60, 100)), (7, (7, 12))])
def test_shrunk_pictures_keep_their_shape(tmp_path: Path, limit: int | None, expected: tuple[int, int]) -> None:
    big = np.asarray(Image.fromarray(picture(3)).resize((400, 240), Image.Resampling.BICUBIC))
    save(tmp_path / "a.jpg", big)
    small = read_image(tmp_path / "a.jpg", limit)
    assert small.shape[:2] == expected
    reference = Image.fromarray(big).resize(expected[::-1], Image.Resampling.BOX)
    assert np.abs(small.astype(int) - np.asarray(reference).astype(int)).mean() < 5


def test_labels_are_read_as_stored(tmp_path: Path) -> None:
    labels = block({1: (0, 0), 2: (9, 9), 255: (12, 22)})
    assert np.array_equal(read_labels(save(tmp_path / "p.png", labels, palette=True)), labels)
    assert np.array_equal(read_labels(save(tmp_path / "l.png", labels)), labels)
    assert np.array_equal(read_labels(save(tmp_path / "grey.png", np.stack([labels] * 3, -1))), labels)
    assert np.array_equal(read_labels(save(tmp_path / "bit.png", labels > 0)), labels > 0)


def test_coloured_and_deep_masks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.png: a mask of mode RGB; labels must be an 8-bit grey or palette PNG"):
        read_labels(save(tmp_path / "a.png", picture(0)))
    with pytest.raises(ValueError, match=r"b\.png: a mask of mode I;16"):
        read_labels(save(tmp_path / "b.png", np.ones(SIZE, dtype=np.uint16)))


def grey(path: Path, bits: int) -> Path:
    """A grey PNG with few bits a pixel, which Pillow reads but does not write: ids 0 and 1."""
    head, row = struct.pack(">IIBBBBB", 8 // bits, 1, bits, 0, 0, 0, 0), bytes([0, 1])
    parts = {b"IHDR": head, b"IDAT": zlib.compress(row), b"IEND": b""}
    chunks = [struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in parts.items()]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


@pytest.mark.parametrize("bits", [2, 4])
def test_few_bits_of_grey_are_refused_where_ids_are_wanted(bits: int, tmp_path: Path) -> None:
    path = grey(tmp_path / "a.png", bits)
    with pytest.raises(ValueError, match=rf"a\.png: grey with {bits} bits a pixel: ids up to {2**bits - 1}, or shades"):
        read_labels(path)
    with pytest.raises(ValueError, match=rf"a\.png: grey with {bits} bits a pixel"):
        read_annotation(path, path, (1, 8 // bits))
    assert read_image(path).max() == 255 // (2**bits - 1)
    assert read_labels(grey(tmp_path / "b.png", 8)).tolist() == [[1]]
    assert read_labels(grey(tmp_path / "c.png", 1)).tolist() == [[0, 0, 0, 0, 0, 0, 0, 1]]


def test_labels_beside_transparency(tmp_path: Path) -> None:
    labels = block({1: (0, 0), 2: (9, 9)})
    for alpha in (np.full_like(labels, 255), np.where(labels > 0, 255, 0).astype(np.uint8)):
        assert np.array_equal(read_labels(save(tmp_path / "a.png", np.stack([*[labels] * 3, alpha], -1))), labels)
    shape = np.where(labels > 0, 255, 0).astype(np.uint8)
    for shade in (np.zeros_like(labels), np.full_like(labels, 255)):  # the object is in the transparency alone
        path = save(tmp_path / "a.png", np.stack([*[shade] * 3, shape], -1))
        with pytest.raises(ValueError, match=r"a\.png: what is transparent and what is black differ"):
            read_labels(path)


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", picture(0, (200, 300)))
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"a\.jpg: not a readable image .*; replace the file"):
        read_image(path)
    (tmp_path / "b.png").write_text("no image", encoding="utf-8")
    with pytest.raises(ValueError, match=r"b\.png: not a readable image \(none of JPEG, PNG, BMP\)"):
        read_labels(tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"b\.png: not a readable image \(no bytes in it\)"):
        read_image(tmp_path / "b.png")
    with pytest.raises(FileNotFoundError, match=r"c\.jpg: no such file"):
        read_image(tmp_path / "c.jpg")


def test_nearest_labels_use_pixel_centres() -> None:
    labels = np.arange(12, dtype=np.uint8).reshape(2, 6)
    assert resize_labels(labels, (1, 2)).tolist() == [[7, 10]]
    assert resize_labels(labels, (4, 6))[::2].tolist() == labels.tolist()
    assert resize_labels(labels, (2, 6)) is labels
