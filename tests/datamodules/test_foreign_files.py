"""Files of strangers: each case gives the right masks, or one line that names the file and the entry."""

from __future__ import annotations

import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import small
from data_files import SIZE, block, picture, save, write_davis
from movie_files import moving_square, predict, write_frames, write_mask, written
from PIL import Image
from pycocotools import mask as native

from datamodules import DavisSet, ImageSet, YouTubeVOSSet
from datamodules.images import read_image, read_labels
from datamodules.prompts import read_prompts
from datamodules.run_lengths import decoded, encoded
from lightning_vos.video import why

HEIGHT, WIDTH = SIZE
SQUARE = [10, 5, 20, 5, 20, 15, 10, 15]
AREA = 100


def coco(folder: Path, annotations: Any = None, images: Any = None, **changes: Any) -> ImageSet:
    """A set with one good annotation, and ``changes`` of it, or other content."""
    save(folder / "set/images/a.png", picture(0))
    images = [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}] if images is None else images
    good = {"id": 5, "image_id": 1, "segmentation": [SQUARE]}
    changed = {k: v for k, v in {**good, **changes}.items() if v != "missing"}
    content = {"images": images, "annotations": [changed] if annotations is None else annotations}
    (folder / "set/a.json").write_text(json.dumps({k: v for k, v in content.items() if v != "missing"}))
    return ImageSet("set", annotations="a.json", min_area=0)


def test_optional_fields_are_optional(tmp_path: Path) -> None:
    (still,) = coco(tmp_path).stills(tmp_path)
    assert still.read()[1].sum() == AREA
    assert len(coco(tmp_path, images=[{"id": "x", "file_name": "a.png"}], image_id="x").stills(tmp_path)) == 1
    images = coco(tmp_path)
    images.min_area = (AREA - 1) / (HEIGHT * WIDTH)
    assert len(images.stills(tmp_path)) == 1
    images.min_area = (AREA + 1) / (HEIGHT * WIDTH)
    with pytest.raises(ValueError, match="no sample"):
        images.stills(tmp_path)


@pytest.mark.parametrize("nothing", ["missing", None, [], [[]], {}, [[50, 1, 60, 1, 60, 9]]])
def test_annotations_without_a_mask_are_counted(nothing: Any, tmp_path: Path) -> None:
    other = {"id": 9, "image_id": 1} | ({} if nothing == "missing" else {"segmentation": nothing})
    images = coco(tmp_path, [other, {"image_id": 1, "segmentation": [SQUARE]}])
    with pytest.warns(UserWarning, match=r"a\.json: 1 of 2 annotations have no mask \(first: 9\)"):
        assert len(images.stills(tmp_path)) == 1


