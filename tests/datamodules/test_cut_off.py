"""Movies that are not all there, or change in the middle, are refused; unusual ones that are whole are not."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from movie_files import moving_square, write_movie
from PIL import Image

from datamodules.movies import open_movie

COUNT, SHAPE = 30, (64, 96)
FRAMES = moving_square(COUNT, SHAPE)[0]
MOVIES = {"a.mkv": "libx264", "a.webm": "libvpx", "a.ts": "libx264", "a.flv": "libx264", "a.mp4": "libx264"}


def gif(path: Path) -> Path:
    pictures = [Image.fromarray(frame) for frame in FRAMES]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40)
    return path


def read(path: Path) -> int:
    movie = open_movie(path, 25)
    show = movie.reader()
    for t in range(len(movie.frame_names)):
        show(t)
    return len(movie.frame_names)


@pytest.mark.parametrize("name", [*MOVIES, "a.gif"])
def test_a_movie_that_was_cut_off(name: str, tmp_path: Path) -> None:
    options = {"deadline": "realtime"} if name == "a.webm" else {}
    path = gif(tmp_path / name) if name == "a.gif" else write_movie(tmp_path / name, FRAMES, MOVIES[name], **options)
    assert read(path) == COUNT
    whole = path.read_bytes()
    for share in (0.4, 0.5, 0.6, 0.75, 0.9, 0.97):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ValueError, match=rf"{name}: (its end is missing|not a readable|damaged|frame|a video w)"):
            read(path)
    if name in ("a.mkv", "a.webm", "a.flv"):
        path.write_bytes(whole[:-1])
        with pytest.raises(ValueError, match=r"its end is missing; copy it once more, .*-c copy new\."):
            read(path)


def test_a_recording_that_states_no_length_is_whole(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w", options={"live": "1"}) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *SHAPE, "yuv420p"
        for frame in FRAMES:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    assert read(tmp_path / "a.mkv") == COUNT


@pytest.mark.parametrize("seconds", [[t / 25 for t in range(29)] + [9.0], [5 + t / 25 for t in range(30)]])
def test_a_long_last_frame_or_a_late_beginning_is_no_cut(seconds: list[float], tmp_path: Path) -> None:
    assert read(write_movie(tmp_path / "a.mkv", FRAMES, seconds=seconds)) == COUNT


def test_sound_that_goes_on_is_no_cut(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *SHAPE, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for frame in FRAMES:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
        for t in range(100):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), layout="mono")
            samples.rate, samples.pts, samples.time_base = 8000, 800 * t, Fraction(1, 8000)
            container.mux(sound.encode(samples))
    assert read(tmp_path / "a.mkv") == COUNT


def test_a_change_of_resolution_names_file_and_remedy(tmp_path: Path) -> None:
    path = write_movie(tmp_path / "a.ts", FRAMES)
    other = write_movie(tmp_path / "b.ts", moving_square(6, (32, 48))[0], seconds=[2 + t / 25 for t in range(6)])
    path.write_bytes(path.read_bytes() + other.read_bytes())
    with pytest.raises(ValueError, match=r"a\.ts: frame 30 is 32x48, the first one 64x96 .*-vf scale=96:64 new\.mp4"):
        read(path)
