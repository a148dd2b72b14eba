"""Predictions from video to masks: what is given comes back, an interruption leaves no trace, bad input is one line."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from conftest import METHODS, SMALL, small, squares
from lightning import LightningModule, Trainer
from movie_files import (
    SIZE,
    assert_same,
    contents,
    moving_square,
    predict,
    write_frames,
    write_mask,
    write_movie,
    written,
)
from PIL import Image
from power_cut import cut
from pycocotools import mask as run_length
from tiny_runs import ROOT, commands, started
from torch import Tensor

from callbacks import MaskExports, OverlayVideo, PredictionProgress
from datamodules.prompts import read_prompts
from lightning_vos import VOSModule
from lightning_vos.cli import run
from lightning_vos.frame_callback import FrameCallback
from lightning_vos.functional import one_hot
from lightning_vos.video import Video

pytestmark = pytest.mark.slow

FRAMES = 11
FAST = "HMMN"


@pytest.fixture(scope="module")
def model() -> VOSModule:
    return small(FAST)


def two_objects(folder: Path) -> dict[str, Any]:
    """A clip with a mask of two objects on frame 4, and of a third one, number 7, on frame 8."""
    frames, labels = moving_square(FRAMES, objects=3)
    labels = np.array([0, 3, 5, 7], dtype=np.uint8)[labels]
    write_mask(folder / "m" / "00004.png", np.where(labels[4] == 7, 0, labels[4]))
    write_mask(folder / "m" / "00008.png", np.where(labels[8] == 7, 7, 0).astype(np.uint8))
    clip = write_movie(folder / "clip.mp4", frames)
    return {"video": clip, "mask": folder / "m", "masks": "all"}


# ---------------------------------------------------------------- what comes out


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_given_masks_come_back_and_directions_fill_the_video(direction: str, model: VOSModule, tmp_path: Path) -> None:
    data = two_objects(tmp_path)
    predict(model, tmp_path / "out", direction=direction, **data)
    masks = written(tmp_path / "out", "clip")
    assert list(masks) == [f"{t:05d}" for t in range(FRAMES)]
    assert all(mask.shape == SIZE for mask in masks.values())
    for name in ("00004", "00008"):
        given = np.array(Image.open(tmp_path / "m" / f"{name}.png"))
        ids = np.unique(given[given > 0])
        assert np.array_equal(np.where(np.isin(masks[name], ids), masks[name], 0), given)
    followed = {"forward": range(4, FRAMES), "backward": range(9), "both": range(FRAMES)}[direction]
    for t in range(FRAMES):
        assert t in followed or not masks[f"{t:05d}"].any()
    assert set(np.unique([masks[f"{t:05d}"] for t in followed])) <= {0, 3, 5, 7}
    assert {"forward": 5, "backward": 5, "both": 5}[direction] in masks["00004"]


def test_both_directions_are_the_forward_pass_filled_by_the_backward_one(model: VOSModule, tmp_path: Path) -> None:
    data = two_objects(tmp_path)
    for direction in ("forward", "backward", "both"):
        predict(model, tmp_path / direction, direction=direction, **data)
    forward, backward, both = (written(tmp_path / name, "clip") for name in ("forward", "backward", "both"))
    for t in range(FRAMES):
        name = f"{t:05d}"
        if t < 4:
            expected = backward[name]
        elif t < 8:
            expected = np.where((forward[name] == 0) & (backward[name] == 7), 7, forward[name])
        else:
            expected = forward[name]
        assert np.array_equal(both[name], expected)
    assert any((both[f"{t:05d}"] == 7).any() for t in range(8))


def test_sigterm_ends_a_prediction_that_then_goes_on(model: VOSModule, tmp_path: Path) -> None:
    data = two_objects(tmp_path)
    predict(model, tmp_path / "whole", **data)
    cut(FAST, tmp_path / "ended", 7, by=signal.SIGTERM, **data)
    assert 0 < len(written(tmp_path / "ended", "clip")) < FRAMES
    predict(model, tmp_path / "ended", **data)
    whole, ended = (written(tmp_path / name, "clip") for name in ("whole", "ended"))
    assert all(np.array_equal(ended[name], mask) for name, mask in whole.items())


@pytest.mark.parametrize("method", METHODS)
def test_masks_are_those_of_the_users_own_loop(method: str, tmp_path: Path) -> None:
    model = small(method)
    frames, labels = squares(1, 5, 2)
    folder = write_frames(tmp_path / "v", frames[0].permute(0, 2, 3, 1).contiguous().numpy())
    write_mask(tmp_path / "m.png", labels[0, 0].numpy())
    predict(model, tmp_path / "out", video=folder, mask=tmp_path / "m.png")
    masks = written(tmp_path / "out", "v")
    with model.sequence():
        for t in range(5):
            logits = model.step(frames[:, t], one_hot(labels[:, 0], 2) if t == 0 else None, remember=t < 4)
            assert np.array_equal(masks[f"{t:05d}"], logits.argmax(1)[0].numpy())


def test_overlay_mattes_and_codes_show_the_masks(model: VOSModule, tmp_path: Path) -> None:
    frames, labels = moving_square(5, (31, 45), objects=2)
    seconds = [0, 0.1, 0.5, 0.6, 2.0]
    clip = write_movie(tmp_path / "a clip.mkv", frames, "ffv1", seconds)
    mask = write_mask(tmp_path / "m.png", labels[0])
    out = tmp_path / "out"
    predict(model, out, OverlayVideo(alpha=1.0), MaskExports(alpha=True, rle=True), video=clip, mask=mask)
    masks = written(out, "a clip")
    with av.open(str(out / "overlays" / "a clip.mp4")) as container:
        drawn = [(float(frame.time), frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert [time for time, _ in drawn] == pytest.approx(seconds, abs=0.002)
    assert drawn[0][1].shape == (32, 46, 3)  # even sides
    inside = labels[0] == 1
    inside[1:-1, 1:-1] &= inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    red, green, blue = np.median(drawn[0][1][:31, :45][inside], axis=0)
    assert red > 90 > 60 > max(green, blue)  # (128, 0, 0), as far as the encoder keeps colours
    for name, labels_ in masks.items():
        matte = np.array(Image.open(out / "alpha" / "a clip" / f"{name}.png"))
        assert np.array_equal(matte, (labels_ > 0) * 255)
    codes = json.loads((out / "rle" / "a clip.json").read_text())["annotations"]
    decoded = {name: np.zeros((31, 45), dtype=np.uint8) for name in masks}
    for code in codes:
        decoded[code["frame"]][run_length.decode(code["segmentation"]) > 0] = code["track_id"]
    assert all(np.array_equal(decoded[name], masks[name]) for name in masks)
    again = read_prompts(out / "rle" / "a clip.json", list(masks), (31, 45), asked=["all"])
    assert all(np.array_equal(again[t], masks[f"{t:05d}"]) for t in again)


def test_progress_lines(model: VOSModule, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = two_objects(tmp_path)
    predict(model, tmp_path / "out", PredictionProgress(50), direction="both", **data)
    lines = [line for line in capsys.readouterr().out.splitlines() if "FPS" in line]
    assert [line.split()[:3] for line in lines] == [["clip", done, "frames"] for done in ("8/16", "16/16")]
    assert all("objects" in line and line.endswith(" left") for line in lines)


# ---------------------------------------------------------------- interruptions


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("direction", "amid_mask"), [("forward", False), ("both", True)])
def test_a_killed_prediction_ends_as_if_nothing_had_happened(
    method: str, direction: str, amid_mask: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small(method)
    data = {**two_objects(tmp_path), "direction": direction}
    predict(model, tmp_path / "whole", OverlayVideo(), every=3, **data)
    out = tmp_path / "killed"
    rng = np.random.default_rng(sum(map(ord, method + direction)))
    for frame in (rng.integers(5, 9), rng.integers(2, 5)):  # the second one comes when a few frames more are done
        cut(method, out, int(frame), amid_mask, every=3, **data)
        assert not (out / "manifests").exists()
        assert not (out / "overlays").exists()
    capsys.readouterr()
    predict(model, out, OverlayVideo(), every=3, **data)
    assert "clip: going on at frame" in capsys.readouterr().out
    assert_same(out, tmp_path / "whole")


def test_a_finished_video_is_left_alone_unless_something_has_changed(model: VOSModule, tmp_path: Path) -> None:
    data, out = two_objects(tmp_path), tmp_path / "out"
    seen: list[int] = []

    class Count(FrameCallback):
        def on_frame_start(self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int) -> None:
            seen.append(t)

    def frames(used: VOSModule = model, **changed: Any) -> int:
        seen.clear()
        predict(used, out, Count(), OverlayVideo(), **{**data, **changed})
        return len(seen)

    assert frames() == FRAMES
    before = contents(out)
    assert frames() == 0
    assert contents(out) == before
    (out / "masks" / "clip" / "00006.png").write_bytes(b"damaged")
    assert frames() == FRAMES
    (out / "masks" / "clip" / "00006.png").unlink()
    assert frames() == FRAMES
    assert contents(out) == before
    (out / "overlays" / "clip.mp4").unlink()
    assert frames() == 0
    assert contents(out) == before
    assert frames(masks=None) == FRAMES
    assert frames(short_side=24, masks=None) == FRAMES
    assert frames(small(FAST, seed=1), short_side=24, masks=None) == FRAMES


def test_a_damaged_snapshot_is_not_trusted(model: VOSModule, tmp_path: Path) -> None:
    data, out = two_objects(tmp_path), tmp_path / "out"
    predict(model, tmp_path / "whole", **data)
    for content in (b"", b"PK\x03\x04 half a snapshot"):
        cut(FAST, out, 7, **data)
        (snapshot,) = (out / "progress" / "clip").glob("snapshot-*.pt")
        snapshot.write_bytes(content)
    predict(model, out, **data)
    assert_same(out, tmp_path / "whole")


# ---------------------------------------------------------------- several videos, the command line


@pytest.fixture(scope="module")
def checkpoint(model: VOSModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "last.ckpt"
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path)
    return path


def command(checkpoint: Path, video: Path, mask: Path, out: Path, *options: str) -> list[str]:
    """What ``make predict`` starts, on a CPU."""
    words = (f"METHOD={FAST.lower()}", f"CKPT={checkpoint}", f"VIDEO={video}", f"MASK={mask}", f"OUT={out}")
    (composed,) = commands("predict", *words)
    return [*composed, "--trainer.accelerator=cpu", *options]


def test_a_video_file_end_to_end(checkpoint: Path, model: VOSModule, tmp_path: Path) -> None:
    frames, labels = moving_square(6)
    clip = write_movie(tmp_path / "mein Vidéo 1.mp4", frames)
    mask = write_mask(tmp_path / "första bilden.png", labels[0])
    out = tmp_path / "out put"
    _, printed = started(command(checkpoint, clip, mask, out, "--trainer.callbacks.rle=true"))
    masks = written(out, "mein Vidéo 1")
    assert len(masks) == 6
    assert np.array_equal(masks["00000"], labels[0])
    assert (out / "overlays" / "mein Vidéo 1.mp4").is_file()
    assert (out / "rle" / "mein Vidéo 1.json").is_file()
    assert "6/6 frames" in printed
    predict(model, tmp_path / "python", video=clip, mask=mask)
    assert all(np.array_equal(mask, masks[name]) for name, mask in written(tmp_path / "python", "mein Vidéo 1").items())


def test_bad_videos_do_not_stop_the_others(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, labels = moving_square(4)
    videos, masks = tmp_path / "videos", tmp_path / "masks"
    good, bad = ["a", "b", "c", "d", "e", "f", "g"], ["cut", "half", "lone", "none", "turns"]
    for name in [*good[:4], "none"]:
        write_movie(videos / f"{name}.mp4", frames)
    for name in (*good[4:], "half", "lone"):
        write_frames(videos / name, frames, suffix=".jpg")
    for name in {*good, *bad} - {"lone"}:
        write_mask(masks / f"{name}.png", labels[0])
    (videos / "none.mp4").write_bytes(b"not a video")
    (videos / "half" / "00002.jpg").write_bytes((videos / "half" / "00002.jpg").read_bytes()[:-300])
    cut = write_movie(videos / "cut.mkv", frames)
    cut.write_bytes(cut.read_bytes()[:-300])
    turns = write_movie(videos / "turns.ts", frames)
    other = write_movie(tmp_path / "b.ts", moving_square(3, (48, 64))[0], seconds=[1, 1.04, 1.08])
    turns.write_bytes(turns.read_bytes() + other.read_bytes())
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["lightning_vos", *command(checkpoint, videos, masks, tmp_path / "out")])
    with pytest.raises(SystemExit) as stopped:
        run()
    assert stopped.value.code == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: 5 of 12 videos were not segmented: ")
    for name, problem in {
        "cut.mkv": "its end is missing",
        "half": "00002.jpg: not a readable image",
        "lone": "no mask in",
        "none.mp4": "not a readable video",
        "turns": "frame 4 is 48x64, the first one 32x48",
    }.items():
        assert re.search(rf"{name} \([^;]*{problem}", error), error
    assert sorted(path.stem for path in (tmp_path / "out" / "manifests").iterdir()) == good
    assert sorted(path.stem for path in (tmp_path / "out" / "overlays").iterdir()) == good


# ---------------------------------------------------------------- the state of a sequence


@pytest.mark.parametrize("method", METHODS)
def test_a_sequence_goes_on_from_its_saved_state(method: str, tmp_path: Path) -> None:
    model = small(method)
    frames, labels = squares(1, 12, 3)
    masks = {
        0: one_hot(labels[:, 0], 3)[:, :2],
        7: one_hot(labels[:, 7], 3) * torch.tensor([0, 0, 1.0]).view(1, 3, 1, 1),
    }

    def follow(model: VOSModule, first: int, last: int) -> list[Tensor]:
        return [model.step(frames[:, t], masks.get(t)) for t in range(first, last)]

    with model.sequence():
        whole = follow(model, 0, 12)
    for stop in (1, 4, 6, 9):
        with model.sequence():
            follow(model, 0, stop)
            torch.save(model.sequence_state(), tmp_path / "state.pt")
        other = small(method)
        with other.sequence():
            other.load_sequence_state(torch.load(tmp_path / "state.pt", weights_only=True))
            rest = follow(other, stop, 12)
        assert all(torch.equal(one, two) for one, two in zip(rest, whole[stop:], strict=True))


def test_every_method_is_in_the_tests() -> None:
    assert set(METHODS) == set(SMALL)