RUNS = {"size": [HEIGHT, WIDTH], "counts": [0, 5, HEIGHT * WIDTH - 5]}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"annotations": "null"}, r"a\.json, annotations: 'null' where a list should be"),
        ({"annotations": {"1": {}}}, r"a\.json, annotations: .* where a list"),
        ({"annotations": [3]}, r"a\.json, annotation number 1: 3 where an object"),
        ({"images": {}}, r"a\.json, images: \{\} where a list"),
        ({"images": "missing"}, r"a\.json, images: None where a list"),
        (
            {"images": [{"id": 1, "file_name": "a.png"}] * 2},
            r"image number 2, id: the id 1 is that of another|number 2",
        ),
        ({"images": [{"id": 1, "file_name": "../../../x.jpg"}]}, r"a\.json, image 1: the path .* leads out of"),
        ({"images": [{"id": 1, "file_name": "/etc/x.jpg"}]}, r"image 1: the path '/etc/x\.jpg' leads out of"),
        ({"images": [{"id": 1, "file_name": "C:\\x.jpg"}]}, r"image 1: the path .* leads out of"),
        ({"images": [{"id": 1, "file_name": ["a.png"]}]}, r"image 1: the path \['a\.png'\] names no file"),
        ({"images": [{"id": 1, "file_name": "a\n.png"}]}, r"image 1: the path 'a\\n\.png' cannot be that of a file"),
        ({"images": [{"id": [1], "file_name": "a.png"}]}, r"image number 1, id: \[1\] where an id should be"),
        ({"images": [{"id": 1, "file_name": "a.png", "height": 2**31, "width": 9}]}, r"image 1, height: 2147483648"),
        ({"images": [{"id": 1, "file_name": "a.png", "height": 60000, "width": 60000}]}, r"image 1: a size of 60000"),
        ({"image_id": 3}, r"annotation 5: there is no image 3"),
        ({"image_id": "1"}, r"annotation 5: there is no image '1'"),
        ({"image_id": "missing"}, r"annotation 5, image_id: None where an id"),
        ({"id": 1.5}, r"annotation number 1, id: 1\.5 where an id"),
        ({"iscrowd": "yes"}, r"annotation 5: iscrowd is 'yes'"),
        ({"area": -1}, r"annotation 5, area: -1 where a number"),
        ({"area": float("nan")}, r"annotation 5, area: nan where a number"),
        ({"segmentation": "abc"}, r"annotation 5: not a COCO run-length code \('abc'\)"),
        ({"segmentation": SQUARE}, r"annotation 5: 10 is no polygon"),
        ({"segmentation": [SQUARE[:4]]}, r"annotation 5: a polygon of 4 numbers"),
        ({"segmentation": [SQUARE[:7]]}, r"annotation 5: a polygon of 7 numbers"),
        ({"segmentation": [["1"] * 6]}, r"annotation 5: .* is no polygon"),
        ({"segmentation": [[1e9, *SQUARE[1:]]]}, r"annotation 5: a polygon leaves its picture"),
        ({"segmentation": [[1e300, *SQUARE[1:]]]}, r"annotation 5: a polygon leaves its picture"),
        ({"segmentation": [[*SQUARE[:-1], float("nan")]]}, r"annotation 5: a polygon leaves its picture"),
        ({"segmentation": [[10**400, *SQUARE[1:]]]}, r"annotation 5: a polygon leaves its picture"),
        ({"segmentation": [[0, 0, WIDTH, HEIGHT, 0, HEIGHT] * 99]}, r"annotation 5: polygons with an outline of"),
        ({"segmentation": {"size": [100000, 100000], "counts": "0"}}, r"annotation 5, height: 100000 where"),
        ({"segmentation": {"size": [HEIGHT, 2], "counts": [48]}}, r"annotation 5: the mask is 24x2, its picture 24x36"),
        ({"segmentation": {**RUNS, "size": [HEIGHT]}}, r"annotation 5: a damaged run-length code \(size \[24\]\)"),
        ({"segmentation": {**RUNS, "counts": [-5, 869]}}, r"annotation 5: a damaged run-length code"),
        ({"segmentation": {**RUNS, "counts": [2**32, 864]}}, r"annotation 5: a damaged run-length code"),
        ({"segmentation": {**RUNS, "counts": [864.0]}}, r"annotation 5: a damaged run-length code"),
        ({"segmentation": {**RUNS, "counts": [863]}}, r"annotation 5: a damaged run-length code"),
        ({"segmentation": {**RUNS, "counts": None}}, r"annotation 5: a damaged run-length code"),
        ({"segmentation": {**RUNS, "counts": "PPPPPPPPPPPPP0"}}, r"annotation 5: a damaged run-length code"),
        ({"segmentation": {**RUNS, "counts": "größe"}}, r"annotation 5: a damaged run-length code"),
    ],
)
def test_coco_of_strangers(changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=problem) as error:
        coco(tmp_path, **changes).stills(tmp_path)
    assert re.fullmatch(rf"{tmp_path}/set/a\.json[^\n]*", str(error.value))


def test_codes_are_decoded_as_pycocotools_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for size in [(1, 1), (1, 9), (7, 1), (24, 36), (90, 70)]:
        for density in (0, 0.01, 0.5, 1):
            mask = rng.random(size) < density
            code = native.encode(np.asfortranarray(mask))
            runs = {
                "size": list(size),
                "counts": np.diff(
                    np.flatnonzero(np.diff(mask.T.ravel().astype(int), prepend=0, append=2)), prepend=0
                ).tolist(),
            }
            for form in (code, {**code, "counts": code["counts"].decode()}, runs):
                assert np.array_equal(decoded(form, size, "x"), mask)
                assert encoded(form, size, "x")["counts"] == code["counts"]
            text = code["counts"].decode()
            for cut in range(len(text) if len(text) < 40 else 0):
                with pytest.raises(ValueError, match="a damaged run-length code"):
                    decoded({**code, "counts": text[:cut]}, size, "x")
    polygons = [[float(v) for v in rng.uniform(-9, 45, 14)] for _ in range(3)]
    expected = native.decode(native.merge(native.frPyObjects(polygons, *SIZE)))
    assert np.array_equal(decoded(polygons, SIZE, "x"), expected > 0)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"annotations": None}, r"m\.json, annotations: None where a list"),
        (
            {"annotations": [{"image_id": 2, **RUNS}], "images": [{"id": 1, "file_name": "a"}]},
            r"entry 1: .* no image 2",
        ),
        ({"annotations": [{"image_id": 2, **RUNS}], "images": [{"id": 2}]}, r"image number 1: the path None names"),
        ([{"image_id": 1, **RUNS}, {"image_id": 2, **RUNS}], r"m\.json: masks of 2 images, but no list of images"),
        ([{"frame": [0], **RUNS}], r"entry 1, frame: \[0\] where an id"),
        ([{"track_id": True, **RUNS}], r"entry 1: track_id=True; ids are whole numbers"),
        ([[1, 2]], r"entry 1: \[1, 2\] where an object"),
        (7, r"entry 1: 7 where an object"),
        ([{"segmentation": [[1e9, 0, 4, 4, 5, 5]]}], r"entry 1: a polygon leaves its picture"),
        ([{**RUNS, "size": [2**31, 2**31]}], r"entry 1, height: 2147483648 where a whole number"),
        pytest.param("[" * 100_000, r"m\.json: not a JSON file \(maximum recursion", id="deep"),
    ],
)
def test_codes_of_a_user(content: Any, problem: str, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=problem) as error:
        read_prompts(tmp_path / "m.json", ["a", "b"], SIZE)
    assert "\n" not in str(error.value)


