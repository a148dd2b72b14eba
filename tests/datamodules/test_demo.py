"""The procedural data set as it is written: layout, contents, determinism, safe writing by several at once."""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from datamodules import demo
from datamodules.demo import VALIDATION, write_demo
from datamodules.demo_scenes import PHENOMENA

tiny = partial(
    write_demo, size=(48, 64), train_videos=3, train_frames=4, val_videos=2, val_frames=5, image_size=(40, 40), images=4
)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def picture(path: Path) -> Image.Image:
    """An image, read and closed."""
    with Image.open(path) as image:
        image.load()
    return image


def labels_of(folder: Path, video: str) -> NDArray[np.uint8]:
    """Annotations of a video, ``(T, H, W)``."""
    return np.stack([np.array(picture(path)) for path in sorted((folder / "Annotations/480p" / video).iterdir())])


def names_of(folder: Path, split: str) -> list[str]:
    """The list of a split."""
    return (folder / "ImageSets/2017" / f"{split}.txt").read_text().split()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny data set; not to be changed."""
    return tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The validation videos as they are by default."""
    return write_demo(tmp_path_factory.mktemp("val"), train_videos=1, train_frames=1, images=1)


def test_layout_is_that_of_davis_2017(written: Path) -> None:
    assert names_of(written, "train") == ["train-000", "train-001", "train-002"]
    assert names_of(written, "val") == [f"val-00-{VALIDATION[0]}", f"val-01-{VALIDATION[1]}"]
    for split, frames in (("train", 4), ("val", 5)):
        for name in names_of(written, split):
            for kind, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
                files = sorted(path.name for path in (written / kind / "480p" / name).iterdir())
                assert files == [f"{t:05d}.{suffix}" for t in range(frames)]
    assert (
        len(list((written / "JPEGImages/480p").iterdir())) == len(list((written / "Annotations/480p").iterdir())) == 5
    )


def test_annotations_are_palette_images_of_consecutive_ids(written: Path) -> None:
    for name in names_of(written, "train") + names_of(written, "val"):
        mask = picture(written / "Annotations/480p" / name / "00000.png")
        assert mask.mode == "P"
        assert mask.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
        assert picture(written / "JPEGImages/480p" / name / "00000.jpg").size == mask.size == (64, 48)
        first, *_ = labels = labels_of(written, name)
        ids = np.unique(first)
        assert ids.tolist() == list(range(len(ids)))
        assert 2 <= len(ids) <= 4
        assert np.isin(labels, ids).all()


def test_static_images_have_one_object(written: Path) -> None:
    stems = [path.stem for path in sorted((written / "static/images").iterdir())]
    assert stems == [path.stem for path in sorted((written / "static/masks").iterdir())]
    assert len(stems) == 4
    for stem in stems:
        mask = picture(written / "static/masks" / f"{stem}.png")
        assert mask.mode == "L"
        assert np.unique(np.array(mask)).tolist() == [0, 255]
        assert picture(written / "static/images" / f"{stem}.jpg").size == mask.size == (40, 40)


def test_the_seed_decides_every_byte(written: Path, tmp_path: Path) -> None:
    expected = contents(written)
    assert contents(tiny(tmp_path / "again")) == expected
    other = contents(tiny(tmp_path / "other", seed=1))
    assert other.keys() == expected.keys()
    assert all(other[name] != data for name, data in expected.items() if name.endswith(".jpg"))


def test_no_frame_occurs_twice(written: Path) -> None:
    images = [data for name, data in contents(written).items() if name.endswith(".jpg")]
    assert len(set(images)) == len(images) == 3 * 4 + 2 * 5 + 4


def test_every_validation_object_is_clearly_visible_in_frame_0(validation: Path) -> None:
    assert len(names_of(validation, "val")) == len(VALIDATION)
    for name in names_of(validation, "val"):
        labels = labels_of(validation, name)
        assert np.bincount(labels[0].ravel())[1:].min() >= 120
        assert labels.max() == labels[0].max()


def test_validation_shows_every_phenomenon(validation: Path) -> None:
    assert set(PHENOMENA) <= {word for name in names_of(validation, "val") for word in name.split("-")[2:]}
    for name in names_of(validation, "val"):
        areas = (labels_of(validation, name) == 1).sum((1, 2))
        if "reentry" in name:
            gone = np.flatnonzero(areas == 0)
            assert gone.size
            assert areas[gone[-1] + 1 :].max() > 0.5 * areas[0]
        if "scale" in name and "occlusion" not in name:
            assert areas.max() > 1.8 * areas.min()


def test_copying_the_first_mask_fails_on_validation(validation: Path) -> None:
    scores = []
    for name in names_of(validation, "val"):
        labels = labels_of(validation, name)
        for k in range(1, labels.max() + 1):
            mask = labels == k
            scores.append(np.mean((mask & mask[0]).sum((1, 2))[1:-1] / (mask | mask[0]).sum((1, 2))[1:-1]))
    assert 0.15 < np.mean(scores) < 0.30


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is said of the writing, once for each data set that is written."""
    lines: list[str] = []
    monkeypatch.setattr("datamodules.demo.rank_zero_info", lines.append)
    return lines


def test_a_complete_data_set_is_left_alone(tmp_path: Path, said: list[str]) -> None:
    before = tiny(tmp_path).stat().st_ino
    assert tiny(tmp_path).stat().st_ino == before
    assert said == [f"writing the demo data set to {tmp_path / 'demo'}, once: about a minute"]


def test_interrupted_writing_is_redone(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo, "_write_images", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tiny(tmp_path)
    assert not (tmp_path / "demo").exists()
    assert any(path.is_dir() for path in tmp_path.iterdir())
    assert contents(tiny(tmp_path)) == contents(written)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".demo.lock", "demo"]


@pytest.mark.parametrize("change", ["version", "parameter"])
def test_another_version_or_parameter_replaces_what_is_there(
    change: str, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        if change == "version":
            patch.setattr(demo, "VERSION", 0)
        folder = tiny(tmp_path, images=4 if change == "version" else 6)
    stamp = json.loads((folder / "dataset.json").read_text())
    assert (stamp["version"], stamp["images"]) == ((0, 4) if change == "version" else (demo.VERSION, 6))
    assert contents(tiny(tmp_path)) == contents(written)


@pytest.mark.parametrize("stamp", [None, "{}", "not json", '{"generator": "mine"}'])
def test_a_folder_of_somebody_else_is_refused_and_kept(stamp: str | None, tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/notes.txt").write_text("mine")
    if stamp is not None:
        (tmp_path / "demo/dataset.json").write_text(stamp)
    with pytest.raises(ValueError, match="not a demo data set"):
        tiny(tmp_path)
    assert (tmp_path / "demo/notes.txt").read_text() == "mine"


def test_a_video_needs_a_frame(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="val_frames 0"):
        tiny(tmp_path, val_frames=0)


def test_one_of_several_threads_writes(written: Path, tmp_path: Path, said: list[str]) -> None:
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(tiny, [tmp_path] * 4))
    assert folders == [tmp_path / "demo"] * 4
    assert said == [f"writing the demo data set to {tmp_path / 'demo'}, once: about a minute"]
    assert contents(tmp_path / "demo") == contents(written)


def test_several_processes_may_write(written: Path, tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(3) as pool:
        folders = pool.map(tiny, [tmp_path] * 3)
    assert folders == [tmp_path / "demo"] * 3
    assert contents(tmp_path / "demo") == contents(written)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".demo.lock", "demo"]
