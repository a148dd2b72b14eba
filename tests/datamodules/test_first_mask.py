"""Masks cut out by colours: from a box, from scribbles; the same picture gives the same mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from movie_files import write_frames

from datamodules import PredictDataModule
from datamodules.first_mask import read_box, read_given
from datamodules.grabcut import Box, grow, object_in_box
from datamodules.movies import open_movie

BOX = Box(20, 10, 60, 42)


def picture(size: tuple[int, int] = (72, 96)) -> tuple[np.ndarray, np.ndarray]:
    """A bright disc on dark noise, and where it is."""
    ys, xs = np.mgrid[: size[0], : size[1]]
    disc = (ys - 26) ** 2 + (xs - 40) ** 2 <= 12**2
    frame = np.random.default_rng(0).integers(0, 60, (*size, 3), dtype=np.uint8)
    frame[disc] += np.array([180, 120, 20], dtype=np.uint8)
    return frame, disc


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_what_a_box_encloses() -> None:
    frame, disc = picture()
    found = object_in_box(frame, BOX)
    assert iou(found, disc) > 0.97
    assert np.array_equal(found, object_in_box(frame, BOX))


def test_a_large_picture_is_cut_in_small() -> None:
    frame, disc = (np.kron(part, np.ones((16, 16, 1)[: part.ndim], dtype=part.dtype)) for part in picture())
    found = object_in_box(frame, Box(*(16 * side for side in BOX)))
    assert iou(found, disc.astype(bool)) > 0.93


def test_grown_from_a_scribble_and_kept_off_by_another() -> None:
    frame, disc = picture()
    frame[50:60, 30:50] = frame[26, 40]  # of the same colour, but not connected
    labels = np.zeros(disc.shape, dtype=np.uint8)
    labels[20:30, 44:70] = 2
    grown = grow(frame, labels, 3, [[(34, 26), (40, 30)]], [], 3)
    assert np.array_equal(grown == 2, labels == 2)
    assert iou(grown == 3, disc & (labels == 0)) > 0.9
    assert not (grown[48:] == 3).any()
    less = grow(frame, grown, 3, [[(34, 26), (40, 30)]], [[(32, 18), (40, 15)]], 5)
    assert not (less[14:18, 34:40] == 3).any()
    assert (less[26, 34], grow(frame, labels, 3, [], [[(3, 3)]], 3).max()) == (3, 2)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_box_is_given_to_a_prediction(direction: str, tmp_path: Path) -> None:
    frame, disc = picture()
    folder = write_frames(tmp_path / "clip", np.stack([frame] * 3))
    box = f"box={','.join(map(str, BOX))}"
    module = PredictDataModule(str(folder), box, direction=direction)  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="rough"):
        module.setup("predict")
    (footage,) = module.predict_dataloader()
    prompt = footage.passes[0].prompts[0].numpy()
    assert iou(prompt == 1, disc) > 0.97
    assert f"on frame 0000{0 if direction == 'forward' else 2}" in footage.given
    black = open_movie(write_frames(tmp_path / "black", np.zeros((1, 72, 96, 3), dtype=np.uint8)), 24)
    with pytest.raises(ValueError, match="no object with colours of its own"):
        read_given(Path(box), black)


@pytest.mark.parametrize("word", ["box=1,2,3", "box=1,2,3,x", "box=5,5,5,9", "box=0,0,97,9", "box=-1,0,4,4"])
def test_no_box(word: str) -> None:
    with pytest.raises(ValueError, match="give box=x0,y0,x1,y1"):
        read_box(word, (72, 96))