def test_entries_without_a_mask_are_counted(tmp_path: Path) -> None:
    entries = [{"segmentation": []}, {"segmentation": [SQUARE], "track_id": 3}]
    (tmp_path / "m.json").write_text("\ufeff" + json.dumps({"annotations": entries}))
    with pytest.warns(UserWarning, match=r"m\.json: 1 entries have no mask"):
        labels = read_prompts(tmp_path / "m.json", ["a"], SIZE)[0]
    assert (np.unique(labels).tolist(), (labels == 3).sum()) == ([0, 3], AREA)


# ---------------------------------------------------------------- meta.json and lists


def youtube(folder: Path, videos: Any) -> list[Any]:
    for t in (0, 5, 10):
        save(folder / f"train/JPEGImages/v/{t:05d}.jpg", picture(t))
        save(folder / f"train/Annotations/v/{t:05d}.png", block({1: (2, 3), 12: (10, 20)}), palette=True)
    (folder / "train/meta.json").write_text(json.dumps(videos))
    return YouTubeVOSSet("").videos(folder)


@pytest.mark.parametrize("frames", [["00010", "00005"], ["10", "5"], [10, 5], ["00005"]])
def test_frames_of_meta_are_numbers(frames: list[Any], tmp_path: Path) -> None:
    objects = {"12": {"frames": frames}, "1": {"frames": ["00000"]}}
    (video,) = youtube(tmp_path, {"videos": {"v": {"objects": objects}}})
    assert video.starting_ids() == {0: [1], 1: [12]}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([], r"meta\.json: \[\] where an object"),
        ({}, r"meta\.json, videos: None where an object"),
        ({"videos": ["v"]}, r"meta\.json, videos: \['v'\] where an object"),
        ({"videos": {"v": None}}, r"meta\.json, video 'v', objects: None where an object"),
        ({"videos": {"v": {"objects": [1]}}}, r"video 'v', objects: \[1\] where an object"),
        ({"videos": {"v": {"objects": {"1": {"frame_range": {}}}}}}, r"video 'v', object '1': no frames"),
        ({"videos": {"v": {"objects": {"1": {"frames": []}}}}}, r"video 'v', object '1': no frames"),
        ({"videos": {"v": {"objects": {"1": {"frames": "00000"}}}}}, r"object '1', frames: '00000' where a list"),
        ({"videos": {"v": {"objects": {"1": {"frames": [None]}}}}}, r"object '1', frames: None where an id"),
        ({"videos": {"v": {"objects": {"1": {"frames": ["7"]}}}}}, r"object '1' starts on '7', not a frame"),
        ({"videos": {"v": {"objects": {"dog": {"frames": ["0"]}}}}}, r"object 'dog': ids are whole numbers"),
        ({"videos": {"v": {"objects": {"300": {"frames": ["0"]}}}}}, r"object '300': ids are whole numbers"),
        ({"videos": {"v": {"objects": {i: {"frames": ["0"]} for i in ("1", "01")}}}}, r"another one has the same id"),
        ({"videos": {"../e/v": {}}}, r"the name '\.\./e/v' cannot be that of a folder"),
        ({"videos": {"..": {}}}, r"the name '\.\.' cannot be that of a folder"),
        ({"videos": {"": {}}}, r"the name '' cannot be that of a folder"),
        ({"videos": {"v" * 300: {}}}, r"the name 'v+\.\.\. cannot be that of a folder"),
    ],
)
def test_meta_of_strangers(content: Any, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=problem) as error:
        youtube(tmp_path, content)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["../cat", "/tmp/cat", "cat/..", "..", "a\x1bb"])
