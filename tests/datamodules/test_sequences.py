"""Videos as they are evaluated, and clips of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import SIZE, block, save, write_davis, write_sequence

from datamodules import DavisSet, VideoDataModule
from datamodules.images import read_image, read_labels
from datamodules.layouts import video_files
from datamodules.samplers import ClipKey
from datamodules.sequences import EvaluationSet, draw_times
from lightning_vos.types import VOID
from lightning_vos.video import Video


def evaluation(root: Path, short_side: int | None = None, **arguments: Any) -> EvaluationSet:
    return EvaluationSet(DavisSet("", **arguments).videos(root), short_side)


def test_davis_videos(tmp_path: Path) -> None:
    write_davis(tmp_path, {"val": ["cow", "ant"]}, ids=(3, 7))
    data = evaluation(tmp_path, split="val")
    assert (data.names, data.object_ids, data.max_objects, data.lengths) == (["cow", "ant"], [(3, 7)] * 2, 2, [6, 6])
    video = data[1]
    assert isinstance(video, Video)
    assert (video.index, video.name, video.size, video.object_ids, len(video)) == (1, "ant", SIZE, (3, 7), 6)
    assert list(video.frame_names) == [f"{t:05d}" for t in range(6)]
    stored = read_labels(tmp_path / "Annotations/480p/ant/00002.png")
    expected = np.select([stored == 3, stored == 7], [1, 2]).astype(np.uint8)
    target = video.target(2)
    assert target is not None
    assert target.dtype == torch.uint8
    assert np.array_equal(target, expected)
    assert list(video.prompts) == [0]
    assert torch.equal(video.prompts[0], video.target(0))
    frames = list(video)
    assert len(frames) == 6
    assert frames[3].shape == (3, *SIZE)
    assert np.array_equal(frames[3].permute(1, 2, 0), read_image(tmp_path / "JPEGImages/480p/ant/00003.jpg"))


def test_shrunk_frames_keep_their_targets(tmp_path: Path) -> None:
    write_davis(tmp_path, {"val": ["cow"]})
    video = evaluation(tmp_path, 12, split="val")[0]
    assert next(iter(video)).shape == (3, 12, 18)
    assert video.size == video.target(1).shape == video.prompts[0].shape == SIZE


def test_seventeen_objects(tmp_path: Path) -> None:
    labels = np.zeros(SIZE, dtype=np.uint8)
    labels[0, :17] = np.arange(1, 18)
    write_sequence(tmp_path, "herd", [labels, labels, labels])
    write_davis(tmp_path, {"val": []})
    (tmp_path / "ImageSets/2017/val.txt").write_text("herd\n", encoding="utf-8")
    data = evaluation(tmp_path, split="val")
    assert data.max_objects == 17
    assert np.array_equal(data[0].target(1), labels)


def test_stray_labels_are_named(tmp_path: Path) -> None:
    write_davis(tmp_path, {"val": ["cow"]})
    save(tmp_path / "Annotations/480p/cow/00002.png", block({1: (0, 0), 5: (9, 9), 9: (9, 20)}))
    video = evaluation(tmp_path, split="val")[0]
    video.target(1)
    with pytest.raises(
        ValueError, match=r"00002\.png: labels \[5, 9\] of video 'cow', frame 00002, .* objects \[1, 2\]"
    ):
        video.target(2)


def test_prompts_alone_are_no_ground_truth(tmp_path: Path) -> None:
    write_davis(tmp_path, {"val": ["cow"]})
    for t in range(1, 6):
        (tmp_path / f"Annotations/480p/cow/{t:05d}.png").unlink()
    video = evaluation(tmp_path, split="val")[0]
    assert [video.target(t) for t in range(6)] == [None] * 6
    assert video.prompts[0].max() == 2


# --- training clips --------------------------------------------------------------------------------------------------


def test_gaps_of_clips() -> None:
    rng = np.random.default_rng(0)
    gaps, firsts = set(), set()
    for _ in range(300):
        times = draw_times(range(40), 5, 6, rng)
        gaps.update(np.diff(times).tolist())
        firsts.add(times[0])
        assert 0 <= times[0] < times[-1] < 40
    assert gaps == set(range(1, 7))
    assert firsts == set(range(36))


def test_gaps_are_on_the_clock_of_the_original_video() -> None:
    rng = np.random.default_rng(0)
    clock = list(range(0, 200, 5))
    for max_skip, expected in ((3, {1}), (5, {1}), (14, {1, 2}), (15, {1, 2, 3})):
        steps = {int(step) for _ in range(100) for step in np.diff(draw_times(clock, 4, max_skip, rng))}
        assert steps == expected


@pytest.mark.parametrize(("count", "expected"), [(1, [0] * 6), (2, [0, 1, 0, 1, 0, 1]), (3, [0, 1, 2, 1, 0, 1])])
def test_short_videos_run_back_and_forth(count: int, expected: list[int]) -> None:
    assert draw_times(range(count), 6, 5, np.random.default_rng(0)) == expected


def test_given_first_frame() -> None:
    rng = np.random.default_rng(0)
    assert draw_times(range(10), 4, 1, rng, first=5) == [5, 6, 7, 8]
    assert draw_times(range(10), 4, 1, rng, first=8) == [8, 9, 8, 9]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the masks that are decoded, in order."""
    names: list[str] = []

    def read(path: Path) -> np.ndarray:
        names.append(path.name)
        return read_labels(path)

    monkeypatch.setattr(video_files, "read_labels", read)
    return names


