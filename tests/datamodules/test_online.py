"""First-frame training: what is seen of the evaluation videos, and what the stage changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from data_files import SIZE, Unchanged, block, picture, save, write_davis, write_sequence, write_static
from tiny_runs import commands, small_model, started, tiny, training, write_tiny_demo

from datamodules import DavisSet, ImageSet, OnlineDataModule, YouTubeVOSSet
from datamodules.images import read_image
from datamodules.layouts import VideoFiles
from datamodules.pictures import Pictures
from datamodules.samplers import ClipKey
from datamodules.video import MixedClips

pytestmark = pytest.mark.slow

CROP = 24


def write_growing(root: Path) -> VideoFiles:
    """Object 4 starts on frame 0, object 1 on frame 2; every mask but one shows all that are there."""
    both = block({1: (2, 3), 4: (10, 20)})
    write_sequence(root / "valid", "0a1b", [block({4: (10, 20)}), None, both, both], resolution="")
    (video,) = YouTubeVOSSet("", split="valid").videos(root)
    return video


def test_only_starting_objects_on_their_first_frames_are_given(tmp_path: Path) -> None:
    given = write_growing(tmp_path).given()
    assert sorted(given.masks) == [0, 2]
    assert [given.ids(t) for t in (0, 2)] == [[4], [1]]  # object 4 is to be seen on frame 2, but not given there
    assert given.starting_ids() == {0: [4], 2: [1]}


def test_davis_gives_the_first_frame(tmp_path: Path) -> None:
    write_davis(tmp_path, {"val": ["cow"]}, ids=(3, 7))
    (video,) = DavisSet("", split="val").videos(tmp_path)
    assert (sorted(video.given().masks), video.given().ids(0)) == ([0], [3, 7])


def test_clips_never_show_another_frame(tmp_path: Path) -> None:
    write_growing(tmp_path)
    data = OnlineDataModule(str(tmp_path), val=YouTubeVOSSet("", split="valid"), crop=CROP, clip_length=3, replay=0)
    data.setup("fit")
    clips = data.train_set
    assert isinstance(clips, Pictures)
    assert len(clips) == 2
    clips.transform = Unchanged(CROP)
    frames = [save(tmp_path / f"{t}.jpg", picture(t)) for t in (0, 2)]  # as they are written
    for index, path in enumerate(frames):
        clip = clips[ClipKey(index, 1, seed=index)]
        assert clip.frames.shape == (3, 3, *SIZE)
        stored = torch.from_numpy(read_image(path)).permute(2, 0, 1)
        assert all(torch.equal(frame, stored) for frame in clip.frames)
        assert clip.num_objects == 1
        assert all(int(mask.sum()) == 64 for mask in clip.masks)


def test_replay_keeps_a_share_of_what_was_known(tmp_path: Path) -> None:
    write_davis(tmp_path, {"val": ["cow", "ant"]})
    write_static(tmp_path / "s")
    arguments = {"val": DavisSet("", split="val"), "images": [ImageSet("s")], "crop": CROP}
    data = OnlineDataModule(str(tmp_path), replay=0.3, **arguments)
    data.setup("fit")
    mixed = data.train_set
    assert isinstance(mixed, MixedClips)
    assert len(mixed) == 2
    keys = [ClipKey(seed % 2, 1, seed) for seed in range(60)]
    same = [torch.equal(mixed[key].frames, mixed.main[key].frames) for key in keys]
    assert 30 < sum(same) < 54


def test_errors(tmp_path: Path) -> None:
    write_davis(tmp_path, {"val": ["cow"]})
    with pytest.raises(ValueError, match=r"data\.val is not set: first-frame training is on the videos"):
        OnlineDataModule(str(tmp_path)).setup("fit")
    with pytest.raises(ValueError, match=r"data\.replay=0\.25: data\.images and data\.videos are empty"):
        OnlineDataModule(str(tmp_path), val=DavisSet("", split="val")).setup("fit")
    for share in (-0.1, 1.0):
        with pytest.raises(ValueError, match=rf"data\.replay={share} must be at least 0 and below 1"):
            OnlineDataModule(str(tmp_path), replay=share)
    with pytest.raises(ValueError, match="METHOD=remn: choose from dmm_net"):
        commands("online", "METHOD=remn")


def test_the_stage_trains_the_detector_and_nothing_else(tmp_path: Path) -> None:
    demo = write_tiny_demo(tmp_path / "data")
    method = ["METHOD=dmm_net", "DATA=demo", "RECIPE="]
    (command,) = commands("video", *method)
    started([*command, *small_model("dmm_net"), *tiny(demo, tmp_path / "video"), *training()])
    before = tmp_path / "video/checkpoints/last.ckpt"
    (command,) = commands("online", *method, f"WEIGHTS={before}")
    args = [*command, *small_model("dmm_net"), *tiny(demo, tmp_path / "online"), "--data.batch_size=2"]
    cli, printed = started([*args, "--model.lr=1e-2"])
    old, new = (
        torch.load(tmp_path / stage / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for stage in ("video", "online")
    )
    changed = {name.split(".")[0] for name in old if not torch.equal(old[name], new[name])}
    assert changed == {"detector"}
    assert cli.model.refinement  # the result is still what the decoder makes of it
    assert "J&F" in printed.splitlines()[-1]