def test_names_of_lists(name: str, tmp_path: Path) -> None:
    base = write_davis(tmp_path / "DAVIS", {"train": ["cat"]}, frames=1)
    (base / "ImageSets/2017/train.txt").write_text(f"cat\n{name}\n")
    with pytest.raises(ValueError, match=r"train\.txt, line 2: the name .* cannot be that of a folder"):
        DavisSet("").videos(tmp_path)


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp"])
@pytest.mark.parametrize("kind", ["EPS", "GIF", "PPM", "PDF"])
def test_other_formats_are_not_opened_whatever_they_are_called(name: str, kind: str, tmp_path: Path) -> None:
    Image.fromarray(picture(0)).save(tmp_path / name, format=kind)
    for read in (read_image, read_labels):
        with pytest.raises(ValueError, match=rf"{name}: not a readable image"):
            read(tmp_path / name)


def test_a_jpeg_called_png_is_a_picture_but_no_mask(tmp_path: Path) -> None:
    Image.fromarray(picture(0)).save(tmp_path / "a.png", format="JPEG")
    assert read_image(tmp_path / "a.png").shape == (*SIZE, 3)
    for read in (read_labels, lambda path: read_prompts(path, ["0"], SIZE)):
        with pytest.raises(ValueError, match=r"a\.png: not a readable image"):
            read(tmp_path / "a.png")


@pytest.mark.parametrize("colours", [1, 3, 4])
def test_12_bits_in_16_are_named(colours: int, tmp_path: Path) -> None:
    import cv2

    ramp = np.linspace(0, 4095, HEIGHT * WIDTH).astype(np.uint16).reshape(*SIZE, 1).repeat(colours, axis=2)
    if colours == 4:
        ramp[..., 3] = 65535
    cv2.imwrite(str(tmp_path / "a.png"), ramp)
    with pytest.raises(ValueError, match=r"a\.png: 16 bits with no value above 4095, so of 12 bits"):
        read_image(tmp_path / "a.png")
    cv2.imwrite(str(tmp_path / "b.png"), np.minimum(ramp.astype(int) * 16, 65535).astype(np.uint16))
    assert abs(read_image(tmp_path / "b.png").mean() - 127) < 2
    cv2.imwrite(str(tmp_path / "black.png"), ramp * np.uint16(0))
    assert not read_image(tmp_path / "black.png").any()


def test_a_palette_without_background_at_0(tmp_path: Path) -> None:
    labels = block({1: (2, 3), 2: (10, 20)})
    colours = np.array([(0, 0, 0), (10, 250, 3), (200, 0, 0)], dtype=np.uint8)
    shuffled = Image.fromarray(np.array([1, 2, 0], dtype=np.uint8)[labels])
    shuffled.putpalette(colours[[2, 0, 1]].tobytes())
    shuffled.save(tmp_path / "a.png")
    Image.fromarray(colours[labels]).quantize(3).save(tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        assert np.array_equal(read_prompts(tmp_path / name, ["0"], SIZE)[0], labels)
    with pytest.raises(ValueError, match=r"a\.png: a palette PNG whose background is not index 0"):
        read_labels(tmp_path / "a.png")


def test_a_picture_that_claims_to_be_huge(tmp_path: Path) -> None:
    content = bytearray(save(tmp_path / "a.png", picture(0)).read_bytes())
    content[16:24] = struct.pack(">II", 30_000, 2_500)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.png: 2500x30000, and at most 67108864 pixels are read"):
        read_image(tmp_path / "a.png")


# ---------------------------------------------------------------- one bad video among others


def test_an_error_that_nobody_foresaw_stops_no_other_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, labels = moving_square(2)
    for name in "abc":
        write_frames(tmp_path / "v" / name, frames)
        write_mask(tmp_path / "m" / f"{name}.png", labels[0])

    def prompts(mask: Path, *args: Any, **settings: Any) -> dict[int, np.ndarray]:
        if mask.stem == "b":
            raise KeyError("size")
        return read_prompts(mask, *args, **settings)

    def read(path: Path, *args: Any, **settings: Any) -> np.ndarray:
        if path.parent.name == "c" and path.stem == "00001":
            raise RuntimeError("first line\nsecond line")
        return read_image(path, *args, **settings)

    monkeypatch.setattr("datamodules.first_mask.read_prompts", prompts)
    monkeypatch.setattr("datamodules.movies.read_image", read)
    with pytest.warns(UserWarning, match="c: RuntimeError: first line second line; going on with the next video"):
        data = predict(small("HMMN"), tmp_path / "out", video=tmp_path / "v", mask=tmp_path / "m")
    said = {name: why(error) for name, error in data.problems.items()}
    assert said == {"b": "KeyError: 'size'", "c": "RuntimeError: first line second line"}
    assert len(written(tmp_path / "out", "a")) == 2
    with pytest.raises(KeyError):  # the error of a video that is alone is shown as it is
        predict(small("HMMN"), tmp_path / "out", video=tmp_path / "v" / "b", mask=tmp_path / "m" / "b.png")
