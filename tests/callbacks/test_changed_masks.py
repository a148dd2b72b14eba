"""Given masks that change: only what depends on them is segmented again, and the masks are those of a fresh start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import METHODS, small
from lightning import LightningModule, Trainer
from movie_files import moving_square, predict, write_frames, write_mask, written
from torch import Tensor

from callbacks.prediction_record import thinned
from lightning_vos.frame_callback import FrameCallback
from lightning_vos.video import Video

pytestmark = pytest.mark.slow

FRAMES = 12


class Seen(FrameCallback):
    """Names of the frames that were segmented, pass after pass."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def on_frame_end(
        self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int, frame: Tensor, labels: Tensor
    ) -> None:
        self.names.append(video.frame_names[t])


def clip(folder: Path) -> tuple[Path, Path]:
    """A clip with object 1 given on frame 0."""
    frames, labels = moving_square(FRAMES, objects=2)
    write_mask(folder / "given" / "00000.png", (labels[0] == 1).astype(np.uint8))
    return write_frames(folder / "clip", frames), folder / "given"


@pytest.mark.parametrize("method", METHODS)
def test_a_mended_mask_is_gone_on_from(method: str, tmp_path: Path) -> None:
    """Complete, object 1 corrected and 2 added on frame 9: from the snapshot of frame 8 on, as from the start."""
    video, given = clip(tmp_path)
    model, seen = small(method), Seen()
    data = {"video": video, "mask": given, "masks": "all", "every": 4, "snapshots": 4}
    predict(model, tmp_path / "out", seen, **data)
    assert len(seen.names) == FRAMES
    _, labels = moving_square(FRAMES, objects=2)
    write_mask(given / "00009.png", labels[9])
    seen = Seen()
    predict(model, tmp_path / "out", seen, **data)
    assert seen.names == [f"{t:05d}" for t in range(8, FRAMES)]
    predict(model, tmp_path / "fresh", **{**data, "snapshots": 1})
    mended, fresh = (written(tmp_path / name, "clip") for name in ("out", "fresh"))
    assert list(mended) == list(fresh)
    assert all(np.array_equal(mended[name], mask) for name, mask in fresh.items())
    assert 2 in mended["00009"]
    manifests = [(tmp_path / name / "manifests" / "clip.json").read_bytes() for name in ("out", "fresh")]
    assert manifests[0] == manifests[1]


@pytest.mark.parametrize(("mended", "again"), [("backward", (3, 0)), ("both", (8, FRAMES - 1))])
def test_other_directions(mended: str, again: tuple[int, int], tmp_path: Path) -> None:
    """Objects are given on frame 6. The backward pass depends on frame 3, in ``both`` the forward pass on frame 9."""
    frames, labels = moving_square(FRAMES, objects=2)
    video, given = write_frames(tmp_path / "clip", frames), tmp_path / "given"
    write_mask(given / "00006.png", labels[6])
    model, seen = small("HMMN"), Seen()
    data = {"video": video, "mask": given, "masks": "all", "direction": mended, "every": 2, "snapshots": 9}
    predict(model, tmp_path / "out", **data)
    write_mask(given / f"{3 if mended == 'backward' else 9:05d}.png", labels[3])
    predict(model, tmp_path / "out", seen, **data)
    assert (seen.names[0], seen.names[-1]) == tuple(f"{t:05d}" for t in again)
    predict(model, tmp_path / "fresh", **{**data, "snapshots": 1})
    mended_masks, fresh = (written(tmp_path / name, "clip") for name in ("out", "fresh"))
    assert list(mended_masks) == list(fresh)
    assert all(np.array_equal(mended_masks[name], mask) for name, mask in fresh.items())


def test_stale_masks_do_not_outlive_the_mask_that_they_follow(tmp_path: Path) -> None:
    """A run that goes on from a snapshot and is stopped leaves no mask of before the change."""
    video, given = clip(tmp_path)
    model = small("HMMN")
    data = {"video": video, "mask": given, "masks": "all", "every": 4, "snapshots": 4}
    predict(model, tmp_path / "out", **data)
    write_mask(given / "00009.png", moving_square(FRAMES, objects=2)[1][9])

    class Stopped(Seen):
        def on_frame_start(self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int) -> None:
            if t == 10:
                raise InterruptedError

    with pytest.raises(InterruptedError):
        predict(model, tmp_path / "out", Stopped(), **data)
    assert sorted(written(tmp_path / "out", "clip")) == [f"{t:05d}" for t in range(10)]
    assert not (tmp_path / "out" / "manifests" / "clip.json").exists()


def test_snapshots_thin_out_with_their_age() -> None:
    places: list[tuple[int, int]] = []
    for t in range(20, 10_001, 20):
        places = thinned([*places, (0, t)], 10)
    frames = [t for _, t in places]
    assert len(frames) == 10
    assert frames[-3:] == [9960, 9980, 10_000]
    assert 4000 < frames[0] < 6000
    gaps = np.diff(frames)
    assert (gaps[:-1] >= gaps[1:]).all()
    assert thinned([(0, 20), (0, 40), (1, 20)], 1) == [(1, 20)]
    assert thinned([(0, 20), (0, 40), (1, 20)], 2) == [(0, 20), (0, 40), (1, 20)]
