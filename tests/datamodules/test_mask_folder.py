"""What a folder of masks means: of frames, of objects, or both; and what is said of it before the first frame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import small
from movie_files import SIZE, moving_square, predict, write_frames, write_mask

from callbacks import PredictionProgress
from datamodules import PredictDataModule
from datamodules.prompts import Prompts, read_prompts

NAMES = [f"{t:05d}" for t in range(6)]
FIRST, SECOND = (np.zeros(SIZE, dtype=np.uint8) for _ in range(2))
FIRST[2:10, 3:12] = 1
SECOND[12:30, 20:40] = 1
EMPTY = np.zeros(SIZE, dtype=np.uint8)


def write(folder: Path, masks: dict[str, np.ndarray]) -> Path:
    for name, labels in masks.items():
        write_mask(folder / "m" / f"{name}.png", labels)
    return folder / "m"


def ids(prompts: Prompts) -> dict[int, list[int]]:
    return {t: [int(id_) for id_ in np.unique(labels) if id_] for t, labels in prompts.items()}


@pytest.mark.parametrize(
    ("masks", "found", "words"),
    [
        (
            {"0": FIRST, "3": FIRST + 2 * SECOND},
            {0: [1], 3: [1, 2]},
            "object 1 starts on frame 00000 (m/0.png); object 2 ",
        ),
        ({"000": FIRST, "002": 7 * SECOND}, {0: [1], 2: [7]}, "object 7 starts on frame 00002 (m/002.png)"),
        ({"000/00000": FIRST, "001/00000": SECOND}, {0: [1, 2]}, "objects 1 (000), 2 (001) start on frame 00000"),
        ({"002/00000": FIRST, "005/00000": SECOND}, {0: [2, 5]}, "on frame 00000 (m/002/00000.png, m/005/00000.png)"),
        (
            {"3/00000": FIRST, "3/00002": EMPTY, "4/00000": EMPTY, "4/00002": SECOND},
            {0: [3], 2: [4]},
            "object 4 starts",
        ),
        ({"dog/0": FIRST, "cat/0": SECOND}, {0: [1, 2]}, "objects 1 (cat), 2 (dog) start on frame 00000"),
        ({"00000/000": FIRST, "00000/001": SECOND}, {0: [1, 2]}, "objects 1 (000), 2 (001) start"),
        ({"00000/9": FIRST, "2/9": FIRST}, {0: [9], 2: [9]}, "object 9 starts on frame 00000 (m/00000/9.png)"),
        ({"part 2": FIRST, "part 10": SECOND}, {0: [1, 2]}, "objects 1 (part 2), 2 (part 10) start on frame 00000"),
        ({"20": FIRST, "30": SECOND}, {0: [20, 30]}, "objects 20, 30 start on frame 00000 (m/20.png, m/30.png)"),
        ({"00000": FIRST, "00001": EMPTY, "00002": SECOND}, {0: [1], 2: [1]}, "object 1 starts on frame 00000"),
    ],
)
def test_how_folders_are_understood(
    masks: dict[str, np.ndarray], found: dict[int, list[int]], words: str, tmp_path: Path
) -> None:
    prompts = read_prompts(write(tmp_path, masks), NAMES, SIZE, asked=["all"])
    assert ids(prompts) == found
    assert words in prompts.words
    assert "\n" not in prompts.words


@pytest.mark.parametrize(
    ("masks", "problem"),
    [
        ({"1": FIRST, "2": SECOND}, r"m/1\.png: a mask of frame 1, or of object 1\? .* set --data\.frame"),
        ({"007": FIRST}, r"m/007\.png: a mask of frame 7, or of object 7\?"),
        ({"1/2": FIRST, "1/3": SECOND}, r"m/1/2\.png: object 2 of frame 1, or frame 2 of object 1\?"),
        ({"00000/00001": FIRST}, r"object 00001 of frame 00000, or frame 00001 of object 00000\?"),
        ({"00000": FIRST, "0000x": FIRST}, r"m/0000x\.png: the video has no such frame, only 00000 to 00005"),
        ({"00000": FIRST, "00006": FIRST}, r"m/00006\.png: the video has no such frame"),
        ({"00000/1": FIRST, "later/1": FIRST}, r"m/later: the video has no such frame"),
        ({"001/00000": FIRST, "001/00009": FIRST}, r"m/001/00009\.png: the video has no such frame"),
        ({"001/00000": FIRST, "00001": FIRST}, r"m/00001\.png: the video has no such frame"),
        ({"a/b": FIRST}, r"m/a: the video has no such frame"),
        ({"0": FIRST, "00000": FIRST}, r"another mask of frame 0+ lies beside it"),
        ({"00000/1": FIRST, "00000/01": SECOND}, r"m/00000: two masks of object 1 on one frame"),
        ({"001/00000": FIRST, "001/0": FIRST}, r"another mask of object 1 on this frame"),
        ({"00000": EMPTY, "00001": EMPTY}, r"m: the masks of 2 frames are empty"),
    ],
)
def test_what_is_unclear_is_refused(masks: dict[str, np.ndarray], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=problem):
        read_prompts(write(tmp_path, masks), NAMES, SIZE, asked=["all"])


def test_a_frame_that_was_named_settles_what_numbers_are(tmp_path: Path) -> None:
    masks = write(tmp_path, {"1": FIRST, "2": SECOND})
    assert ids(read_prompts(masks, NAMES, SIZE, default=3, said=True)) == {3: [1, 2]}


def test_what_is_not_read_is_said(tmp_path: Path) -> None:
    masks = write(tmp_path, {"00000": FIRST, "00003": SECOND, "99999": SECOND})
    prompts = read_prompts(masks, NAMES, SIZE)
    assert ids(prompts) == {0: [1]}
    assert "1 more frames have masks that are not read (--data.masks=all reads them)" in prompts.words
    assert "1 files are of no frame, such as 99999.png" in prompts.words
    many = {f"{t:05d}": (t + 1) * FIRST for t in range(20)}
    prompts = read_prompts(write(tmp_path, many), [f"{t:05d}" for t in range(20)], SIZE, asked=["0", "1", "19"])
    assert list(prompts) == [0, 1, 19]


Settings = dict[str, Any]


def _mask_among_frames(folder: Path) -> Settings:
    return {"mask": write_mask(folder / "v" / "mask.png", FIRST)}


def _mask_named_as_a_frame(folder: Path) -> Settings:
    return {"mask": write_mask(folder / "v" / "00002.png", FIRST), "direction": "backward"}


def _masks_beside_their_frames(folder: Path) -> Settings:
    write_mask(folder / "v" / "00001.png", FIRST)
    return {"mask": folder / "v"}


@pytest.mark.parametrize("edit", [_mask_among_frames, _mask_named_as_a_frame, _masks_beside_their_frames])
def test_a_mask_among_the_frames_is_no_frame(edit: Callable[[Path], Settings], tmp_path: Path) -> None:
    write_frames(tmp_path / "v", moving_square(4)[0], suffix=".jpg")
    settings = {name: str(value) for name, value in edit(tmp_path).items()}
    data = PredictDataModule(str(tmp_path / "v"), **settings)
    data.setup("predict")
    (footage,) = data.predict_dataloader()
    assert list(footage.video.frame_names) == NAMES[:4]


def test_frames_and_masks_of_one_kind_in_one_folder(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "v", moving_square(2)[0])
    with pytest.raises(ValueError, match=r"v: frames and masks in one folder, all of one kind"):
        PredictDataModule(str(folder), str(folder)).setup("predict")


def test_one_line_before_the_first_frame(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames, labels = moving_square(3)
    write_frames(tmp_path / "clip", frames)
    write_mask(tmp_path / "m" / "00000.png", labels[0])
    write_mask(tmp_path / "m" / "00002.png", labels[2] * 3)
    data = {"video": tmp_path / "clip", "mask": tmp_path / "m", "masks": "all"}
    predict(small("HMMN"), tmp_path / "out", PredictionProgress(), **data)
    lines = capsys.readouterr().out.splitlines()
    said = "clip: object 1 starts on frame 00000 (m/00000.png); object 3 starts on frame 00002 (m/00002.png)"
    assert said in lines
    assert lines.index(said) < next(i for i, line in enumerate(lines) if "/3 frames" in line)
