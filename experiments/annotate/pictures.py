"""Frames of a video as pictures for the browser; the video is never in memory as a whole."""

from __future__ import annotations

import threading
from collections import OrderedDict

import cv2
import numpy as np

from datamodules.movies import Movie

BYTES = 64 * 2**20  # of pictures that are kept
QUALITY = 88  # of JPEG, 0 to 100


class FramePictures:
    """JPEGs of the frames at their full size; those asked for last are kept.

    Args:
        movie: the video.
    """

    def __init__(self, movie: Movie) -> None:
        self._read = movie.reader()
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def frame(self, t: int) -> np.ndarray:
        """``(H, W, 3)`` uint8 RGB.

        Raises:
            OSError, ValueError: it cannot be read.
        """
        return self._read(t).permute(1, 2, 0).numpy()

    def jpeg(self, t: int) -> bytes:
        """A frame as a file.

        Raises:
            OSError, ValueError: it cannot be read.
        """
        with self._lock:
            if t in self._kept:
                self._kept.move_to_end(t)
                return self._kept[t]
        frame = cv2.cvtColor(self.frame(t), cv2.COLOR_RGB2BGR)
        content = cv2.imencode(".jpg", frame, (cv2.IMWRITE_JPEG_QUALITY, QUALITY))[1].tobytes()
        with self._lock:
            if t not in self._kept:
                self._kept[t] = content
                self._bytes += len(content)
            while self._bytes > BYTES and len(self._kept) > 1:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return content
