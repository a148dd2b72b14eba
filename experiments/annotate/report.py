"""What a prediction says of its frames as it runs, read as it grows (:class:`callbacks.ObjectReport`)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Report:
    """The lines of a report, read on from where the last look ended.

    Args:
        path: the file, which may come, grow, and begin anew.
        frame_names: of the video.

    Attributes:
        objects: frame number -> id -> ``[pixels, confidence]``.
        starts: how many predictions have begun.
        total: frames of all passes of the last one.
        done: how many of them are done.
        fps: frames a second of the last prediction.
    """

    def __init__(self, path: Path, frame_names: list[str]) -> None:
        self.path = path
        self.numbers = {name: t for t, name in enumerate(frame_names)}
        self.objects: dict[int, dict[int, list[float]]] = {}
        self.starts = self.total = self.done = 0
        self.fps = 0.0
        self._offset = 0
        self._file = 0  # its number: one that begins anew is another file
        self._began = (0.0, 0)

    def read_on(self) -> list[int]:
        """Read what is new.

        Returns:
            Numbers of the frames that it is about.
        """
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._file or status.st_size < self._offset:
                    self._file, self._offset = status.st_ino, 0
                    self.objects.clear()
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return []
        whole = content[: content.rfind(b"\n") + 1]  # the last line may still be on its way
        self._offset += len(whole)
        return [t for line in whole.splitlines() if (t := self._take(line)) is not None]

    def _take(self, line: bytes) -> int | None:
        try:
            said: dict[str, Any] = json.loads(line)
        except ValueError:  # cut off by a crash; the next prediction says it again
            return None
        if "starts" in said:
            self.starts += 1
            self.done, self.total, self.fps = sum(said["starts"]), sum(said["lengths"]), 0.0
            self._began = (said["time"], self.done)
            return None
        t = self.numbers.get(said.get("frame", ""))
        if t is None:
            return None
        own = {int(id_): values for id_, values in said["objects"].items()}
        self.objects[t] = own if said["pass"] == 0 else {**self.objects.get(t, {}), **own}
        self.done += 1
        began, before = self._began
        self.fps = (self.done - before) / max(1e-3, said["time"] - began)
        return t
