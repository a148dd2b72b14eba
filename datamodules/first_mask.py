"""What is given of a user's video: masks in files, or a box that a mask is cut out of."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.frame_names import frame_number
from datamodules.grabcut import Box, object_in_box
from datamodules.movies import Movie
from datamodules.prompts import Prompts, read_prompts

_BOX = "box=x0,y0,x1,y1"


def read_given(
    mask: Path, movie: Movie, direction: str = "forward", frame: str | None = None, masks: str | None = None
) -> Prompts:
    """The given masks of a video.

    Args:
        mask: file or folder, see :func:`~datamodules.prompts.read_prompts`; or ``box=x0,y0,x1,y1`` in pixels, which
            encloses the one object to follow. Its mask is what GrabCut makes of the colours: rough.
        movie: the video.
        direction: of the prediction.
        frame: name or number of the frame of a mask that names none, or of a box; ``None``: the first one, or the last
            one where the direction is ``backward``.
        masks: names of the frames whose masks are read, with commas between them; ``None``: the first one alone;
            ``all``: every one.

    Raises:
        FileNotFoundError: there is no such mask.
        ValueError: it cannot be used, there is no object in the box, or no such frame.
    """
    last = len(movie.frame_names) - 1
    default = last if direction == "backward" else 0
    if frame is not None:
        named = frame_number(frame, movie.frame_names)
        position = int(frame) if frame.isdecimal() else last + 1
        default = position if named is None else named
        if default > last:
            raise ValueError(
                f"data.frame={frame}: {movie.path} has no such frame, only {movie.frame_names[0]} to "
                f"{movie.frame_names[-1]}; give a name or a number from 0"
            )
    if not str(mask).startswith("box="):
        asked = None if masks is None else [name.strip() for name in masks.split(",")]
        return read_prompts(mask, movie.frame_names, movie.size, default, asked, frame is not None)
    box = read_box(str(mask), movie.size)
    name = movie.frame_names[default]
    found = object_in_box(movie.reader()(default).permute(1, 2, 0).numpy(), box)
    if not found.any():
        raise ValueError(
            f"{mask}: no object with colours of its own in it on frame {name}; paint a mask: make annotate"
        )
    rank_zero_warn(f"{mask}: the mask of frame {name} is rough, GrabCut's; look at it, and mend it: make annotate")
    prompts = Prompts({default: found.astype(np.uint8)})
    prompts.words = f"object 1 starts on frame {name} ({mask}, cut out by its colours)"
    return prompts


def read_box(word: str, size: tuple[int, int]) -> Box:
    """The box that a word names.

    Args:
        word: ``box=x0,y0,x1,y1``: columns from x0 to before x1, rows from y0 to before y1.
        size: ``(H, W)`` of the video.

    Raises:
        ValueError: not four numbers, or not a box within the frame.
    """
    numbers = re.fullmatch(r"box=(\d{1,6}),(\d{1,6}),(\d{1,6}),(\d{1,6})", word)
    if numbers is None:
        raise ValueError(f"{word}: not a box; give {_BOX} in pixels, such as box=40,60,200,320")
    box = Box(*map(int, numbers.groups()))
    if not (box.x0 < box.x1 <= size[1] and box.y0 < box.y1 <= size[0]):
        raise ValueError(f"{word}: no box in a frame of {size[1]}x{size[0]} (width x height); give {_BOX}, x0 < x1")
    return box
