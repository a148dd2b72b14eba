"""Stage two: clips of videos, mixed with still images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from data_files import write_davis, write_static

from datamodules import DavisSet, ImageSet, VideoDataModule
from datamodules.samplers import ClipKey


def video_clips(root: Path, clip_length: int = 3, crop: int = 32, **arguments: Any) -> Any:
    data = VideoDataModule(str(root), videos=[DavisSet("")], clip_length=clip_length, crop=crop, **arguments)
    data.setup("fit")
    return data.train_set


def test_clips_of_videos_mixed_with_stills(tmp_path: Path) -> None:
    write_davis(tmp_path, {"train": ["cow", "ant"]})
    write_static(tmp_path / "s")
    alone = video_clips(tmp_path)
    mixed = video_clips(tmp_path, images=[ImageSet("s", repeat=2)], stills=0.4)
    assert len(mixed) == len(alone)
    keys = [ClipKey(seed % 2, 2, seed) for seed in range(60)]
    same = [torch.equal(mixed[key].frames, alone[key].frames) for key in keys]
    assert 26 < sum(same) < 46  # the others stay what they are without stills
    for key, kept in zip(keys, same, strict=True):
        stills = [mixed.others[key._replace(index=index)].frames for index in range(10)]
        assert kept is not any(torch.equal(mixed[key].frames, still) for still in stills)
    with pytest.raises(ValueError, match=r"data\.stills=1\.0 must be at least 0 and below 1"):
        video_clips(tmp_path, stills=1.0)
    with pytest.raises(ValueError, match=r"data\.images is empty"):
        video_clips(tmp_path, stills=0.5)
