"""Finding, checking and loading data; the data modules under a real trainer."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import SIZE, block, picture, save, write_coco, write_davis, write_sequence, write_static
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image

from datamodules import ImageSet, SequenceSet, StaticDataModule, VideoDataModule
from datamodules.images import image_size, read_image, read_labels, resize_labels
from datamodules.samplers import ClipKey
from datamodules.sequences import EvaluationSet, draw_times
from lightning_vos.types import VOID, ClipBatch
from lightning_vos.video import Video

SHARED = Path(__file__).resolve().parents[2] / "shared"


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "RGBA"])
def test_pictures_of_every_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.fromarray(picture(0)).convert(mode).save(path)
    image = read_image(path)
    assert image.shape == (*SIZE, 3)
    assert image.dtype == np.uint8
    if mode == "RGB":
        assert np.array_equal(image, picture(0))
    if mode == "L":
        assert (image[..., 0] == image[..., 2]).all()


def test_orientation_tags_are_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.fromarray(picture(0)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape[:2] == image_size(tmp_path / "a.jpg") == SIZE


@pytest.mark.parametrize(("limit", "expected"), [(None, (240, 400)), (300, (240, 400)), (60, (60, 100)), (7, (7, 12))])
def test_shrunk_pictures_keep_their_shape(tmp_path: Path, limit: int | None, expected: tuple[int, int]) -> None:
    big = np.asarray(Image.fromarray(picture(3)).resize((400, 240), Image.Resampling.BICUBIC))
    save(tmp_path / "a.jpg", big)
    small = read_image(tmp_path / "a.jpg", limit)
    assert small.shape[:2] == expected
    reference = Image.fromarray(big).resize(expected[::-1], Image.Resampling.BOX)
    assert np.abs(small.astype(int) - np.asarray(reference).astype(int)).mean() < 5


def test_labels_are_read_as_stored(tmp_path: Path) -> None:
    labels = block({1: (0, 0), 2: (9, 9), 255: (12, 22)})
    assert np.array_equal(read_labels(save(tmp_path / "p.png", labels, palette=True)), labels)
    assert np.array_equal(read_labels(save(tmp_path / "l.png", labels)), labels)
    assert np.array_equal(read_labels(save(tmp_path / "grey.png", np.stack([labels] * 3, -1))), labels)
    assert np.array_equal(read_labels(save(tmp_path / "bit.png", labels > 0)), labels > 0)


def test_coloured_and_deep_masks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.png: a mask of mode RGB; labels must be an 8-bit grey or palette PNG"):
        read_labels(save(tmp_path / "a.png", picture(0)))
    with pytest.raises(ValueError, match=r"b\.png: a mask of mode I;16"):
        read_labels(save(tmp_path / "b.png", np.ones(SIZE, dtype=np.uint16)))


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", picture(0, (200, 300)))
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"a\.jpg: not a readable image .*; replace the file"):
        read_image(path)
    (tmp_path / "b.png").write_text("no image", encoding="utf-8")
    with pytest.raises(ValueError, match=r"b\.png: not a readable image"):
        read_labels(tmp_path / "b.png")
    with pytest.raises(FileNotFoundError, match=r"c\.jpg: no such file"):
        read_image(tmp_path / "c.jpg")


def test_nearest_labels_use_pixel_centres() -> None:
    labels = np.arange(12, dtype=np.uint8).reshape(2, 6)
    assert resize_labels(labels, (1, 2)).tolist() == [[7, 10]]
    assert resize_labels(labels, (4, 6))[::2].tolist() == labels.tolist()
    assert resize_labels(labels, (2, 6)) is labels


# --- still images ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("foreground", [1, 38, 255])
def test_foreground_of_folders(tmp_path: Path, foreground: int) -> None:
    write_static(tmp_path / "s", foreground=foreground)
    if foreground == 255:  # soft edges do not count
        soft = read_labels(tmp_path / "s/masks/0.png")
        soft[0, 0], soft[0, 1] = 127, 128
        save(tmp_path / "s/masks/0.png", soft)
    stills = ImageSet("s").stills(tmp_path)
    assert [still.image.stem for still in stills] == ["0", "1", "2", "3", "4"]
    _, mask = stills[0].read()
    assert mask.sum() == 64 + (foreground == 255)
    assert set(np.unique(mask)) == {0, 1}


def test_pictures_and_masks_in_one_tree(tmp_path: Path) -> None:
    for name in ("cup/1", "cup/2", "dog/1"):
        save(tmp_path / f"FSS/{name}.jpg", picture(0))
        save(tmp_path / f"FSS/{name}.png", block({255: (3, 3)}))
    stills = ImageSet("FSS", images=".", masks=".").stills(tmp_path)
    assert [still.mask.relative_to(tmp_path).as_posix() for still in stills] == [
        "FSS/cup/1.png",
        "FSS/cup/2.png",
        "FSS/dog/1.png",
    ]


def test_coco_instances(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_coco(tmp_path / "coco")
    stills = ImageSet("coco", annotations="instances.json").stills(tmp_path)
    assert capsys.readouterr().out == ""
    assert len(stills) == 2  # neither the crowd nor the one of 15 of 2000 pixels
    expected = np.zeros((40, 50), dtype=np.uint8)
    expected[10:20, 5:25] = 1
    frame, mask = stills[0].read()
    assert np.array_equal(mask, expected)
    assert frame.shape == (40, 50, 3)
    assert stills[1].read()[1].sum() == 500  # both polygons of one instance
    assert len(ImageSet("coco", annotations="instances.json", min_area=0).stills(tmp_path)) == 3


def test_errors_of_image_sets(tmp_path: Path) -> None:
    base = write_static(tmp_path / "s")
    (base / "masks/3.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 5 pictures have no mask in .*masks \(first: 3\)"):
        ImageSet("s").stills(tmp_path)
    (base / "images/3.jpg").unlink()
    (base / "images/4.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 of 4 masks have no picture"):
        ImageSet("s").stills(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere/images: no such folder; set DATA_ROOT or --data\.root"):
        ImageSet("nowhere").stills(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"x\.json: no such annotation file"):
        ImageSet("s", annotations="x.json").stills(tmp_path)
    (tmp_path / "empty/images").mkdir(parents=True)
    (tmp_path / "empty/masks").mkdir()
    with pytest.raises(ValueError, match=r"empty: no sample in this image set"):
        ImageSet("empty").stills(tmp_path)
    save(base / "images/0.png", picture(0))
    with pytest.raises(ValueError, match=r"has the same name; keep one of the two"):
        ImageSet("s").stills(tmp_path)
    with pytest.raises(ValueError, match=r"repeat=0 must be at least 1"):
        ImageSet("s", repeat=0)


def test_stage_one_warns_of_videos_that_stage_two_will_refuse(tmp_path: Path) -> None:
    write_static(tmp_path / "s")
    write_davis(tmp_path / "DAVIS", {"train": ["cow"]})
    sets = {"images": [ImageSet("s")], "videos": [SequenceSet("DAVIS")]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        StaticDataModule(str(tmp_path), **sets).setup("fit")
    next((tmp_path / "DAVIS/JPEGImages").rglob("*.jpg")).unlink()
    with pytest.warns(UserWarning, match=r"stage two will refuse its videos: .*a mask without a frame"):
        StaticDataModule(str(tmp_path), **sets).setup("fit")


def test_still_of_another_size_or_without_object(tmp_path: Path) -> None:
    write_static(tmp_path / "s")
    save(tmp_path / "s/masks/2.png", np.zeros((24, 30), dtype=np.uint8))
    save(tmp_path / "s/masks/1.png", np.zeros(SIZE, dtype=np.uint8))
    data = StaticDataModule(str(tmp_path), images=[ImageSet("s")])
    with pytest.raises(ValueError, match=r"2\.jpg is 24x36 but .*2\.png is 24x30 \(height x width\); make them equal"):
        data.setup("fit")
    with pytest.raises(ValueError, match=r"1\.png: the mask is empty; remove it"):
        ImageSet("s").stills(tmp_path)[1].read()


# --- where sequences are ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [".", "DAVIS", "DAVIS/2017", "DAVIS/2017/trainval", "datasets/DAVIS"])
def test_davis_is_found_in_every_convention(tmp_path: Path, base: str) -> None:
    write_davis(tmp_path / base, {"train": ["cow", "ant"], "val": ["bee"]})
    videos = SequenceSet(".", split="train").videos(tmp_path)
    assert [video.name for video in videos] == ["cow", "ant"]  # the order of the list
    assert [frame.name for frame in videos[0].frames] == [f"{t:05d}.jpg" for t in range(6)]
    assert sorted(videos[0].masks) == list(range(6))
    assert [video.name for video in SequenceSet(".", split="val").videos(tmp_path)] == ["bee"]


def test_davis_splits_in_separate_trees_and_2016_of_the_2017_archive(tmp_path: Path) -> None:
    write_davis(tmp_path / "DAVIS/2017/trainval", {"val": ["bee"]})
    (tmp_path / "DAVIS/2017/trainval/ImageSets/2016").mkdir()
    (tmp_path / "DAVIS/2017/trainval/ImageSets/2016/val.txt").write_text("bee\n", encoding="utf-8")
    write_davis(tmp_path / "DAVIS/2017/test-dev", {"test-dev": ["ant"]})
    assert SequenceSet("", split="test-dev").videos(tmp_path)[0].name == "ant"
    video = SequenceSet("", split="val", year="2016").videos(tmp_path)[0]
    assert video.ids(0) == [1]  # ids 1 and 2 are one object in 2016


def test_davis_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder JPEGImages/480p in any of .*x, .*x/DAVIS, .*DATA_ROOT"):
        SequenceSet("x").videos(tmp_path)
    write_davis(tmp_path / "x", {"train": ["cow"], "val": ["bee"]})
    with pytest.raises(
        FileNotFoundError, match=r"ImageSets/2017/trian\.txt: no such list; .*: train, val; correct split"
    ):
        SequenceSet("x", split="trian").videos(tmp_path)
    (tmp_path / "x/ImageSets/2017/none.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"split 'none' is empty"):
        SequenceSet("x", split="none").videos(tmp_path)
    (tmp_path / "x/ImageSets/2017/more.txt").write_text("cow\nelk\n", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"480p/elk: no such sequence"):
        SequenceSet("x", split="more").videos(tmp_path)
    with pytest.raises(ValueError, match=r"repeat=0 must be at least 1"):
        SequenceSet("x", repeat=0)


def test_frames_and_masks_must_fit_together(tmp_path: Path) -> None:
    base = write_davis(tmp_path, {"train": ["cow"]})
    masks = base / "Annotations/480p/cow"
    (masks / "00004.png").unlink()
    for dense in (True, False):
        with pytest.raises(ValueError, match=r"cow: 5 masks for 6 frames \(none for 00004\)"):
            SequenceSet("").videos(tmp_path, dense)
    for t in (1, 2, 3, 5):
        (masks / f"{t:05d}.png").unlink()
    assert sorted(SequenceSet("").videos(tmp_path)[0].masks) == [0]  # test-dev: only the first
    with pytest.raises(ValueError, match=r"1 masks for 6 frames"):
        SequenceSet("").videos(tmp_path, dense=True)
    save(masks / "00077.png", block({1: (0, 0)}))
    with pytest.raises(ValueError, match=r"00077\.png: a mask without a frame"):
        SequenceSet("").videos(tmp_path)


def test_sizes_are_checked_in_every_file(tmp_path: Path) -> None:
    base = write_davis(tmp_path, {"train": ["cow"]})
    save(base / "Annotations/480p/cow/00003.png", block({1: (0, 0)}, (24, 40)))
    data = VideoDataModule(str(tmp_path), videos=[SequenceSet("")])
    with pytest.raises(ValueError, match=r"00003\.png is 24x40 but .*00000\.jpg is 24x36 \(height x width\)"):
        data.setup("fit")


# --- evaluation ------------------------------------------------------------------------------------------------------


def evaluation(root: Path, short_side: int | None = None, **arguments: Any) -> EvaluationSet:
    return EvaluationSet(SequenceSet("", **arguments).videos(root), short_side)


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


def test_seventeen_objects(tmp_path: Path) -> None:
    labels = np.zeros(SIZE, dtype=np.uint8)
    labels[0, :17] = np.arange(1, 18)
    write_sequence(tmp_path, "herd", [labels, labels, labels])
    write_davis(tmp_path, {"val": []})
    (tmp_path / "ImageSets/2017/val.txt").write_text("herd\n", encoding="utf-8")
    data = evaluation(tmp_path, split="val")
    assert data.max_objects == 17
    assert np.array_equal(data[0].target(1), labels)


def test_first_mask_without_object(tmp_path: Path) -> None:
    write_davis(tmp_path, {"val": ["cow"]}, ids=(VOID,))
    with pytest.raises(ValueError, match=r"00000\.png: no object to follow in video 'cow' .* year: '2016'"):
        evaluation(tmp_path, split="val")


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


STEMS = [f"{5 * t:05d}" for t in range(6)]


def write_youtube(
    root: Path, split: str, masks: Sequence[np.ndarray | None], meta: dict[str, list[str]] | None
) -> Path:
    base = root / split
    write_sequence(base, "0a1b", masks, resolution="", stems=STEMS)
    if meta is not None:
        objects = {id_: {"category": "ape", "frames": frames} for id_, frames in meta.items()}
        (base / "meta.json").write_text(json.dumps({"videos": {"0a1b": {"objects": objects}}}), encoding="utf-8")
    return base


def test_youtube_vos_objects_start_later(tmp_path: Path) -> None:
    both = block({1: (2, 3), 4: (10, 20)})
    masks = [block({4: (10, 20)}), None, both, None, both, None]
    write_youtube(tmp_path, "valid", masks, {"1": STEMS[2:], "4": STEMS})
    data = evaluation(tmp_path, split="valid", layout="youtube_vos")
    assert data.object_ids == [(4, 1)]  # in the order in which they start
    video = data[0]
    assert {t: prompt.unique().tolist() for t, prompt in video.prompts.items()} == {0: [0, 1], 2: [0, 2]}
    assert np.array_equal(video.prompts[2] == 2, both == 1)
    assert [video.target(t) is None for t in range(6)] == [False, True, False, True, False, True]
    assert np.array_equal(video.target(4), np.select([both == 4, both == 1], [1, 2]))
    assert list(video.frame_names) == STEMS


def test_youtube_vos_without_meta_starts_where_an_id_is_first_seen(tmp_path: Path) -> None:
    both = block({1: (2, 3), 4: (10, 20)})
    write_youtube(tmp_path, "valid", [block({4: (10, 20)}), None, both, None, None, None], None)
    video = evaluation(tmp_path, split="valid", layout="youtube_vos")[0]
    assert video.object_ids == (4, 1)
    assert sorted(video.prompts) == [0, 2]
    assert [video.target(t) for t in range(6)] == [None] * 6  # the official valid split: no ground truth


@pytest.mark.parametrize("folder", ["valid_all_frames", "all_frames/valid_all_frames"])
def test_youtube_vos_all_frames_take_masks_and_meta_of_valid(tmp_path: Path, folder: str) -> None:
    first = [block({4: (10, 20)})]
    for t in range(26):
        save(tmp_path / folder / f"JPEGImages/0a1b/{t:05d}.jpg", picture(t))
    write_youtube(tmp_path, "valid", first + [None] * 5, {"4": STEMS})
    (video,) = SequenceSet("", split="valid_all_frames", layout="youtube_vos").videos(tmp_path)
    assert len(video.frames) == 26
    assert video.starts == {4: 0}


def test_errors_of_youtube_vos(tmp_path: Path) -> None:
    arguments = {"split": "valid", "layout": "youtube_vos"}
    with pytest.raises(FileNotFoundError, match=r"no folder JPEGImages in any of .*valid"):
        evaluation(tmp_path, **arguments)
    base = write_youtube(tmp_path, "valid", [block({4: (10, 20)})] + [None] * 5, {"4": ["00002"]})
    with pytest.raises(ValueError, match=r"meta\.json: object 4 starts on 00002, not a frame"):
        evaluation(tmp_path, **arguments)
    write_youtube(tmp_path, "valid", [block({4: (10, 20)})] + [None] * 5, {"4": STEMS[1:]})
    with pytest.raises(
        ValueError, match=r"00005\.jpg: object 4 of video '0a1b' starts here, but the frame has no mask"
    ):
        evaluation(tmp_path, **arguments)
    write_youtube(tmp_path, "valid", [block({4: (10, 20)})] + [None] * 5, {"4": STEMS, "2": STEMS})
    with pytest.raises(ValueError, match=r"00000\.png: object 2 of video '0a1b' should start here"):
        evaluation(tmp_path, **arguments)[0]
    (base / "Annotations/0a1b/00000.png").unlink()
    with pytest.raises(ValueError, match=r"Annotations/0a1b: no mask"):
        evaluation(tmp_path, **arguments)


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


def video_clips(root: Path, clip_length: int = 3, crop: int = 32, **arguments: Any) -> Any:
    data = VideoDataModule(str(root), videos=[SequenceSet("")], clip_length=clip_length, crop=crop, **arguments)
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


# --- under a trainer -------------------------------------------------------------------------------------------------


class Recorder(LightningModule):
    """Remembers what it is shown, and has a weight that depends on it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))
        self.batches: list[str] = []
        self.videos: list[str] = []

    def training_step(self, batch: ClipBatch, batch_idx: int) -> torch.Tensor:
        content = batch.frames.numpy().tobytes() + batch.masks.numpy().tobytes() + batch.num_objects.numpy().tobytes()
        self.batches.append(hashlib.sha256(content).hexdigest())
        return (self.weight * batch.frames.float().mean((0, 1, 3, 4)) / 255).sum() + self.weight.square().sum()

    def validation_step(self, video: Video, batch_idx: int) -> None:
        self.videos.append(video.name)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1)


