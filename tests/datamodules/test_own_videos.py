"""A user's videos and masks as they are read: every format to the same frames and labels, in both directions."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from movie_files import SIZE, moving_square, write_frames, write_mask, write_movie
from PIL import ExifTags, Image
from pycocotools import mask as run_length

from datamodules import PredictDataModule
from datamodules.frame_names import frame_number
from datamodules.movie_file import BLOCK
from datamodules.movies import open_movie
from datamodules.own_videos import passes
from datamodules.prompts import read_prompts
from lightning_vos.palette import PALETTE
from lightning_vos.video import Footage

NAMES = [f"{t:05d}" for t in range(6)]


def footage(tmp_path: Path, **settings: Any) -> Footage:
    data = PredictDataModule(**{name: str(v) if isinstance(v, Path) else v for name, v in settings.items()})
    data.setup("predict")
    return next(iter(data.predict_dataloader()))


# ---------------------------------------------------------------- movies


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"bf": "2"}),
        ("a.mp4", "libx265", {"x265-params": "log-level=none"}),
        ("a.mkv", "ffv1", {}),
        ("a.webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "realtime"}),
        ("a.ts", "libx264", {}),
        ("a.avi", "mpeg4", {"b": "8000k"}),
    ],
)
def test_backward_and_at_random_a_movie_shows_the_frames_that_it_shows_forward(
    name: str, codec: str, options: dict[str, str], tmp_path: Path
) -> None:
    size = (64, 96)  # the encoder x265 writes past its memory where pictures are lower than 64
    frames, _ = moving_square(50, size)
    movie = open_movie(write_movie(tmp_path / name, frames, codec, **options), 25)
    assert (len(movie.frame_names), movie.size, movie.frame_names[49]) == (50, size, "00049")
    read = movie.reader()
    forward = [read(t) for t in range(50)]
    assert all((shown.permute(1, 2, 0).numpy() - frames[t].astype(int)).std() < 12 for t, shown in enumerate(forward))
    assert len({shown.numpy().tobytes() for shown in forward}) == 50
    read = movie.reader()
    assert all(torch.equal(read(t), forward[t]) for t in range(49, -1, -1))
    assert all(torch.equal(read(int(t)), forward[t]) for t in np.random.default_rng(1).permutation(50))


def test_a_variable_rate_keeps_its_frames_and_their_times(tmp_path: Path) -> None:
    frames, _ = moving_square(9)
    seconds = [0, 0.04, 0.3, 0.31, 0.5, 1.7, 1.75, 1.8, 3.0]
    movie = open_movie(write_movie(tmp_path / "a.mp4", frames, seconds=seconds), 25)
    assert movie.seconds == pytest.approx(seconds, abs=1e-3)


@pytest.mark.parametrize("angle", [90, -90, 180])
def test_a_movie_is_turned_as_a_player_turns_it(angle: int, tmp_path: Path) -> None:
    frames, _ = moving_square(3)
    plain = open_movie(write_movie(tmp_path / "a.mp4", frames), 25)
    turned = open_movie(write_movie(tmp_path / "b.mp4", frames, rotation=angle), 25)
    assert turned.size == (SIZE if angle == 180 else SIZE[::-1])
    # The matrix of the file is applied clockwise for a positive angle, as ffmpeg -display_rotation says it.
    expected = torch.rot90(plain.reader()(1), angle // 90, (1, 2))
    assert torch.equal(turned.reader()(1), expected)


@pytest.mark.parametrize("angle", [45, -10])
def test_a_movie_that_lies_askew_is_refused(angle: int, tmp_path: Path) -> None:
    path = write_movie(tmp_path / "a.mp4", moving_square(3)[0], rotation=angle)
    with pytest.raises(ValueError, match=r"a\.mp4: is to be shown rotated by -?\d+ degrees, which is no quarter turn"):
        open_movie(path, 25)


def test_pictures_are_turned_by_their_tag_and_ordered_by_number(tmp_path: Path) -> None:
    frames, _ = moving_square(12)
    folder = write_frames(tmp_path / "v", frames, [f"shot {t + 1}" for t in range(12)])
    movie = open_movie(folder, 10)
    assert movie.frame_names == [f"shot {t + 1}" for t in range(12)]
    assert movie.seconds[3] == 0.3
    assert np.array_equal(movie.reader()(9).permute(1, 2, 0).numpy(), frames[9])
    tag = Image.Exif()
    tag[ExifTags.Base.Orientation] = 6  # to be turned clockwise
    Image.fromarray(frames[0]).save(tmp_path / "one.png", exif=tag)
    upright = open_movie(tmp_path / "one.png", 10)
    assert upright.size == SIZE[::-1]
    assert np.array_equal(upright.reader()(0).permute(1, 2, 0).numpy(), np.rot90(frames[0], -1))
    assert upright.reader(16)(0).shape == (3, 24, 16)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_few_frames_are_in_memory_at_any_time(direction: str, tmp_path: Path) -> None:
    frames, labels = moving_square(200, (16, 16))
    clip = write_movie(tmp_path / "a.mp4", frames, g="250")
    mask = write_mask(tmp_path / "m.png", labels[0])
    video = footage(tmp_path, video=clip, mask=mask, direction=direction).passes[0]
    seen: list[weakref.ref[torch.Tensor]] = []
    most = 0
    for frame in video:
        seen.append(weakref.ref(frame))
        most = max(most, sum(reference() is not None for reference in seen))
    assert len(seen) == 200
    assert most <= 2 * BLOCK + video.read_ahead + 2


# ---------------------------------------------------------------- masks

LABELS = np.zeros(SIZE, dtype=np.uint8)
LABELS[2:10, 3:12] = 1
LABELS[12:30, 20:40] = 2


def coco(labels: np.ndarray, id_: int, compressed: bool = True) -> dict[str, Any]:
    code = run_length.encode(np.asfortranarray(labels == id_))
    if compressed:
        return {"size": list(SIZE), "counts": code["counts"].decode()}
    flat = np.concatenate([[0], (labels == id_).ravel(order="F").astype(int), [0]])
    edges = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate([[0], edges, [labels.size]])).tolist()
    return {"size": list(SIZE), "counts": counts}


def _palette(folder: Path) -> Path:
    return write_mask(folder / "m.png", LABELS)


def _grey(folder: Path) -> Path:
    return write_mask(folder / "m.png", LABELS, palette=False)


def _16_bits(folder: Path) -> Path:
    Image.fromarray(LABELS.astype(np.uint16)).save(folder / "m.png")
    return folder / "m.png"


def _grey_in_colours(folder: Path) -> Path:
    return write_mask(folder / "m.bmp", np.repeat(LABELS[..., None], 3, axis=2), palette=False)


def _colours(folder: Path) -> Path:
    colours = np.array([(0, 0, 0), (10, 250, 3), (200, 0, 0)], dtype=np.uint8)
    return write_mask(folder / "m.png", colours[LABELS], palette=False)


def _davis_colours(folder: Path) -> Path:
    return write_mask(folder / "m.png", PALETTE[LABELS], palette=False)


def _transparent(folder: Path) -> Path:
    colours = np.array([(90, 90, 9, 0), (10, 250, 3, 255), (200, 0, 0, 255)], dtype=np.uint8)
    return write_mask(folder / "m.png", colours[LABELS], palette=False)


def _folder_of_objects(folder: Path) -> Path:
    for id_ in (1, 2):
        write_mask(folder / "m" / f"{id_}.png", ((id_ == LABELS) * 255).astype(np.uint8), palette=False)
    return folder / "m"


def _folder_of_named_objects(folder: Path) -> Path:
    for id_, name in ((1, "dog"), (2, "person on a bike")):
        write_mask(folder / "m" / f"{name}.png", (id_ == LABELS).astype(np.uint8))
    return folder / "m"


def _folder_of_frames_of_objects(folder: Path) -> Path:
    for id_ in (1, 2):
        write_mask(folder / "m" / "00000" / f"{id_}.png", ((id_ == LABELS) * 255).astype(np.uint8), palette=False)
    return folder / "m"


def _folder_of_frames(folder: Path) -> Path:
    write_mask(folder / "m" / "00000.png", LABELS)
    (folder / "m" / "00003.png").write_bytes(b"ground truth that nobody asked for")
    return folder / "m"


def _list_of_codes(folder: Path) -> Path:
    (folder / "m.json").write_text(json.dumps([coco(LABELS, 1), coco(LABELS, 2)]))
    return folder / "m.json"


def _plain_codes(folder: Path) -> Path:
    (folder / "m.json").write_text(json.dumps([coco(LABELS, 1, False), coco(LABELS, 2, False)]))
    return folder / "m.json"


def _coco_set(folder: Path) -> Path:
    images = [{"id": 7, "file_name": "a/00000.jpg"}, {"id": 9, "file_name": "a/00004.jpg"}]
    entries = [{"image_id": 7, "track_id": id_, "segmentation": coco(LABELS, id_)} for id_ in (2, 1)]
    entries.append({"image_id": 9, "track_id": 1, "segmentation": {"size": [1, 1], "counts": "unread"}})
    (folder / "m.json").write_text(json.dumps({"images": images, "annotations": entries}))
    return folder / "m.json"


def _polygons(folder: Path) -> Path:
    boxes = [[3, 2, 12, 2, 12, 10, 3, 10], [20, 12, 40, 12, 40, 30, 20, 30]]
    (folder / "m.json").write_text(json.dumps([{"segmentation": [box]} for box in boxes]))
    return folder / "m.json"


FORMATS: list[Callable[[Path], Path]] = [
    _palette,
    _grey,
    _16_bits,
    _grey_in_colours,
    _colours,
    _davis_colours,
    _transparent,
    _folder_of_objects,
    _folder_of_named_objects,
    _folder_of_frames_of_objects,
    _folder_of_frames,
    _list_of_codes,
    _plain_codes,
    _coco_set,
    _polygons,
]


@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__.strip("_"))
def test_all_formats_of_masks_say_the_same(write: Callable[[Path], Path], tmp_path: Path) -> None:
    prompts = read_prompts(write(tmp_path), NAMES, SIZE, said=True)
    assert list(prompts) == [0]
    assert prompts[0].dtype == np.uint8
    assert np.array_equal(prompts[0], LABELS)


@pytest.mark.parametrize("values", [(0, 255), (0, 1), (0, 255, "bilevel")])
def test_one_object(values: tuple[Any, ...], tmp_path: Path) -> None:
    mask = np.where(LABELS > 0, values[1], 0).astype(np.uint8)
    image = Image.fromarray(mask)
    (image.convert("1") if len(values) > 2 else image).save(tmp_path / "m.png")
    assert np.array_equal(read_prompts(tmp_path / "m.png", NAMES, SIZE)[0], LABELS > 0)


def test_ids_stay_and_void_is_nothing(tmp_path: Path) -> None:
    mask = np.array([0, 17, 254], dtype=np.uint8)[LABELS]
    mask[0] = 255
    expected = np.where(mask == 255, 0, mask)
    assert np.array_equal(read_prompts(write_mask(tmp_path / "m.png", mask), NAMES, SIZE)[0], expected)


def test_the_smaller_of_two_overlapping_objects_is_seen(tmp_path: Path) -> None:
    for name, area in (("a", np.s_[:, :]), ("b", np.s_[3:5, 3:5]), ("c", np.s_[0:9, 0:9])):
        mask = np.zeros(SIZE, dtype=np.uint8)
        mask[area] = 1
        write_mask(tmp_path / "m" / f"{name}.png", mask)
    labels = read_prompts(tmp_path / "m", NAMES, SIZE)[0]
    assert (labels[4, 4], labels[1, 1], labels[20, 20]) == (2, 3, 1)


def test_which_frame_a_mask_belongs_to(tmp_path: Path) -> None:
    def frames_of(path: Path, **settings: Any) -> list[int]:
        return list(read_prompts(path, NAMES, SIZE, **settings))

    assert frames_of(write_mask(tmp_path / "first.png", LABELS), default=5) == [5]
    assert frames_of(write_mask(tmp_path / "00004.png", LABELS), default=5) == [4]
    assert frames_of(write_mask(tmp_path / "4.png", LABELS), default=5) == [4]
    for name in ("00002", "00003", "00005"):
        write_mask(tmp_path / "m" / f"{name}.png", LABELS)
    assert frames_of(tmp_path / "m") == [2]
    assert frames_of(tmp_path / "m", asked=["5", "00003"]) == [3, 5]
    assert frames_of(tmp_path / "m", asked=["all"]) == [2, 3, 5]
    assert [frame_number(name, ["b", "a"]) for name in ("a", "b", "1")] == [1, 0, None]


def test_a_colour_is_the_same_object_on_every_frame(tmp_path: Path) -> None:
    colours = np.array([(0, 0, 0), (10, 250, 3), (200, 0, 0)], dtype=np.uint8)
    write_mask(tmp_path / "m" / "00000.png", colours[np.where(LABELS == 2, 2, 0)], palette=False)
    write_mask(tmp_path / "m" / "00003.png", colours[LABELS], palette=False)
    prompts = read_prompts(tmp_path / "m", NAMES, SIZE, asked=["all"])
    assert np.array_equal(prompts[3], LABELS)
    assert np.array_equal(prompts[0], np.where(LABELS == 2, 2, 0))


# ---------------------------------------------------------------- passes


def test_passes_cover_the_video_in_their_direction() -> None:
    first, second = (LABELS == 1).astype(np.uint8), ((LABELS == 2) * 2).astype(np.uint8)
    assert passes("forward", {3: first}, 9) == [range(9)]
    assert passes("backward", {3: first}, 9) == [range(8, -1, -1)]
    assert passes("both", {3: first}, 9) == [range(3, -1, -1), range(3, 9)]
    assert passes("both", {0: first}, 9) == [range(9)]
    assert passes("both", {2: first, 5: first}, 9) == [range(2, -1, -1), range(2, 9)]  # a correction starts nothing
    assert passes("both", {2: first, 5: second}, 9) == [range(5, -1, -1), range(2, 9)]


def test_objects_are_numbered_as_they_start_in_a_pass(tmp_path: Path) -> None:
    frames, _ = moving_square(6)
    folder = write_frames(tmp_path / "v", frames)
    write_mask(tmp_path / "m" / "00001.png", ((LABELS == 2) * 9).astype(np.uint8))
    write_mask(tmp_path / "m" / "00004.png", ((LABELS == 1) * 5).astype(np.uint8))
    found = footage(tmp_path, video=folder, mask=tmp_path / "m", masks="all", direction="both")
    backward, forward = found.passes
    assert (backward.frame_names, forward.frame_names) == (NAMES[4::-1], NAMES[1:])
    assert (backward.object_ids, forward.object_ids) == ((5, 9), (9, 5))
    assert {t: prompt.unique().tolist() for t, prompt in backward.prompts.items()} == {0: [0, 1], 3: [0, 2]}
    assert {t: prompt.unique().tolist() for t, prompt in forward.prompts.items()} == {0: [0, 1], 3: [0, 2]}
    shown = [frame.permute(1, 2, 0).numpy() for frame in backward]
    assert all(np.array_equal(frame, frames[4 - t]) for t, frame in enumerate(shown))
