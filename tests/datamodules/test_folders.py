"""Folders as people have them: what is litter, what is followed, in which order, and what is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from data_files import block, picture, save, write_davis, write_static
from movie_files import moving_square, write_frames, write_mask, write_movie
from PIL import Image

from datamodules import DavisSet, ImageSet, PredictDataModule
from datamodules.check import main as check
from datamodules.frame_names import FrameNames, frame_numbers
from datamodules.layouts import find_frames, find_masks
from datamodules.listing import names_on
from datamodules.movies import open_movie
from datamodules.sequences import EvaluationSet, TrainingSequences
from datamodules.transforms import VideoTransform

LITTER = (
    "._00000.jpg",
    "._00000.png",
    ".DS_Store",
    "Thumbs.db",
    ".ipynb_checkpoints/00000.jpg",
    "__MACOSX/._00000.jpg",
)


def litter(folder: Path) -> None:
    for name in LITTER:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\0\5\x16\7 not a picture")


def names(frames: list[Path] | tuple[Path, ...]) -> list[str]:
    return [frame.stem for frame in frames]


def test_litter_is_nowhere_in_the_way(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    base = write_davis(tmp_path / "set", {"train": ["cow"]})
    write_static(tmp_path / "set/stills")
    frames, labels = moving_square(3)
    for name in ("a", "b"):
        write_frames(tmp_path / "v" / name, frames)
        write_mask(tmp_path / "m" / name / "00000.png", labels[0])
    for folder in ("set/JPEGImages/480p", "set/stills", "v", "m"):
        for inside in [tmp_path / folder, *(p for p in (tmp_path / folder).iterdir() if p.is_dir())]:
            litter(inside)
    litter(base / "Annotations/480p/cow")
    (video,) = DavisSet("set").videos(tmp_path)
    assert (len(video.frames), len(video.masks)) == (6, 6)
    assert len(ImageSet("set/stills").stills(tmp_path)) == 5
    data = PredictDataModule(str(tmp_path / "v"), str(tmp_path / "m"))
    data.setup("predict")
    assert [footage.video.name for footage in data.predict_dataloader()] == ["a", "b"]
    assert data.problems == {}
    assert not [warning for warning in recwarn if "left aside" in str(warning.message)]


def test_links_are_followed_and_have_their_own_names(tmp_path: Path) -> None:
    frames, labels = moving_square(3)
    for name in ("one", "two"):
        write_frames(tmp_path / name / "frames", frames)
        (tmp_path / "v").mkdir(exist_ok=True)
        (tmp_path / "v" / name).symlink_to(tmp_path / name / "frames")
        write_mask(tmp_path / "m" / f"{name}.png", labels[0])
    (tmp_path / "v" / "lost").symlink_to(tmp_path / "nowhere")
    data = PredictDataModule(str(tmp_path / "v"), str(tmp_path / "m"))
    data.setup("predict")
    assert [footage.video.name for footage in data.predict_dataloader()] == ["one", "two"]
    assert list(data.problems) == ["lost"]
    base = write_static(tmp_path / "set")
    for kind in ("images", "masks"):
        (base / kind).rename(tmp_path / kind)
        (base / kind).mkdir()
        (base / kind / "part").symlink_to(tmp_path / kind)
        (tmp_path / kind / "again").symlink_to(base / kind)  # a circle
    assert names([still.image for still in ImageSet("set").stills(tmp_path)]) == list("01234")
    (base / "images" / "5.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(FileNotFoundError, match=r"5\.jpg: a link to .*nowhere\.jpg, where nothing is"):
        ImageSet("set").stills(tmp_path)


@pytest.fixture
def unpadded(tmp_path: Path) -> Path:
    """A set whose frames are called ``frame_1`` to ``frame_12``, masks ``frame_001``; the object moves with time."""
    for t in range(1, 13):
        save(tmp_path / f"set/JPEGImages/480p/cow/frame_{t}.jpg", picture(t))
        save(tmp_path / f"set/Annotations/480p/cow/frame_{t:03d}.png", block({1: (t, 3)}), palette=True)
    (tmp_path / "set/ImageSets/2017").mkdir(parents=True)
    (tmp_path / "set/ImageSets/2017/val.txt").write_text("cow\n")
    return tmp_path


def test_one_order_everywhere(unpadded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = [f"frame_{t}" for t in range(1, 13)]
    videos = DavisSet("set", split="val").videos(unpadded, dense=True)
    assert names(videos[0].frames) == expected
    video = EvaluationSet(videos)[0]  # what is scored and submitted
    assert list(video.frame_names) == expected
    assert [int(np.argwhere(video.target(t) == 1)[0, 0]) for t in range(12)] == list(range(1, 13))
    clips = TrainingSequences(videos, 4, 1, VideoTransform(16))
    chosen = clips._choose(videos[0], 1, np.random.default_rng(0), videos[0].without_void)
    assert {abs(b - a) for a, b in pairwise(chosen)} == {1}
    assert open_movie(videos[0].frames[0].parent, 25).frame_names == expected
    config = unpadded / "config.yaml"
    val = {"class_path": "datamodules.DavisSet", "init_args": {"root": "set", "split": "val"}}
    config.write_text(yaml.safe_dump({"data": {"init_args": {"val": val}}}))
    assert check([str(config), f"--root={unpadded}"]) == 0
    for kind, name in (("JPEGImages", "frame_10.jpg"), ("Annotations", "frame_010.png")):
        (unpadded / "set" / kind / "480p/cow" / name).unlink()
    assert check([str(config), f"--root={unpadded}"]) == 1
    assert "1 gaps in the numbers of the frames, the first between frame_9 and frame_11" in capsys.readouterr().out


def test_what_names_of_frames_say() -> None:
    frames = FrameNames([f"shot1_{t:04d}" for t in (5, 10)])
    assert [frames.find(name) for name in ("shot1_0010", "shot1_10", "shot01_5", "10", "0", "shot2_0005")] == [
        1,
        1,
        0,
        1,
        None,
        None,
    ]
    assert frame_numbers(["a1b07", "a1b10"]) == [7, 10]
    assert frame_numbers(["a1b07", "a2b10"]) is None
    assert frame_numbers(["first", "second"]) is None


def beside(name: str, content: bytes | None = None) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        if content is None:
            save(folder / name, picture(0))
        else:
            (folder / name).write_bytes(content)

    return edit


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (beside("00001.png"), r"00001\.jpg: 00001\.png has the same name; keep one of the two"),
        (beside("1.jpg"), r"1\.jpg: .*1\.jpg has the same number; keep one of the two"),
        (beside("mask.png"), r"mask\.png: named in another way than 00000\.jpg, .*move it elsewhere if it is no frame"),
        (beside("00003.webp"), r"00003\.webp: a \.webp picture .* save it as png"),
        (beside("00003.tif"), r"00003\.tif: a \.tif picture"),
        (beside("00003.heic", b"a picture"), r"00003\.heic: a \.heic picture"),
        (lambda folder: (folder / "00003.jpg").symlink_to("lost"), r"00003\.jpg: a link to lost, where nothing is"),
    ],
)
def test_frames_that_are_unclear_are_refused_by_name(
    edit: Callable[[Path], None], problem: str, tmp_path: Path
) -> None:
    folder = write_frames(tmp_path / "v", moving_square(3)[0], suffix=".jpg")
    edit(folder)
    for read in (find_frames, lambda folder: open_movie(folder, 25)):
        with pytest.raises((ValueError, OSError), match=problem):
            read(folder)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("0.png", r"a mask of the same frame; keep one of the two"),
        ("00009.png", r"00009\.png: a mask without a frame \(1 of 3\)"),
        ("notes_00001.png", r"notes_00001\.png: a mask without a frame"),
        ("00001.jpg", r"00001\.jpg: a \.jpg picture \(1 of 3 files\), only png are read"),
    ],
)
def test_masks_of_a_set_are_matched_by_number(name: str, problem: str, tmp_path: Path) -> None:
    frames = find_frames(write_frames(tmp_path / "v", moving_square(3)[0]))
    for stem in ("00000", "2"):
        save(tmp_path / "m" / f"{stem}.png", block({1: (2, 3)}))
    assert {t: path.name for t, path in find_masks(tmp_path / "m", frames).items()} == {0: "00000.png", 2: "2.png"}
    save(tmp_path / "m" / name, block({1: (2, 3)}))
    with pytest.raises(ValueError, match=problem):
        find_masks(tmp_path / "m", frames)


def test_other_files_are_named(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "v", moving_square(2)[0])
    (folder / "00002.npy").write_bytes(b"a frame?")
    with pytest.warns(UserWarning, match=r"v: left aside, as it is none of the pictures or videos: 00002\.npy"):
        assert len(find_frames(folder)) == 2


def test_videos_of_all_kinds_side_by_side(tmp_path: Path) -> None:
    frames, labels = moving_square(3)
    for name in ("a.mp4", "b.flv", "c.MKV"):
        write_movie(tmp_path / "v" / name, frames)
        write_mask(tmp_path / "m" / f"{name[0]}.png", labels[0])
    (tmp_path / "v" / "d.mp4.part").write_bytes(b"half")
    data = PredictDataModule(str(tmp_path / "v"), str(tmp_path / "m"))
    with pytest.warns(UserWarning, match=r"left aside.*: d\.mp4\.part"):
        data.setup("predict")
    assert [footage.video.name for footage in data.predict_dataloader()] == ["a", "b", "c"]
    for t, frame in enumerate(frames):
        (tmp_path / "v" / "e").mkdir(exist_ok=True)
        Image.fromarray(frame).save(tmp_path / "v" / "e" / f"{t}.webp")
    write_mask(tmp_path / "m" / "e.png", labels[0])
    data.setup("predict")
    assert "0.webp: a .webp picture" in str(data.problems["e"])


def test_lists_as_editors_write_them(tmp_path: Path) -> None:
    path = tmp_path / "val.txt"
    path.write_bytes("\ufeffbear\r\n\r\n  my cat \r\nkäse".encode())
    assert names_on(path) == ["bear", "my cat", "käse"]
    for content, problem in {
        b"bear\nbear\n": r"val\.txt, line 2: bear is on line 1 as well",
        "bear".encode("utf-16"): r"val\.txt: not UTF-8 text",
        b"../bear\n": r"val\.txt, line 1: the name '\.\./bear' cannot be",
    }.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=problem):
            names_on(path)
    base = write_davis(tmp_path / "set", {"val": ["my cat", "bear"]})
    (base / "ImageSets/2017/val.txt").write_bytes(b"\xef\xbb\xbfmy cat\r\nbear\r\n")
    assert [video.name for video in DavisSet("set", split="val").videos(tmp_path)] == ["my cat", "bear"]
