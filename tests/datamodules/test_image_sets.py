"""Sets of still images: folders and COCO, one object a sample or all of a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_files import EMPTY, SIZE, Unchanged, block, picture, save, write_boxes, write_coco, write_static
from pycocotools import mask as run_length

from datamodules import ImageSet, StaticDataModule
from datamodules.image_sets import Still
from datamodules.images import read_labels
from datamodules.pictures import Pictures
from datamodules.samplers import ClipKey


@pytest.mark.parametrize("foreground", [1, 38, 255])
def test_foreground_of_folders(tmp_path: Path, foreground: int) -> None:
    write_static(tmp_path / "s", foreground=foreground)
    if foreground == 255:  # soft edges do not count
        soft = read_labels(tmp_path / "s/masks/0.png")
        soft[0, 0], soft[0, 1] = 127, 128
        save(tmp_path / "s/masks/0.png", soft)
    stills = ImageSet("s").stills(tmp_path)
    assert [still.image.stem for still in stills] == ["0", "1", "2", "3", "4"]
    _, mask = stills[0].read()
    assert mask.sum() == 64 + (foreground == 255)
    assert set(np.unique(mask)) == {0, 1}


def test_pictures_and_masks_in_one_tree(tmp_path: Path) -> None:
    for name in ("cup/1", "cup/2", "dog/1"):
        save(tmp_path / f"FSS/{name}.jpg", picture(0))
        save(tmp_path / f"FSS/{name}.png", block({255: (3, 3)}))
    stills = ImageSet("FSS", images=".", masks=".").stills(tmp_path)
    assert [still.mask.relative_to(tmp_path).as_posix() for still in stills] == [
        "FSS/cup/1.png",
        "FSS/cup/2.png",
        "FSS/dog/1.png",
    ]


def test_coco_instances(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_coco(tmp_path / "coco")
    stills = ImageSet("coco", annotations="instances.json").stills(tmp_path)
    assert capsys.readouterr().out == ""
    assert len(stills) == 2  # neither the crowd nor the one of 15 of 2000 pixels
    expected = np.zeros((40, 50), dtype=np.uint8)
    expected[10:20, 5:25] = 1
    frame, mask = stills[0].read()
    assert np.array_equal(mask, expected)
    assert frame.shape == (40, 50, 3)
    assert stills[1].read()[1].sum() == 500  # both polygons of one instance
    assert len(ImageSet("coco", annotations="instances.json", min_area=0).stills(tmp_path)) == 3


def test_errors_of_image_sets(tmp_path: Path) -> None:
    base = write_static(tmp_path / "s")
    (base / "masks/3.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 5 pictures have no mask in .*masks \(first: 3\)"):
        ImageSet("s").stills(tmp_path)
    (base / "images/3.jpg").unlink()
    (base / "images/4.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 of 4 masks have no picture"):
        ImageSet("s").stills(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere/images: no such folder; set --data\.root"):
        ImageSet("nowhere").stills(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"x\.json: no such annotation file"):
        ImageSet("s", annotations="x.json").stills(tmp_path)
    (tmp_path / "empty/images").mkdir(parents=True)
    (tmp_path / "empty/masks").mkdir()
    with pytest.raises(ValueError, match=r"empty: no sample in this image set"):
        ImageSet("empty").stills(tmp_path)
    save(base / "images/0.png", picture(0))
    with pytest.raises(ValueError, match=r"has the same name; keep one of the two"):
        ImageSet("s").stills(tmp_path)
    with pytest.raises(ValueError, match=r"repeat=0 must be at least 1"):
        ImageSet("s", repeat=0)


def test_still_of_another_size_or_without_object(tmp_path: Path) -> None:
    write_static(tmp_path / "s")
    save(tmp_path / "s/masks/2.png", np.zeros((24, 30), dtype=np.uint8))
    save(tmp_path / "s/masks/1.png", np.zeros(SIZE, dtype=np.uint8))
    data = StaticDataModule(str(tmp_path), images=[ImageSet("s")])
    with pytest.raises(ValueError, match=r"2\.jpg is 24x36 but .*2\.png is 24x30 \(height x width\); make them equal"):
        data.setup("fit")
    with pytest.raises(ValueError, match=r"1\.png: the mask is empty; remove it"):
        ImageSet("s").stills(tmp_path)[1].read()


# --- pictures with all their objects ----------------------------------------------------------------------------------


def test_a_coco_picture_with_all_its_instances(tmp_path: Path) -> None:
    write_coco(tmp_path / "coco")
    images = ImageSet("coco", annotations="instances.json")
    apart = images.stills(tmp_path)
    (together,) = images.stills(tmp_path, all_objects=True)  # neither the crowd nor the one of 15 of 2000 pixels
    assert [type(still.mask) for still in apart] == [dict, dict]
    small, large = (still.read()[1] for still in apart)
    frame, labels = together.read()
    assert np.array_equal(frame, apart[0].read()[0])
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, np.where(small, 2, large))  # 1 is the larger one
    assert len(ImageSet("coco", annotations="instances.json", min_area=0).stills(tmp_path, True)[0].mask) == 3


def test_pictures_come_in_the_order_of_their_ids(tmp_path: Path) -> None:
    images = write_boxes(tmp_path / "coco", {3: [(0, 0, 9, 9)], 1: [(2, 3, 8, 9), (9, 9, 20, 20)], 2: []}, SIZE)
    assert [(still.image.name, len(still.mask)) for still in images.stills(tmp_path, True)] == [
        ("1.png", 2),
        ("3.png", 1),
    ]
    assert [still.image.name for still in images.stills(tmp_path)] == ["3.png", "1.png", "1.png"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_smaller_instances_are_never_hidden(tmp_path: Path, order: tuple[int, ...]) -> None:
    boxes = [(0, 0, 20, 30), (4, 4, 16, 20), (6, 6, 9, 9)]  # each inside the one before it
    images = write_boxes(tmp_path / "coco", {1: [boxes[i] for i in order]}, SIZE)
    _, labels = images.stills(tmp_path, True)[0].read()
    expected = EMPTY.copy()
    for label, (top, left, bottom, right) in enumerate(boxes, 1):
        expected[top:bottom, left:right] = label
    assert np.array_equal(labels, expected)


def test_an_instance_that_others_cover_leaves_a_gap(tmp_path: Path) -> None:
    boxes = [(4, 2, 12, 18), (4, 0, 12, 10), (4, 10, 12, 20)]  # the first is the largest, under the two halves
    images = write_boxes(tmp_path / "coco", {1: boxes}, SIZE)
    _, labels = images.stills(tmp_path, True)[0].read()
    assert np.unique(labels).tolist() == [0, 2, 3]
    clip = Pictures(images.stills(tmp_path, True), [], 20, Unchanged(24))[ClipKey(0, 1, 0)]
    assert np.array_equal(clip.masks[0], np.maximum(labels, 1) - 1)  # clips number what is seen


def test_at_most_254_instances_and_the_largest_of_them(tmp_path: Path) -> None:
    size = (64, 80)
    # Rows of 20 cells; the first 60 boxes are of one pixel, the other 240 of four.
    corners = [(4 * (i // 20), 4 * (i % 20), 1 if i < 60 else 2) for i in range(300)]
    boxes = [(top, left, top + side, left + side) for top, left, side in corners]
    images = write_boxes(tmp_path / "coco", {1: boxes}, size)
    _, labels = images.stills(tmp_path, True)[0].read()
    areas = np.bincount(labels.ravel(), minlength=256)[1:]
    assert (areas[:240] == 4).all()
    assert (areas[240:254] == 1).all()
    assert areas[254] == 0  # 255 would be void
    assert len(images.stills(tmp_path)) == 300


def test_folders_have_one_object_either_way(tmp_path: Path) -> None:
    write_static(tmp_path / "s")
    assert ImageSet("s").stills(tmp_path, all_objects=True) == ImageSet("s").stills(tmp_path)


def test_every_instance_must_have_the_size_of_the_picture(tmp_path: Path) -> None:
    save(tmp_path / "a.png", picture(0))
    codes = [run_length.encode(np.asfortranarray(np.ones(size, dtype=np.uint8))) for size in (SIZE, (24, 30))]
    still = Still(tmp_path / "a.png", codes)
    for call in (still.check, still.read):
        with pytest.raises(ValueError, match=r"a\.png is 24x36 but its annotation is 24x30 \(height x width\)"):
            call()
    Still(tmp_path / "a.png", codes[:1]).check()
    empty = run_length.encode(np.asfortranarray(EMPTY))
    with pytest.raises(ValueError, match=r"a\.png: the mask is empty; remove it"):
        Still(tmp_path / "a.png", [empty, empty]).read()
