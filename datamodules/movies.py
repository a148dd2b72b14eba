"""A user's video: a file that is decoded as it is read, in either direction, or a folder of pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from datamodules.annotations import PICTURES
from datamodules.images import IMAGE_SUFFIXES, image_size, read_image
from datamodules.listing import check_order, pictures
from datamodules.movie_file import MovieFile, stamp, to_tensor

MOVIE_SUFFIXES = (
    ".mp4",
    ".m4v",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".mpg",
    ".mpeg",
    ".ts",
    ".mts",
    ".m2ts",
    ".wmv",
    ".asf",
    ".flv",
    ".f4v",
    ".3gp",
    ".3g2",
    ".ogv",
    ".vob",
    ".mxf",
    ".y4m",
    ".nut",
    ".gif",
)


class Movie(Protocol):
    """Frames in playing order.

    Attributes:
        path: file or folder.
        size: ``(H, W)`` of every frame, upright.
        frame_names: of every frame, in order.
        seconds: time at which each frame is shown.
    """

    path: Path
    size: tuple[int, int]
    frame_names: list[str]
    seconds: list[float]

    @property
    def identity(self) -> str:
        """Changes when the files do."""

    def reader(self, short_side: int | None = None) -> Callable[[int], Tensor]:
        """A function that reads frame number -> ``(3, h, w)`` uint8 RGB, upright.

        It may be called in any order and from several threads; neighbours after one another are fast, in either
        direction. Its memory is bounded, however long the video.

        Args:
            short_side: frames are shrunk so that the shorter side has at most this many pixels; ``None`` keeps them.
        """


def open_movie(path: Path, fps: float, mask: Path | None = None) -> Movie:
    """A video file, a folder of pictures, or a single picture.

    Args:
        path: what to open.
        fps: pictures a second of a folder; a file has its own time.
        mask: file or folder of the given masks: if it lies among the frames, it is none of them.

    Raises:
        FileNotFoundError: there is nothing there.
        ValueError: no video, no frames, frames of different sizes.
    """
    if path.is_dir():
        return FrameFolder(path, _frames(path, mask), fps)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such video; give a video file, or a folder of pictures or of videos")
    return FrameFolder(path, [path], fps) if path.suffix.lower() in IMAGE_SUFFIXES else MovieFile(path)


def _frames(path: Path, mask: Path | None) -> list[Path]:
    """The frames in a folder, without the mask or masks that lie there."""
    found = pictures(path)
    if mask is None or not mask.exists():
        return found
    if not mask.samefile(path):
        return [file for file in found if not mask.samefile(file)]
    frames = [file for file in found if file.suffix.lower() not in PICTURES]
    if found and not frames:
        raise ValueError(
            f"{path}: frames and masks in one folder, all of one kind; give the masks a folder of their own"
        )
    return frames


class FrameFolder:
    """Pictures in the order of their names; numbers in them count as numbers, so 10 comes after 9.

    Args:
        path: for messages.
        frames: the files, in order.
        fps: pictures a second.

    Raises:
        ValueError: no picture, a damaged one, two of one frame, names of different kinds, or different sizes.
    """

    def __init__(self, path: Path, frames: Sequence[Path], fps: float) -> None:
        self.path = path
        self.pictures = list(frames)
        if not self.pictures:
            raise ValueError(f"{path}: no frames; a folder of a video holds {', '.join(IMAGE_SUFFIXES)} files")
        self.frame_names = [picture.stem for picture in self.pictures]
        self.size = image_size(self.pictures[0], upright=True)
        self.seconds = [t / fps for t in range(len(self.pictures))]
        check_order(self.pictures)
        for picture in self.pictures:
            if (size := image_size(picture, upright=True)) != self.size:
                raise ValueError(
                    f"{picture} is {size[0]}x{size[1]} but {self.pictures[0].name} is {self.size[0]}x{self.size[1]} "
                    "(height x width, upright); the frames of a video have one size"
                )

    @property
    def identity(self) -> str:
        """Names, sizes and times of the files."""
        return repr([stamp(picture) for picture in self.pictures])

    def reader(self, short_side: int | None = None) -> Callable[[int], Tensor]:
        """See :class:`Movie`; nothing is kept."""
        return lambda t: to_tensor(read_image(self.pictures[t], short_side, upright=True))
