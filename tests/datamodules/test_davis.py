"""Where DAVIS lies, which of its files belong together, and what its years mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SHARED
from data_files import block, save, write_davis

from datamodules import DavisSet, VideoDataModule
from datamodules.images import read_labels
from datamodules.samplers import ClipKey
from datamodules.sequences import EvaluationSet
from lightning_vos.types import VOID


def evaluation(root: Path, short_side: int | None = None, **arguments: Any) -> EvaluationSet:
    return EvaluationSet(DavisSet("", **arguments).videos(root), short_side)


@pytest.mark.parametrize("base", [".", "DAVIS", "DAVIS/2017", "DAVIS/2017/trainval", "datasets/DAVIS"])
def test_davis_is_found_in_every_convention(tmp_path: Path, base: str) -> None:
    write_davis(tmp_path / base, {"train": ["cow", "ant"], "val": ["bee"]})
    videos = DavisSet(".", split="train").videos(tmp_path)
    assert [video.name for video in videos] == ["cow", "ant"]  # the order of the list
    assert [frame.name for frame in videos[0].frames] == [f"{t:05d}.jpg" for t in range(6)]
    assert sorted(videos[0].masks) == list(range(6))
    assert [video.name for video in DavisSet(".", split="val").videos(tmp_path)] == ["bee"]


def test_davis_splits_in_separate_trees_and_2016_of_the_2017_archive(tmp_path: Path) -> None:
    write_davis(tmp_path / "DAVIS/2017/trainval", {"val": ["bee"]})
    (tmp_path / "DAVIS/2017/trainval/ImageSets/2016").mkdir()
    (tmp_path / "DAVIS/2017/trainval/ImageSets/2016/val.txt").write_text("bee\n", encoding="utf-8")
    write_davis(tmp_path / "DAVIS/2017/test-dev", {"test-dev": ["ant"]})
    assert DavisSet("", split="test-dev").videos(tmp_path)[0].name == "ant"
    video = DavisSet("", split="val", year="2016").videos(tmp_path)[0]
    assert video.ids(0) == [1]  # ids 1 and 2 are one object in 2016


def test_davis_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder JPEGImages/480p in any of .*x, .*x/DAVIS, .*--data\.root"):
        DavisSet("x").videos(tmp_path)
    write_davis(tmp_path / "x", {"train": ["cow"], "val": ["bee"]})
    with pytest.raises(
        FileNotFoundError, match=r"ImageSets/2017/trian\.txt: no such list; .*: train, val; correct split"
    ):
        DavisSet("x", split="trian").videos(tmp_path)
    (tmp_path / "x/ImageSets/2017/none.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"split 'none' is empty"):
        DavisSet("x", split="none").videos(tmp_path)
    (tmp_path / "x/ImageSets/2017/more.txt").write_text("cow\nelk\n", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"480p/elk: no such sequence"):
        DavisSet("x", split="more").videos(tmp_path)
    with pytest.raises(ValueError, match=r"repeat=0 must be at least 1"):
        DavisSet("x", repeat=0)


def test_frames_and_masks_must_fit_together(tmp_path: Path) -> None:
    base = write_davis(tmp_path, {"train": ["cow"]})
    masks = base / "Annotations/480p/cow"
    (masks / "00004.png").unlink()
    for dense in (True, False):
        with pytest.raises(ValueError, match=r"cow: 5 masks for 6 frames \(none for 00004\)"):
            DavisSet("").videos(tmp_path, dense)
    for t in (1, 2, 3, 5):
        (masks / f"{t:05d}.png").unlink()
    assert sorted(DavisSet("").videos(tmp_path)[0].masks) == [0]  # test-dev: only the first
    with pytest.raises(ValueError, match=r"1 masks for 6 frames"):
        DavisSet("").videos(tmp_path, dense=True)
    save(masks / "00077.png", block({1: (0, 0)}))
    with pytest.raises(ValueError, match=r"00077\.png: a mask without a frame"):
        DavisSet("").videos(tmp_path)


def test_void_is_255_in_2017_and_the_object_in_2016(tmp_path: Path) -> None:
    base = write_davis(tmp_path, {"val": ["cow"]}, ids=(1, VOID))
    (base / "ImageSets/2016").mkdir()
    (base / "ImageSets/2016/val.txt").write_text("cow\n", encoding="utf-8")
    stored = read_labels(tmp_path / "Annotations/480p/cow/00001.png")
    video = evaluation(tmp_path, split="val")[0]
    assert video.object_ids == (1,)
    assert np.array_equal(video.target(1), stored)
    assert set(video.prompts[0].unique().tolist()) == {0, 1}
    for arguments in ({"year": "2016"}, {"single_object": True}):
        video = evaluation(tmp_path, split="val", **arguments)[0]
        assert video.object_ids == (1,)
        assert np.array_equal(video.target(1), stored > 0)


def test_first_mask_without_object(tmp_path: Path) -> None:
    write_davis(tmp_path, {"val": ["cow"]}, ids=(VOID,))
    with pytest.raises(ValueError, match=r"00000\.png: no object to follow in video 'cow' .* single_object: true"):
        evaluation(tmp_path, split="val")


# --- real data -------------------------------------------------------------------------------------------------------

real = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the shared real data is not beside the project")


@real
def test_real_davis() -> None:
    data = VideoDataModule(
        str(SHARED / "data"),
        videos=[DavisSet("davis2016", year="2016", resolution="240p")],
        val=DavisSet("davis2017_multi", split="val", resolution="240p"),
        crop=64,
        clip_length=3,
    )
    data.setup("fit")
    assert data.train_set is not None
    assert data.val_set is not None
    assert len(data.train_set) == 30  # type: ignore[arg-type]
    assert data.val_set.object_ids == [(1, 2, 3, 4, 5, 6, 7)]
    for index in range(30):
        clip = data.train_set[ClipKey(index, 10, index)]
        assert clip.num_objects == 1
        assert clip.masks[0].any()
