"""Single pictures with all their objects, from still images and from frames of videos."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import SIZE, Unchanged, block, picture, save, write_coco, write_davis, write_sequence, write_static
from lightning import LightningModule, Trainer
from pycocotools import mask as run_length

from datamodules import ImageSet, PictureDataModule, SequenceSet
from datamodules.images import Still, read_labels
from datamodules.pictures import Pictures
from datamodules.samplers import ClipKey
from lightning_vos.types import VOID, Clip, ClipBatch

CROP = 24
EMPTY = np.zeros(SIZE, dtype=np.uint8)


def write_boxes(base: Path, pictures: dict[int, list[tuple[int, int, int, int]]], size: tuple[int, int]) -> ImageSet:
    """A COCO set: picture id -> boxes (top, left, bottom, right); annotation ids run backwards over the pictures."""
    annotations: list[dict[str, Any]] = []
    for id_ in sorted(pictures, reverse=True):
        save(base / f"images/{id_}.png", picture(id_, size))
        for top, left, bottom, right in pictures[id_]:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": id_,
                    "category_id": 1,
                    "iscrowd": 0,
                    "area": (bottom - top) * (right - left),
                    "bbox": [left, top, right - left, bottom - top],
                    "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
                }
            )
    index = {
        "images": [{"id": id_, "file_name": f"{id_}.png", "height": size[0], "width": size[1]} for id_ in pictures],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "thing"}],
    }
    (base / "instances.json").write_text(json.dumps(index), encoding="utf-8")
    return ImageSet(base.name, annotations="instances.json", min_area=0)


def write_video(root: Path, masks: Sequence[np.ndarray | None], name: str = "0a1b") -> SequenceSet:
    """One more sequence of a YouTube-VOS split without meta.json, where frames may lack annotation."""
    write_sequence(root / "train", name, masks, resolution="", seed=100)
    return SequenceSet("", layout="youtube_vos")


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


# --- still images with all their objects -----------------------------------------------------------------------------


def test_a_coco_picture_with_all_its_instances(tmp_path: Path) -> None:
    write_coco(tmp_path / "coco")
    images = ImageSet("coco", annotations="instances.json")
    apart = images.stills(tmp_path)
    (together,) = images.stills(tmp_path, all_objects=True)  # neither the crowd nor the one of 15 of 2000 pixels
    assert [type(still.mask) for still in apart] == [dict, dict]
    small, large = (still.read()[1] for still in apart)
    frame, labels = together.read()
    assert np.array_equal(frame, apart[0].read()[0])
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, np.where(small, 2, large))  # 1 is the larger one
    assert len(ImageSet("coco", annotations="instances.json", min_area=0).stills(tmp_path, True)[0].mask) == 3


def test_pictures_come_in_the_order_of_their_ids(tmp_path: Path) -> None:
    images = write_boxes(tmp_path / "coco", {3: [(0, 0, 9, 9)], 1: [(2, 3, 8, 9), (9, 9, 20, 20)], 2: []}, SIZE)
    assert [(still.image.name, len(still.mask)) for still in images.stills(tmp_path, True)] == [
        ("1.png", 2),
        ("3.png", 1),
    ]
    assert [still.image.name for still in images.stills(tmp_path)] == ["3.png", "1.png", "1.png"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_smaller_instances_are_never_hidden(tmp_path: Path, order: tuple[int, ...]) -> None:
    boxes = [(0, 0, 20, 30), (4, 4, 16, 20), (6, 6, 9, 9)]  # each inside the one before it
    images = write_boxes(tmp_path / "coco", {1: [boxes[i] for i in order]}, SIZE)
    _, labels = images.stills(tmp_path, True)[0].read()
    expected = EMPTY.copy()
    for label, (top, left, bottom, right) in enumerate(boxes, 1):
        expected[top:bottom, left:right] = label
    assert np.array_equal(labels, expected)


def test_an_instance_that_others_cover_leaves_a_gap(tmp_path: Path) -> None:
    boxes = [(4, 2, 12, 18), (4, 0, 12, 10), (4, 10, 12, 20)]  # the first is the largest, under the two halves
    images = write_boxes(tmp_path / "coco", {1: boxes}, SIZE)
    _, labels = images.stills(tmp_path, True)[0].read()
    assert np.unique(labels).tolist() == [0, 2, 3]
    clip = exact(tmp_path, images=[images])[ClipKey(0, 1, 0)]
    assert np.array_equal(clip.masks[0], np.maximum(labels, 1) - 1)  # clips number what is seen


def test_at_most_254_instances_and_the_largest_of_them(tmp_path: Path) -> None:
    size = (64, 80)
    # Rows of 20 cells; the first 60 boxes are of one pixel, the other 240 of four.
    corners = [(4 * (i // 20), 4 * (i % 20), 1 if i < 60 else 2) for i in range(300)]
    boxes = [(top, left, top + side, left + side) for top, left, side in corners]
    images = write_boxes(tmp_path / "coco", {1: boxes}, size)
    _, labels = images.stills(tmp_path, True)[0].read()
    areas = np.bincount(labels.ravel(), minlength=256)[1:]
    assert (areas[:240] == 4).all()
    assert (areas[240:254] == 1).all()
    assert areas[254] == 0  # 255 would be void
    assert len(images.stills(tmp_path)) == 300


def test_folders_have_one_object_either_way(tmp_path: Path) -> None:
    write_static(tmp_path / "s")
    assert ImageSet("s").stills(tmp_path, all_objects=True) == ImageSet("s").stills(tmp_path)


def test_every_instance_must_have_the_size_of_the_picture(tmp_path: Path) -> None:
    save(tmp_path / "a.png", picture(0))
    codes = [run_length.encode(np.asfortranarray(np.ones(size, dtype=np.uint8))) for size in (SIZE, (24, 30))]
    still = Still(tmp_path / "a.png", codes)
    for call in (still.check, still.read):
        with pytest.raises(ValueError, match=r"a\.png is 24x36 but its annotation is 24x30 \(height x width\)"):
            call()
    Still(tmp_path / "a.png", codes[:1]).check()
    empty = run_length.encode(np.asfortranarray(EMPTY))
    with pytest.raises(ValueError, match=r"a\.png: the mask is empty; remove it"):
        Still(tmp_path / "a.png", [empty, empty]).read()


# --- samples ---------------------------------------------------------------------------------------------------------


def test_length_is_stills_and_annotated_frames_with_repeats(tmp_path: Path) -> None:
    write_coco(tmp_path / "coco")
    write_static(tmp_path / "s")
    write_davis(tmp_path / "DAVIS", {"train": ["cow", "ant"]})
    write_video(tmp_path / "YouTube", [block({1: (2, 3)}), None, EMPTY, None, block({1: (9, 3)})])
    images = [ImageSet("coco", annotations="instances.json", repeat=4), ImageSet("s", repeat=2)]
    videos = [SequenceSet("DAVIS"), SequenceSet("YouTube", layout="youtube_vos", repeat=3)]
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
    videos = SequenceSet("", layout="youtube_vos", single_object=True)
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
    for length in (2, 8):
        with pytest.raises(ValueError, match=rf"clip_length={length}: a clip is a single picture here; set it to 1"):
            PictureDataModule(str(tmp_path), clip_length=length)
    with pytest.raises(ValueError, match=r"data\.clip_length=0 must be at least 1"):
        PictureDataModule(str(tmp_path), clip_length=0)
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
    from jsonargparse import ArgumentParser

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
    videos: [{root: DAVIS}]
    val: {root: DAVIS, split: val}
""",
        encoding="utf-8",
    )
    data = parser.instantiate(parser.parse_args([f"--config={config}", f"--data.root={tmp_path}"])).data
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
            videos=[SequenceSet("DAVIS")],
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
