"""Single pictures with all their objects, from still images and from frames of videos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import (
    EMPTY,
    SIZE,
    Unchanged,
    block,
    picture,
    save,
    write_boxes,
    write_coco,
    write_davis,
    write_sequence,
    write_static,
)
from lightning import LightningModule, Trainer

from datamodules import DavisSet, ImageSet, PictureDataModule, YouTubeVOSSet
from datamodules.images import read_labels
from datamodules.pictures import Pictures
from datamodules.samplers import ClipKey
from lightning_vos.types import VOID, Clip, ClipBatch

CROP = 24


def write_video(root: Path, masks: Sequence[np.ndarray | None], name: str = "0a1b") -> YouTubeVOSSet:
    """One more sequence of a YouTube-VOS split without meta.json, where frames may lack annotation."""
    write_sequence(root / "train", name, masks, resolution="", seed=100)
    return YouTubeVOSSet("")


def made(root: Path, **arguments: Any) -> Pictures:
    data = PictureDataModule(str(root), **{"crop": CROP, **arguments})
    data.setup("fit")
    assert isinstance(data.train_set, Pictures)
    return data.train_set


def exact(root: Path, **arguments: Any) -> Pictures:
    pictures = made(root, **arguments)
    pictures.transform = Unchanged(CROP)
    return pictures


def check(clip: Clip) -> None:
    assert clip.frames.shape == (1, 3, CROP, CROP)
    assert clip.masks.shape == (1, CROP, CROP)
    assert clip.frames.dtype == clip.masks.dtype == torch.uint8
    assert clip.num_objects >= 1
    assert set(clip.masks.unique().tolist()) | {0} == set(range(clip.num_objects + 1))


# --- samples ---------------------------------------------------------------------------------------------------------


def test_length_is_stills_and_annotated_frames_with_repeats(tmp_path: Path) -> None:
    write_coco(tmp_path / "coco")
    write_static(tmp_path / "s")
    write_davis(tmp_path / "DAVIS", {"train": ["cow", "ant"]})
    write_video(tmp_path / "YouTube", [block({1: (2, 3)}), None, EMPTY, None, block({1: (9, 3)})])
    images = [ImageSet("coco", annotations="instances.json", repeat=4), ImageSet("s", repeat=2)]
    videos = [DavisSet("DAVIS"), YouTubeVOSSet("YouTube", repeat=3)]
    assert len(made(tmp_path, images=images)) == 4 * 1 + 2 * 5
    assert len(made(tmp_path, videos=videos)) == 2 * 6 + 3 * 3
    pictures = made(tmp_path, images=images, videos=videos)
    assert len(pictures) == 4 + 10 + 12 + 9
    for index in range(len(pictures)):
        check(pictures[ClipKey(index, 1, index)])


def test_a_still_image_shows_all_its_objects(tmp_path: Path) -> None:
    boxes = [(row, column, row + 5, column + 5) for row in (1, 9, 17) for column in (1, 9, 17, 25)]
    images = write_boxes(tmp_path / "coco", {1: boxes}, SIZE)
    clip = exact(tmp_path, images=[images])[ClipKey(0, 1, 0)]
    assert np.array_equal(clip.frames[0].permute(1, 2, 0), picture(1))
    expected = EMPTY.copy()
    for label, (top, left, bottom, right) in enumerate(boxes, 1):
        expected[top:bottom, left:right] = label
    assert np.array_equal(clip.masks[0], expected)
    assert clip.num_objects == 12


def test_a_frame_of_a_video_shows_all_its_objects(tmp_path: Path) -> None:
    stored = block({3: (2, 3), 7: (12, 4), 200: (2, 20), VOID: (12, 20)})
    videos = write_video(tmp_path, [stored, None, block({7: (4, 4)})])
    pictures = exact(tmp_path, videos=[videos])
    assert len(pictures) == 2
    clip = pictures[ClipKey(0, 1, 0)]
    assert clip.frames.shape == (1, 3, *SIZE)
    assert np.array_equal(clip.masks[0], np.select([stored == 3, stored == 7, stored == 200], [1, 2, 3]))
    clip = pictures[ClipKey(1, 1, 0)]
    assert np.array_equal(clip.masks[0], block({1: (4, 4)}))


def test_single_objects_are_not_void(tmp_path: Path) -> None:
    stored = block({3: (2, 3), VOID: (12, 20)})
    write_video(tmp_path, [stored])
    videos = YouTubeVOSSet("", single_object=True)
    clip = exact(tmp_path, videos=[videos])[ClipKey(0, 1, 0)]
    assert np.array_equal(clip.masks[0], stored > 0)


def test_frames_shrink_together_with_their_masks(tmp_path: Path) -> None:
    videos = write_video(tmp_path, [block({3: (2, 3), 7: (12, 4)})])
    pictures = made(tmp_path, videos=[videos], crop=8)
    pictures.transform = Unchanged(8)
    clip = pictures[ClipKey(0, 1, 0)]
    assert clip.frames.shape == (1, 3, 12, 18)  # 1.5 times the crop
    expected = read_labels(tmp_path / "train/Annotations/0a1b/00000.png")[1::2, 1::2]
    assert np.array_equal(clip.masks[0], np.select([expected == 3, expected == 7], [1, 2]))


def test_augmentation_mixes_no_labels(tmp_path: Path) -> None:
    # Were labels interpolated, 1 and 200 side by side would make others between them.
    labels = np.ones(SIZE, dtype=np.uint8)
    labels[:, 18:] = 200
    videos = write_video(tmp_path, [labels])
    pictures = made(tmp_path, videos=[videos])
    seen = set()
    for seed in range(40):
        clip = pictures[ClipKey(0, 1, seed)]
        check(clip)
        seen.add(clip.num_objects)
    assert seen <= {1, 2}
    assert 2 in seen


@pytest.mark.parametrize("limit", [1, 3, 5, 6, 20])
def test_number_of_objects_is_limited(tmp_path: Path, limit: int) -> None:
    boxes = [(row, column, row + 5, column + 5) for row in (1, 9) for column in (1, 9, 17)]
    images = write_boxes(tmp_path / "coco", {1: boxes}, SIZE)
    pictures = exact(tmp_path, images=[images], max_objects=limit)
    kept = np.zeros(SIZE, dtype=bool)
    for seed in range(40):
        clip = pictures[ClipKey(0, 1, seed)]
        assert clip.num_objects == min(limit, 6)
        assert np.bincount(clip.masks[0].ravel())[1:].tolist() == [25] * min(limit, 6)
        kept |= clip.masks[0].numpy() > 0
    assert kept.sum() == 6 * 25  # each has its turn


def test_equal_keys_give_equal_clips(tmp_path: Path) -> None:
    write_static(tmp_path / "s")
    videos = write_video(tmp_path, [block({3: (2, 3), 7: (12, 4)})] * 2)
    arguments = {"images": [ImageSet("s")], "videos": [videos], "max_objects": 1}
    first, second = made(tmp_path, **arguments), made(tmp_path, **arguments)
    for index in (0, 4, 5, 6):
        clip = first[ClipKey(index, 1, 7)]
        first[ClipKey(index, 1, 8)]
        np.random.seed(index)  # noqa: NPY002  # global generators have no influence
        for again in (first[ClipKey(index, 1, 7)], second[ClipKey(index, 25, 7)]):
            assert torch.equal(again.frames, clip.frames)
            assert torch.equal(again.masks, clip.masks)
        others = [first[ClipKey(index, 1, seed)].frames for seed in range(20, 25)]
        assert not any(torch.equal(other, clip.frames) for other in others)


# --- frames without an object ----------------------------------------------------------------------------------------


def test_an_empty_frame_stands_for_the_next_one_that_shows_an_object(tmp_path: Path) -> None:
    void = block({VOID: (3, 3)})
    masks = [EMPTY, block({5: (2, 3)}), None, void, EMPTY, block({9: (12, 20)}), EMPTY]
    pictures = exact(tmp_path, videos=[write_video(tmp_path, masks)])
    assert len(pictures) == 6
    early, late = block({1: (2, 3)}), block({1: (12, 20)})
    clips = [pictures[ClipKey(index, 1, 0)] for index in range(6)]
    shown = [(early, 1), (early, 1), (late, 5), (late, 5), (late, 5), (early, 1)]
    for clip, (expected, t) in zip(clips, shown, strict=True):
        assert np.array_equal(clip.masks[0], expected)
        difference = np.abs(clip.frames[0].permute(1, 2, 0).numpy().astype(int) - picture(100 + t).astype(int))
        assert difference.mean() < 8  # the picture goes with the mask


def test_an_object_that_gets_lost_by_shrinking_is_none(tmp_path: Path) -> None:
    dot = EMPTY.copy()
    dot[0, 0] = 1  # every second pixel is taken, from the second on
    pictures = made(tmp_path, videos=[write_video(tmp_path, [dot, block({4: (2, 3)})])], crop=8)
    clip = pictures[ClipKey(0, 1, 0)]
    assert clip.num_objects == 1
    assert clip.masks.any()


def test_a_sequence_without_any_object_is_named(tmp_path: Path) -> None:
    write_video(tmp_path, [EMPTY, None, block({VOID: (3, 3)})], "never")
    videos = write_video(tmp_path, [block({1: (3, 3)})], "once")
    pictures = made(tmp_path, videos=[videos])
    check(pictures[ClipKey(2, 1, 0)])
    for index in (0, 1):
        with pytest.raises(ValueError, match=r"never: no mask shows an object; remove the sequence"):
            pictures[ClipKey(index, 1, 0)]


# --- the data module -------------------------------------------------------------------------------------------------


def test_errors_of_the_data_module(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.images and data\.videos are empty: .*; name at least one set"):
        PictureDataModule(str(tmp_path)).setup("fit")
    with pytest.raises(TypeError, match="clip_length"):  # a clip is a single picture
        PictureDataModule(str(tmp_path), clip_length=2)
    with pytest.raises(ValueError, match=r"data\.max_objects=255 must be from 1 to 254"):
        PictureDataModule(str(tmp_path), max_objects=255)


def test_sizes_are_checked_at_the_start(tmp_path: Path) -> None:
    write_static(tmp_path / "s")
    save(tmp_path / "s/masks/2.png", np.ones((24, 30), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"2\.jpg is 24x36 but .*2\.png is 24x30"):
        made(tmp_path, images=[ImageSet("s")])
    videos = write_video(tmp_path, [block({1: (3, 3)})] * 2)
    save(tmp_path / "train/Annotations/0a1b/00001.png", block({1: (0, 0)}, (24, 40)))
    with pytest.raises(ValueError, match=r"00001\.png is 24x40 but .*00000\.jpg is 24x36"):
        made(tmp_path, videos=[videos])


def test_from_the_command_line(tmp_path: Path) -> None:
    from jsonargparse import ArgumentError, ArgumentParser

    write_coco(tmp_path / "coco")
    write_davis(tmp_path / "DAVIS", {"train": ["cow"], "val": ["bee"]})
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(PictureDataModule, "data")
    config = tmp_path / "data.yaml"
    config.write_text(
        """
