"""Stage one: clips of still images."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from conftest import SHARED
from data_files import write_davis, write_static

from datamodules import DavisSet, ImageSet, StaticDataModule
from datamodules.samplers import ClipKey


def test_stage_one_warns_of_videos_that_stage_two_will_refuse(tmp_path: Path) -> None:
    write_static(tmp_path / "s")
    write_davis(tmp_path / "DAVIS", {"train": ["cow"]})
    sets = {"images": [ImageSet("s")], "videos": [DavisSet("DAVIS")]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        StaticDataModule(str(tmp_path), **sets).setup("fit")
    next((tmp_path / "DAVIS/JPEGImages").rglob("*.jpg")).unlink()
    with pytest.warns(UserWarning, match=r"stage two will refuse its videos: .*a mask without a frame"):
        StaticDataModule(str(tmp_path), **sets).setup("fit")


def test_static_clips(tmp_path: Path) -> None:
    write_static(tmp_path / "s")
    data = StaticDataModule(str(tmp_path), images=[ImageSet("s", repeat=3), ImageSet("s")], crop=32)
    data.setup("fit")
    assert data.train_set is not None
    assert len(data.train_set) == 20  # type: ignore[arg-type]
    clip = data.train_set[ClipKey(3, 1, 9)]
    assert clip.frames.shape == (3, 3, 32, 32)
    assert clip.num_objects == 1
    assert clip.masks[0].any()
    assert not torch.equal(clip.frames[0], clip.frames[1])
    indices = [still.image.stem for still in data.train_set.stills]  # type: ignore[attr-defined]
    assert sorted(indices) == sorted("01234" * 4)


# --- real data -------------------------------------------------------------------------------------------------------

real = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the shared real data is not beside the project")


@real
def test_real_stills() -> None:
    sets = [ImageSet("static/horses"), ImageSet("static/coco128", annotations="instances.json")]
    data = StaticDataModule(str(SHARED / "data"), images=sets, crop=64, clip_length=2)
    data.setup("fit")
    assert data.train_set is not None
    count = len(data.train_set)  # type: ignore[arg-type]
    assert 328 < count < 328 + 929
    for index in range(0, count, 31):
        assert data.train_set[ClipKey(index, 1, index)].masks[0].any()
