"""Movies on a server that fails for a moment, or for good: read again, or refused, and never shorter in silence."""

from __future__ import annotations

import errno
import gc
import io
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from movie_files import moving_square, write_movie

from datamodules import movie_source, patient_file
from datamodules.movies import open_movie
from lightning_vos.passing import PASSING, PassingFault, passes

COUNT = 24
FRAMES = moving_square(COUNT, (64, 96))[0]
CODECS = {"a.mp4": "libx264", "a.mkv": "ffv1", "a.avi": "mpeg4", "a.ts": "libx264"}


class Failing(io.FileIO):
    """Reads ``good`` times, then fails ``bad`` times with an error of the number, then reads again."""

    good, bad, number = 0, 0, errno.EIO

    def readinto(self, buffer: Any) -> int:
        if Failing.good > 0:
            Failing.good -= 1
        elif Failing.bad > 0:
            Failing.bad -= 1
            raise OSError(Failing.number, "it does not answer")
        return super().readinto(buffer)


def read(path: Path) -> np.ndarray:
    """All frames."""
    movie = open_movie(path, 25)
    show = movie.reader()
    return np.stack([show(t).numpy() for t in range(len(movie.frame_names))])


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small reads, so that there are some in every part of a file."""
    monkeypatch.setattr(patient_file, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(patient_file, "_BUFFER", 1024)
    monkeypatch.setattr(movie_source, "_READ_AT_ONCE", 1024)
    monkeypatch.setattr(io, "FileIO", Failing)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.usefixtures("failing")
def test_a_movie_is_read_again(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_movie(tmp_path / name, FRAMES, CODECS[name])
    Failing.good, Failing.bad = 1_000_000, 0
    whole = read(path)
    assert len(whole) == COUNT
    reads = 1_000_000 - Failing.good
    for good in range(0, reads, max(1, reads // 8)):
        Failing.number = sorted(PASSING)[good % len(PASSING)]
        Failing.good, Failing.bad = good, 3
        assert np.array_equal(read(path), whole)
        Failing.good, Failing.bad = good, 1_000_000
        with pytest.raises(PassingFault, match=rf"{name}: it does not answer, at every of 4 tries"):
            read(path)
        Failing.number, Failing.good, Failing.bad = errno.EACCES, good, 1_000_000
        with pytest.raises(PermissionError) as caught:
            read(path)
        assert caught.value.filename == str(path)
        assert not passes(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("failing")
def test_a_reader_goes_on_after_a_fault(tmp_path: Path) -> None:
    path = write_movie(tmp_path / "a.mkv", FRAMES, "ffv1")
    Failing.good, Failing.bad, Failing.number = 1_000_000, 0, errno.ESTALE
    whole, show = read(path), open_movie(path, 25).reader()
    show(0)
    Failing.good, Failing.bad = 2, 4
    with pytest.raises(PassingFault):
        show(20)
    assert [np.array_equal(show(t), whole[t]) for t in (20, 3, 23)] == [True, True, True]


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_a_forked_process_leaves_decoders_alone_that_it_inherits(container: str, tmp_path: Path) -> None:
    """FFmpeg would wait there for ever for its threads."""
    path = write_movie(tmp_path / f"a.{container}", FRAMES)
    gc.disable()
    try:
        open_movie(path, 25).reader()(0)  # garbage from here on
        child = multiprocessing.get_context("fork").Process(target=gc.collect)
        child.start()
        child.join(30)
        ended = child.exitcode
        child.kill()
        assert ended == 0
    finally:
        gc.enable()


LISTS = {
    "ffconcat": "ffconcat version 1.0\nfile other.mp4\n",
    "hls": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.mp4\n#EXT-X-ENDLIST\n",
}


@pytest.mark.parametrize("kind", LISTS)
def test_no_other_file_is_opened(kind: str, tmp_path: Path) -> None:
    write_movie(tmp_path / "other.mp4", FRAMES)
    (tmp_path / "a.mp4").write_text(LISTS[kind])
    with pytest.raises(ValueError, match=r"a\.mp4: not a readable video"):
        open_movie(tmp_path / "a.mp4", 25)


def test_a_title_in_letters_of_another_time(tmp_path: Path) -> None:
    path = write_movie(tmp_path / "a.avi", FRAMES, "mpeg4", title="Title of the film")
    content = path.read_bytes()
    assert b"Lavf" in content
    path.write_bytes(content.replace(b"Lavf", b"L\xe4vf"))
    assert len(open_movie(path, 25).frame_names) == COUNT