data:
  class_path: datamodules.PictureDataModule
  init_args:
    images: [{root: coco, annotations: instances.json, repeat: 2}]
    videos: [{class_path: datamodules.DavisSet, init_args: {root: DAVIS}}]
    val: {class_path: datamodules.DavisSet, init_args: {root: DAVIS, split: val}}
""",
        encoding="utf-8",
    )
    args = [f"--config={config}", f"--data.root={tmp_path}"]
    with pytest.raises(ArgumentError, match="clip_length"):
        parser.parse_args([*args, "--data.clip_length=3"])
    data = parser.instantiate(parser.parse_args(args)).data
    assert isinstance(data, PictureDataModule)
    assert (data.clip_length, data.max_objects) == (1, 20)
    data.setup("fit")
    assert len(data.train_set) == 2 + 6
    assert data.val_set is not None
    assert data.val_set.names == ["bee"]


class Recorder(LightningModule):
    """Remembers the batches it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches: list[ClipBatch] = []

    def training_step(self, batch: ClipBatch, batch_idx: int) -> torch.Tensor:
        self.batches.append(batch)
        return self.weight.square().sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_batches_of_a_run(tmp_path: Path) -> None:
    write_coco(tmp_path / "coco")
    write_davis(tmp_path / "DAVIS", {"train": ["cow"]})
    runs = []
    for workers in (0, 1):
        data = PictureDataModule(
            str(tmp_path),
            images=[ImageSet("coco", annotations="instances.json")],
            videos=[DavisSet("DAVIS")],
            crop=CROP,
            batch_size=4,
            num_workers=workers,
        )
        model = Recorder()
        Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=3,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            default_root_dir=tmp_path,
        ).fit(model, data)
        runs.append(model.batches)
    assert len(runs[0]) == 3
    for batch, again in zip(*runs, strict=True):
        assert batch.frames.shape == (4, 1, 3, CROP, CROP)
        assert batch.masks.shape == (4, 1, CROP, CROP)
        assert batch.masks.flatten(1).amax(1).tolist() == batch.num_objects.tolist()
        assert torch.equal(batch.frames, again.frames)
        assert torch.equal(batch.masks, again.masks)