def test_no_more_masks_are_decoded_than_needed(tmp_path: Path, opened: list[str]) -> None:
    write_davis(tmp_path, {"train": ["cow", "ant"], "val": ["bee"]})
    evaluation(tmp_path, split="val")
    assert opened == ["00000.png"]  # its objects
    opened.clear()
    clips = video_clips(tmp_path)
    assert opened == []
    clips[ClipKey(0, 1, 0)]
    assert len(opened) == len(set(opened)) == 3  # the first one once, though it is looked at to choose the clip
    opened.clear()
    video_clips(tmp_path, clip_length=12)[ClipKey(0, 1, 0)]
    assert len(opened) == len(set(opened)) < 12  # a short video is run back and forth


def video_clips(root: Path, clip_length: int = 3, crop: int = 32, **arguments: Any) -> Any:
    data = VideoDataModule(str(root), videos=[DavisSet("")], clip_length=clip_length, crop=crop, **arguments)
    data.setup("fit")
    return data.train_set


def test_clips_of_videos(tmp_path: Path) -> None:
    write_davis(tmp_path, {"train": ["cow", "ant"]}, ids=(3, VOID, 9))
    clips = video_clips(tmp_path)
    for seed in range(20):
        clip = clips[ClipKey(seed % 2, 2, seed)]
        assert clip.frames.shape == (3, 3, 32, 32)
        assert clip.masks.shape == (3, 32, 32)
        assert clip.frames.dtype == clip.masks.dtype == torch.uint8
        assert clip.frames.is_contiguous()
        assert 1 <= clip.num_objects <= 2
        assert set(clip.masks[0].unique().tolist()) | {0} == set(range(clip.num_objects + 1))
        assert clip.masks.max() <= clip.num_objects  # void became background
    assert torch.equal(clips[ClipKey(1, 2, 5)].frames, clips[ClipKey(1, 2, 5)].frames)
    assert video_clips(tmp_path, max_objects=1)[ClipKey(0, 2, 0)].num_objects == 1


def test_clips_run_both_ways(tmp_path: Path) -> None:
    for t in range(8):
        save(tmp_path / f"JPEGImages/480p/ramp/{t:05d}.jpg", np.full((*SIZE, 3), 20 * t + 20, dtype=np.uint8))
        save(tmp_path / f"Annotations/480p/ramp/{t:05d}.png", np.ones(SIZE, dtype=np.uint8))
    write_davis(tmp_path, {"train": []})
    (tmp_path / "ImageSets/2017/train.txt").write_text("ramp\n", encoding="utf-8")
    clips = video_clips(tmp_path)
    rising = 0
    for seed in range(60):
        light = clips[ClipKey(0, 3, seed)].frames[:, :, 16, 16].float().mean(1).diff()
        assert (light > 0).all() or (light < 0).all()
        rising += bool(light[0] > 0)
    assert 15 < rising < 45


def test_clips_start_where_an_object_is(tmp_path: Path) -> None:
    empty = np.zeros(SIZE, dtype=np.uint8)
    write_sequence(tmp_path, "late", [empty] * 9 + [block({2: (10, 20)})] + [empty] * 2)
    write_sequence(tmp_path, "never", [empty] * 3)
    write_davis(tmp_path, {"train": []})
    (tmp_path / "ImageSets/2017/train.txt").write_text("late\nnever\n", encoding="utf-8")
    clips = video_clips(tmp_path)
    for seed in range(30):
        clip = clips[ClipKey(0, 3, seed)]
        assert (clip.masks[0] == 1).any()
    with pytest.raises(ValueError, match=r"never: no mask shows an object; remove the sequence"):
        clips[ClipKey(1, 3, 0)]
