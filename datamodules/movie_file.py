"""A movie file: the time stamps of all frames, and a decoder that may be asked for any of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from datamodules.cut_off import is_cut_off
from datamodules.images import shrunk
from datamodules.movie_source import REPACK, MovieSource

BLOCK = 16  # frames that are decoded in one go
BLOCK_BYTES = 2**27  # fewer of them where they are large


class MovieFile:
    """A file that FFmpeg can read; its first video stream, cover pictures apart.

    The time stamps of all frames are read at once, which decodes nothing; so the number of frames is exact, also at a
    variable rate. Rotation that the file asks for is done.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be read.
        PassingFault: at several tries, for a reason that may pass.
        ValueError: not a video, cut off, no frames, or no time stamps.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with MovieSource(path) as source:
            container, stream = source.container, _stream(source.container)
            if is_cut_off(path, container.format.name):
                raise ValueError(
                    f"{path}: its end is missing; copy it once more, or keep what there is: "
                    f"ffmpeg -i <it> -c copy new{path.suffix}"
                )
            with source.reading("damaged or cut off"):
                packets = [
                    (packet.pts, packet.dts, packet.is_keyframe)
                    for packet in container.demux(stream)
                    if packet.size and not packet.is_discard
                ]
            if not packets:
                raise ValueError(f"{path}: a video without frames; it may have been cut off while it was recorded")
            stamps = {pts for pts, _, _ in packets if pts is not None}
            if len(stamps) < len(packets):
                raise ValueError(f"{path}: frames without time stamps of their own; {REPACK}")
            self.stamps = np.array(sorted(stamps), dtype=np.int64)
            keys = sorted((pts, dts or pts) for pts, dts, is_key in packets if is_key and pts is not None)
            self.keys = np.array(keys, dtype=np.int64).reshape(-1, 2)  # presentation time, and where to seek
            base = stream.time_base or Fraction(1, 1000)
        count = len(self.stamps)
        width = max(5, len(str(count - 1)))
        self.frame_names = [f"{t:0{width}d}" for t in range(count)]
        self.seconds = [float((int(stamp) - int(self.stamps[0])) * base) for stamp in self.stamps]
        self.size = self._size()

    @property
    def identity(self) -> str:
        """Name, size and time of the file."""
        return repr(stamp(self.path))

    def reader(self, short_side: int | None = None) -> Callable[[int], Tensor]:
        """See :class:`~datamodules.movies.Movie`."""
        return _Decoder(self, short_side)

    def _size(self) -> tuple[int, int]:
        """``(H, W)`` of the first frame, upright."""
        with MovieSource(self.path) as source, source.reading("its first frame cannot be decoded"):
            picture = next(source.container.decode(_stream(source.container)), None)
        if picture is None or picture.pts != self.stamps[0]:
            raise ValueError(f"{self.path}: the time stamps of its frames cannot be relied on; {REPACK}")
        if picture.rotation % 90:
            raise ValueError(
                f"{self.path}: is to be shown rotated by {picture.rotation} degrees, which is no quarter turn; write "
                "it as it is to be seen: ffmpeg -i <it> new.mp4"
            )
        return _upright(picture)


