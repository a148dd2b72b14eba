"""Every kind of damage to a data set is found and named, and a sound set is not complained of."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from data_files import block, picture, save, write_davis, write_sequence, write_static
from PIL import Image
from tiny_runs import EXPERIMENTS, commands

from datamodules.check import main

DAVIS = "set/{}/480p/bear/{:05d}.{}"


def davis(split: str) -> dict[str, object]:
    return {"class_path": "datamodules.DavisSet", "init_args": {"root": "set", "split": split}}


def youtube_vos(split: str) -> dict[str, object]:
    return {"class_path": "datamodules.YouTubeVOSSet", "init_args": {"root": "set", "split": split}}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A DAVIS set with two sequences and a folder of stills, sound."""
    write_davis(tmp_path / "set", {"train": ["bear", "cat"], "val": ["bear"]})
    write_static(tmp_path / "stills")
    path = tmp_path / "config.yaml"
    settings = {
        "images": [{"root": "stills"}],
        "videos": [davis("train")],
        "val": davis("val"),
    }
    path.write_text(yaml.safe_dump({"data": {"init_args": settings}}))
    return path


def test_a_sound_set(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(config), f"--root={config.parent}"]) == 0
    printed = capsys.readouterr().out
    assert "4 sequences and image sets, 0 with faults" in printed
    (total,) = [line for line in printed.splitlines() if line.lstrip("│┃ ").startswith("all")]
    assert re.findall(r"\d+", total) == [
        "23",
        "23",
        "6",
        "0",
        "0",
        "0",
    ]  # 6 frames thrice and 5 stills; 2 objects thrice


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def halve(path: Path) -> None:
    with Image.open(path) as image:
        small = image.resize((image.width // 2, image.height // 2), Image.Resampling.NEAREST)
    small.save(path)


def paint(*values: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        labels = block({1: (2, 3), 2: (10, 20)})
        labels[0, : len(values)] = values
        save(path, labels, palette=True)

    return change


def blank(path: Path) -> None:
    save(path, block({}), palette=True)


def colour(path: Path) -> None:
    save(path, picture(0))


def sixteen_bits(path: Path) -> None:
    Image.fromarray(np.full((24, 36), 700, dtype=np.uint16)).save(path)


def rename(path: Path) -> None:
    path.rename(path.with_name(f"a{path.name}"))


@pytest.mark.parametrize(
    ("file", "change", "line"),
    [
        (DAVIS.format("JPEGImages", 3, "jpg"), cut, r"00003.jpg: not a readable image \(.*truncated.*\); replace"),
        (DAVIS.format("JPEGImages", 3, "jpg"), empty, r"00003.jpg: not a readable image .* replace"),
        (DAVIS.format("JPEGImages", 3, "jpg"), halve, "00003.jpg: is 12x18, the other frames are 24x36; make"),
        (DAVIS.format("JPEGImages", 3, "jpg"), Path.unlink, "00003.png: a mask without a frame"),
        (DAVIS.format("JPEGImages", 3, "jpg"), rename, "a00003.jpg: named in another way than 00000.jpg"),
        (DAVIS.format("Annotations", 3, "png"), Path.unlink, r"bear: 5 masks for 6 frames \(none for 00003\); add"),
        (DAVIS.format("Annotations", 3, "png"), cut, r"00003.png: not a readable image"),
        (DAVIS.format("Annotations", 3, "png"), empty, r"00003.png: not a readable image"),
        (DAVIS.format("Annotations", 3, "png"), halve, "00003.png: is 12x18, the frames are 24x36; make"),
        (
            DAVIS.format("Annotations", 3, "png"),
            paint(9, 200),
            "00003.png: stray values 9, 200, the objects are 1, 2; c",
        ),
        (DAVIS.format("Annotations", 3, "png"), colour, "00003.png: a mask of mode RGB"),
        (DAVIS.format("Annotations", 3, "png"), sixteen_bits, "00003.png: a mask of mode I;16"),
        (DAVIS.format("Annotations", 0, "png"), blank, r"00000.png: no object to follow in video 'bear'"),
        (DAVIS.format("Annotations", 0, "png"), paint(255), r"00000.png: 255 \(void\) on a first mask"),
        ("set/ImageSets/2017/val.txt", empty, r"split 'val' is empty"),
        ("set/ImageSets/2017/val.txt", Path.unlink, r"val.txt: no such list"),
        ("set/ImageSets/2017/val.txt", lambda path: path.write_text("bear\ndog"), "480p/dog: no such sequence"),
        ("stills/masks/2.png", Path.unlink, "1 of 5 pictures have no mask"),
        ("stills/masks/2.png", blank, "2.png: the mask is empty"),
        ("stills/images/2.jpg", cut, r"2.jpg: not a readable image"),
    ],
)
def test_damage(
    file: str, change: Callable[[Path], object], line: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(config.parent / file)
    assert main([str(config), f"--root={config.parent}"]) == 1
    printed = capsys.readouterr().out
    assert re.search(line, printed), printed
    assert "0 with faults" not in printed


def test_void_and_empty_masks_later_are_no_fault(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blank(config.parent / DAVIS.format("Annotations", 2, "png"))
    paint(255)(config.parent / DAVIS.format("Annotations", 3, "png"))
    assert main([str(config), f"--root={config.parent}"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "bear" in line]
    assert len(rows) == 2
    for row in rows:
        assert re.findall(r"\d+", row)[-4:] == ["2", "1", "1", "0"]  # objects, empty masks, with void, faults


def test_gaps_and_late_objects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tmp_path / "set/valid"
    stems = ["00000", "00005", "00015", "00020"]
    for t, stem in enumerate(stems):
        save(base / "JPEGImages/bear" / f"{stem}.jpg", picture(t))
    save(base / "Annotations/bear/00000.png", block({1: (2, 3)}), palette=True)
    save(base / "Annotations/bear/00015.png", block({3: (2, 3)}), palette=True)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"data": {"init_args": {"val": youtube_vos("valid")}}}))
    assert main([str(config), f"--root={tmp_path}"]) == 1
    printed = capsys.readouterr().out
    assert "bear: 1 gaps in the numbers of the frames, the first between 00005 and 00015; add the missing" in printed
    assert "stray" not in printed  # without meta.json objects may start on any mask

    save(base / "JPEGImages/bear/00010.jpg", picture(9))
    assert main([str(config), f"--root={tmp_path}"]) == 0
    objects = {"1": {"frames": ["00000"]}, "3": {"frames": ["00020"]}}
    (base / "meta.json").write_text(json.dumps({"videos": {"bear": {"objects": objects}}}))
    assert main([str(config), f"--root={tmp_path}"]) == 1
    assert "object 3 of video 'bear' starts here, but the frame has no mask" in capsys.readouterr().out
    (base / "meta.json").write_text(json.dumps({"videos": {"bear": {"objects": {"1": {"frames": ["00000"]}}}}}))
    assert main([str(config), f"--root={tmp_path}"]) == 1
    assert "00015.png: stray values 3, the objects are 1; correct the mask" in capsys.readouterr().out


def test_two_files_of_one_frame(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tmp_path / "set/valid"
    for stem in ("00000", "00001"):
        save(base / "JPEGImages/bear" / f"{stem}.jpg", picture(0))
    save(base / "JPEGImages/bear/00001.png", picture(0))
    save(base / "Annotations/bear/00000.png", block({1: (2, 3)}), palette=True)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"data": {"init_args": {"val": youtube_vos("valid")}}}))
    assert main([str(config), f"--root={tmp_path}"]) == 1
    assert "00001.jpg: 00001.png has the same name; keep one of the two" in capsys.readouterr().out


def test_many_faults_are_counted_not_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = [block({1: (2, 3)}), *[block({1: (2, 3), 9: (12, 20)})] * 30]
    write_sequence(tmp_path / "set", "long", masks)
    (tmp_path / "set/ImageSets/2017").mkdir(parents=True)
    (tmp_path / "set/ImageSets/2017/val.txt").write_text("long")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"data": {"init_args": {"val": davis("val")}}}))
    assert main([str(config), f"--root={tmp_path}"]) == 1
    printed = capsys.readouterr().out
    assert printed.count("stray values 9") == 10
    assert "set val long: 20 more" in printed


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (None, "No such file"),
        ("trainer: {}", "no data.init_args in it"),
        (
            "data: {init_args: {val: {class_path: datamodules.DavisSet, init_args: {root: set, years: '2017'}}}}",
            "years",
        ),
        ("data: {init_args: {val: {root: set}}}", "class"),
        ("data: [", "no data.init_args in it"),
    ],
)
def test_configuration_that_cannot_be_read(
    text: str | None, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / "x.yaml").write_text(text)
    assert main([f"{tmp_path}/x.yaml"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert line in error


def test_no_such_folder_is_one_line(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(config), "--root", f"{tmp_path}/nowhere"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"error: {tmp_path}/nowhere: no such folder; set --root to where the data sets are\n"


def test_both_uses_of_a_set_are_checked() -> None:
    (words,) = commands("check-data", "DATA=youtube_vos", "DATA_ROOT=/sets")
    assert words == ["experiments/data/youtube_vos.yaml", "experiments/submission/youtube_vos.yaml", "--root=/sets"]
    for path in EXPERIMENTS.glob("submission/*.yaml"):
        (words,) = commands("check-data", f"DATA={path.stem}")
        assert words.count(f"experiments/submission/{path.name}") == 1
