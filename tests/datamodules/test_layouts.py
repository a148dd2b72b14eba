"""A layout of one's own: one file anywhere, named by its class path, for training, validation and the check of data."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_files import SIZE, block, picture, save
from tiny_runs import commands, small_model, started, tiny, training

from datamodules.check import main as check
from datamodules.layouts import SequenceSet

# Frames and masks of a video lie side by side; object 5 starts on the second frame, whatever the first mask shows.
SIDE_BY_SIDE = '''
from functools import partial

from datamodules.layouts import SequenceSet, VideoFiles


class SideBySideSet(SequenceSet):
    """Frames and masks in one folder."""

    def __init__(self, root: str, suffix: str, split: str = "train", **kwargs) -> None:
        super().__init__(root, split, **kwargs)
        self.suffix = suffix

    def find(self, root, dense):
        return {folder.name: partial(self.read, folder) for folder in sorted((root / self.split).iterdir())}

    def read(self, folder):
        frames = tuple(sorted(folder.glob(f"*{self.suffix}")))
        return VideoFiles(folder.name, frames, {t: f.with_suffix(".png") for t, f in enumerate(frames)}, {1: [5]})
'''
CONFIG = """
data:
  init_args:
    videos:
      - {class_path: side_by_side.SideBySideSet, init_args: {root: own, suffix: .jpg, repeat: 3}}
    val: {class_path: side_by_side.SideBySideSet, init_args: {root: own, suffix: .jpeg, split: nowhere}}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "side_by_side.py").write_text(SIDE_BY_SIDE)
    monkeypatch.syspath_prepend(tmp_path)
    for split, names in {"train": ["ant", "bee"], "val": ["cow"]}.items():
        for name in names:
            for t in range(4):
                save(tmp_path / f"data/own/{split}/{name}/{t}.jpg", picture(t))
                save(tmp_path / f"data/own/{split}/{name}/{t}.png", block({5: (2 + t, 3)}))
    path = tmp_path / "own.yaml"
    path.write_text(CONFIG)
    return path


def test_a_layout_outside_the_repository(config: Path, tmp_path: Path) -> None:
    (command,) = commands("video", "METHOD=remn", "DATA=demo", f"ARGS=--config={config}")
    options = ["--data.val.split=val", "--data.val.suffix=.jpg", "--trainer.callbacks=null", "--ckpt_path=null"]
    args = [*command, *small_model("remn"), *tiny(tmp_path / "data", tmp_path / "run"), *training(), *options]
    data = started([*args, "--trainer.enable_checkpointing=false"])[0].datamodule
    assert [video.name for video in data.train_set.videos] == ["ant", "bee"] * 3
    assert (data.val_set.names, data.val_set.object_ids, data.val_set.lengths) == (["cow"], [(5,)], [4])
    video = data.val_set[0]
    assert (list(video.prompts), video.size) == ([1], SIZE)


def test_its_data_can_be_checked(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(CONFIG.replace("nowhere", "val").replace(".jpeg", ".jpg"))
    assert check([str(config), f"--root={tmp_path}/data"]) == 0
    save(tmp_path / "data/own/val/cow/3.png", block({5: (2, 3), 9: (12, 20)}))
    assert check([str(config), f"--root={tmp_path}/data"]) == 1
    assert "3.png: stray values 9, the objects are 5; correct the mask" in capsys.readouterr().out


def test_an_empty_split_and_a_set_that_is_never_seen(tmp_path: Path) -> None:
    class Nothing(SequenceSet):
        def find(self, root: Path, dense: bool) -> dict:
            return {}

    with pytest.raises(ValueError, match=r"nothing: split 'val' is empty; check its list or folder"):
        Nothing("nothing", split="val").videos(tmp_path)
    with pytest.raises(ValueError, match=r"videos 'nothing': repeat=0 must be at least 1; leave the set out"):
        Nothing("nothing", repeat=0)