class _Decoder:
    """Decodes block by block and keeps the last two, so that neighbours may be asked for in any order.

    A block is decoded on from the last one or, if that was not the one before it, from the key frame before it.
    """

    def __init__(self, movie: MovieFile, short_side: int | None) -> None:
        self.movie = movie
        self.short_side = short_side
        height, width = shrunk(movie.size, short_side)
        self._length = max(1, min(BLOCK, BLOCK_BYTES // (3 * height * width)))
        self._blocks: dict[int, list[Tensor]] = {}
        self._lock = threading.Lock()
        self._source: MovieSource | None = None
        self._pictures: Iterator[av.VideoFrame] = iter(())
        self._next = -1  # frame that the decoder is about to deliver
        self._sought = False  # whether it began in the middle of the file

    def __call__(self, t: int) -> Tensor:
        """Frame ``t``, ``(3, h, w)`` uint8 RGB.

        Raises:
            OSError: the file cannot be read any more.
            PassingFault: at several tries, for a reason that may pass.
            ValueError: it cannot be decoded.
        """
        number, place = divmod(t, self._length)
        with self._lock:
            if number not in self._blocks:
                if len(self._blocks) == 2:
                    del self._blocks[next(iter(self._blocks))]
                self._blocks[number] = self._decode(number * self._length, len(self.movie.stamps))
            return self._blocks[number][place]

    def _decode(self, first: int, count: int) -> list[Tensor]:
        """The block that begins with frame ``first``."""
        length = min(self._length, count - first)
        source = self._source if first == self._next else None
        self._next = -1  # after an error the decoder is at no known place
        frames = self._collect(source or self._enter(first), first, length)
        if len(frames) < length and self._sought:  # some files cannot be entered in the middle
            frames = self._collect(self._enter(0), first, length)
        if len(frames) < length:
            raise ValueError(f"{self.movie.path}: frame {first + len(frames)} of {count} cannot be decoded; {REPACK}")
        self._next = first + length
        return frames

    def _collect(self, source: MovieSource, first: int, length: int) -> list[Tensor]:
        """Frames from ``first`` on, up to the first one that is missing; earlier ones are passed over."""
        frames: list[Tensor] = []
        with source.reading(f"damaged near frame {first}"):
            for picture in self._pictures:
                stamp = self.movie.stamps[first + len(frames)]
                if picture.pts is None or picture.is_corrupt or picture.pts > stamp:
                    break
                if picture.pts == stamp:
                    frames.append(self._picture(first + len(frames), picture))
                    if len(frames) == length:
                        break
        return frames

    def _enter(self, t: int) -> MovieSource:
        """Make the decoder begin at the key frame before frame ``t``, at the beginning of the file if there is none."""
        movie = self.movie
        before = int(np.searchsorted(movie.keys[:, 0], movie.stamps[t], side="right")) - 1
        self._sought = before > 0
        if self._source is None or self._source.failed or not self._sought:
            if self._source is not None:
                self._source.close()
            self._source = MovieSource(movie.path)
        with self._source.reading(f"cannot be entered at frame {t}"):
            stream = _stream(self._source.container)
            if self._sought:
                self._source.container.seek(int(movie.keys[before, 1]), stream=stream)
            self._pictures = self._source.container.decode(stream)
        return self._source

    def _picture(self, t: int, picture: av.VideoFrame) -> Tensor:
        if (size := _upright(picture)) != (whole := self.movie.size):
            raise ValueError(
                f"{self.movie.path}: frame {t} is {size[0]}x{size[1]}, the first one {whole[0]}x{whole[1]} (height x "
                f"width); give all one size: ffmpeg -i <it> -vf scale={whole[1]}:{whole[0]} new.mp4"
            )
        width, height = shrunk((picture.width, picture.height), self.short_side)
        array = picture.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray()
        return to_tensor(np.rot90(array, round(picture.rotation / 90)))


def _stream(container: av.container.InputContainer) -> av.video.VideoStream:
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    others = ", ".join(stream.type for stream in container.streams)
    raise ValueError(f"{container.name}: no video in it{f', only {others}' if others else ''}; give another file")


def _upright(picture: av.VideoFrame) -> tuple[int, int]:
    """``(H, W)`` as it is shown."""
    lies = round(picture.rotation / 90) % 2
    return (picture.width, picture.height) if lies else (picture.height, picture.width)


def stamp(path: Path) -> tuple[str, int, int]:
    """Name, size and time of a file: they change when it does."""
    status = path.stat()
    return path.name, status.st_size, status.st_mtime_ns


def to_tensor(array: np.ndarray) -> Tensor:
    """``(H, W, 3)`` to ``(3, H, W)``."""
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))