class Crash(Callback):
    """Ends the run in the middle of an accumulation."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: ClipBatch, batch_idx: int
    ) -> None:
        if batch_idx == self.batch:
            raise RuntimeError("power cut")


def trainer(tmp_path: Path, *callbacks: Callback, max_steps: int = 6, **arguments: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=max_steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        default_root_dir=tmp_path,
        callbacks=list(callbacks),
        **arguments,
    )


@pytest.fixture
def video_data(tmp_path: Path) -> Callable[..., VideoDataModule]:
    write_davis(tmp_path / "DAVIS", {"train": ["cow", "ant", "bee"], "val": ["elk", "fox"]})

    def make(**arguments: Any) -> VideoDataModule:
        arguments = {"clip_length": 2, "batch_size": 4, "crop": 32, "num_workers": 0, "seed": 5} | arguments
        return VideoDataModule(
            str(tmp_path),
            videos=[SequenceSet("DAVIS", repeat=2)],
            val=SequenceSet("DAVIS", split="val"),
            max_skip=[(0.0, 1), (0.5, 4)],
            **arguments,
        )

    return make


def run(
    tmp_path: Path, data: VideoDataModule, *callbacks: Callback, ckpt: Path | None = None, **arguments: Any
) -> Recorder:
    torch.manual_seed(0)
    model = Recorder()
    trainer(tmp_path, *callbacks, **arguments).fit(model, data, ckpt_path=ckpt)
    return model


@pytest.mark.filterwarnings("error:.*not resumable")
@pytest.mark.parametrize(("accumulate", "workers"), [(1, 0), (2, 2)])
def test_an_interrupted_run_continues_bit_for_bit(
    tmp_path: Path, video_data: Callable[..., VideoDataModule], accumulate: int, workers: int
) -> None:
    arguments = {"accumulate_grad_batches": accumulate, "limit_val_batches": 0}
    whole = run(tmp_path, video_data(num_workers=workers), **arguments)
    assert len(whole.batches) == len(set(whole.batches)) == 6 * accumulate
    checkpoint = ModelCheckpoint(tmp_path / "ckpt", every_n_train_steps=2, save_top_k=-1, filename="{step}")
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path, video_data(num_workers=workers), checkpoint, Crash(5 * accumulate - 1), **arguments)
    resumed = run(tmp_path, video_data(num_workers=workers), ckpt=tmp_path / "ckpt/step=4.ckpt", **arguments)
    assert resumed.batches == whole.batches[4 * accumulate :]
    assert torch.equal(resumed.weight, whole.weight)


def test_workers_make_no_difference(tmp_path: Path, video_data: Callable[..., VideoDataModule]) -> None:
    plain, parallel = (
        run(tmp_path, video_data(num_workers=workers), max_steps=3, limit_val_batches=0) for workers in (0, 2)
    )
    assert plain.batches == parallel.batches
    assert run(tmp_path, video_data(seed=6), max_steps=3, limit_val_batches=0).batches != plain.batches


def test_short_epochs_do_not_repeat_clips(tmp_path: Path, video_data: Callable[..., VideoDataModule]) -> None:
    whole = run(tmp_path, video_data(), limit_val_batches=0)
    pieces = run(tmp_path, video_data(num_workers=1), limit_val_batches=0, limit_train_batches=2)
    assert pieces.batches == whole.batches


def test_validation_inside_the_run(tmp_path: Path, video_data: Callable[..., VideoDataModule]) -> None:
    model = run(tmp_path, video_data(), val_check_interval=3, num_sanity_val_steps=0)
    assert model.videos == ["elk", "fox"] * 2
    assert len(set(model.batches)) == 6


@pytest.mark.parametrize("call", ["validate", "predict"])
def test_evaluation_loaders(tmp_path: Path, video_data: Callable[..., VideoDataModule], call: str) -> None:
    model = Recorder()
    model.predict_step = lambda footage, batch_idx: model.validation_step(footage.video, batch_idx)  # type: ignore[method-assign]
    getattr(trainer(tmp_path), call)(model, video_data())
    assert model.videos == ["elk", "fox"]


def test_both_stages_take_the_same_description(tmp_path: Path) -> None:
    write_davis(tmp_path / "DAVIS", {"train": ["cow"]})
    write_static(tmp_path / "s")
    description = {"images": [ImageSet("s")], "videos": [SequenceSet("DAVIS")], "val": None}
    for kind in (StaticDataModule, VideoDataModule):
        data = kind(str(tmp_path), **description, crop=32, clip_length=2, batch_size=2, num_workers=0)
        model = run(tmp_path, data, max_steps=2)  # type: ignore[arg-type]
        assert len(set(model.batches)) == 2
        assert data.val_dataloader() == []
    del description["images"]
    with pytest.raises(ValueError, match=r"data\.images is empty: there are no still images"):
        StaticDataModule(str(tmp_path), **description).setup("fit")
    with pytest.raises(ValueError, match=r"data\.videos is empty: the video stage"):
        VideoDataModule(str(tmp_path)).setup("fit")
    with pytest.raises(ValueError, match=r"data\.val is not set: there is nothing to validate"):
        VideoDataModule(str(tmp_path)).setup("validate")


def test_errors_before_training(tmp_path: Path, video_data: Callable[..., VideoDataModule]) -> None:
    with pytest.raises(FileNotFoundError, match=r"data\.root=.*lost: no such folder; set DATA_ROOT or --data\.root"):
        VideoDataModule(str(tmp_path / "lost"), videos=[SequenceSet("")]).setup("fit")
    with pytest.raises(ValueError, match=r"data\.crop=0 must be at least 1"):
        VideoDataModule(str(tmp_path), crop=0)
    with pytest.raises(ValueError, match=r"data\.max_objects=255 must be from 1 to 254"):
        VideoDataModule(str(tmp_path), max_objects=255)
    with pytest.raises(ValueError, match=r"needs a trainer"):
        video_data().train_dataloader()
    with pytest.raises(ValueError, match=r"trainer\.max_steps=-1: a run is counted in steps"):
        run(tmp_path, video_data(), max_steps=-1, max_epochs=1)
    with pytest.raises(ValueError, match=r"overfit_batches would replace the sampler"):
        run(tmp_path, video_data(), overfit_batches=2)
    with pytest.raises(ValueError, match=r"batch_size=4 .* 1 devices x accumulate_grad_batches=3; use a multiple of 3"):
        run(tmp_path, video_data(), accumulate_grad_batches=3)


def test_from_the_command_line(tmp_path: Path) -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(VideoDataModule, "data")
    config = tmp_path / "data.yaml"
    config.write_text(
        """
data:
  class_path: datamodules.VideoDataModule
  init_args:
    images: [{root: s, repeat: 5}]
    videos: [{root: DAVIS}, {root: YouTube, layout: youtube_vos, split: train_480p}]
    val: {root: DAVIS, split: val, year: "2016"}
    max_skip: [[0.0, 5], [0.5, 10]]
""",
        encoding="utf-8",
    )
    parser.add_argument("--config", action="config")
    data = parser.instantiate(parser.parse_args([f"--config={config}", "--data.crop=96"])).data
    assert data.images == [ImageSet("s", repeat=5)]
    assert data.videos[1] == SequenceSet("YouTube", layout="youtube_vos", split="train_480p")
    assert data.val == SequenceSet("DAVIS", split="val", year="2016")
    assert data.max_skip == [(0.0, 5), (0.5, 10)]
    assert data.crop == 96


# --- real data -------------------------------------------------------------------------------------------------------

real = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the shared real data is not beside the project")


@real
def test_real_davis() -> None:
    data = VideoDataModule(
        str(SHARED / "data"),
        videos=[SequenceSet("davis2016", year="2016", resolution="240p")],
        val=SequenceSet("davis2017_multi", split="val", resolution="240p"),
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
