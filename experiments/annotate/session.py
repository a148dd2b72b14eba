"""One video that is annotated: what is given, what was predicted, what is running, and what the page must know."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from callbacks.mask_png import laid_over
from datamodules.grabcut import Stroke, grow
from datamodules.images import read_labels
from datamodules.movies import Movie
from experiments.annotate.given import GivenMasks
from experiments.annotate.pictures import FramePictures
from experiments.annotate.propagation import Propagation
from experiments.annotate.report import Report
from lightning_vos.atomic import unfinished
from lightning_vos.results_folder import ResultsFolder

DIRECTIONS = ("forward", "backward", "both")
_DONE = {"propagate": "every mask is up to date", "export": "overlays, alpha and rle are written"}
EXPORTS = ("--trainer.callbacks.alpha=true", "--trainer.callbacks.rle=true")


class Refused(Exception):
    """What the page asks for cannot be done now; the message says why."""


class Session:
    """All that the page asks for, on any thread.

    Args:
        movie: the video.
        name: of the video, as a prediction calls it.
        out: folder of the prediction; given masks lie in its ``given``.
        propagation: with the words of ``predict`` on that video, folder and given masks.
        config: file of settings that go over those of ``predict`` when masks are propagated.
        direction: of the first propagation.

    Raises:
        ValueError: there are given masks that do not belong to the video.
    """

    def __init__(
        self, movie: Movie, name: str, out: Path, propagation: Propagation, config: str, direction: str = "forward"
    ) -> None:
        self.movie, self.name, self.out = movie, name, out
        self.pictures = FramePictures(movie)
        self.given = GivenMasks(out / "given", movie.frame_names, movie.size)
        self.propagation, self.config = propagation, config
        self.report = Report(out / "objects" / f"{name}.jsonl", movie.frame_names)
        self.results = ResultsFolder(out)
        self.direction, self.changed = direction, set[int]()  # frames whose given masks no prediction has seen
        self.tab = ""  # the page that may change something
        self.message, self.failed = "", False
        self._lock = threading.RLock()
        self._running, self._seen = "", 0
        self._until: int | None = None
        self._at = 0
        self._present: set[int] = set()
        self._log: list[int] = []  # frames of which something has changed, in turn
        self._load()
        self.report.read_on()
        self._look_at_masks()

    def labels(self, t: int) -> np.ndarray:
        """``(H, W)`` uint8 ids as they are known: what is given, and else what was predicted.

        Raises:
            ValueError: a mask on disk is damaged, or of another size.
        """
        given = self.given.read(t)
        path = self.results.mask(self.name, self.movie.frame_names[t])
        found = read_labels(path) if path.exists() else np.zeros(self.movie.size, dtype=np.uint8)
        if found.shape != self.movie.size:
            raise ValueError(f"{path}: a mask of another video; give another folder OUT")
        if given is None:
            return found
        return laid_over(torch.tensor(given), torch.tensor(found)).numpy()

    def give(self, t: int, labels: np.ndarray | None) -> None:
        """Write what is given on a frame, whole or not at all; ``None`` takes it back.

        Raises:
            Refused: masks are being propagated.
            OSError, ValueError: it cannot be written; what was there stays.
        """
        with self._lock:
            if self.propagation.running:
                raise Refused("masks are being propagated; stop that first, then paint")
            # noted before it is true: a crash in between makes one frame too many be done again
            self.changed.add(t)
            self._save()
            if labels is None:
                self.given.remove(t)
            else:
                self.given.write(t, labels)
            self._log.append(t)

    def grow(self, t: int, id_: int, inside: Sequence[Stroke], outside: Sequence[Stroke], width: int) -> np.ndarray:
        """The labels of a frame if the object is grown from scribbles; nothing is written."""
        return grow(self.pictures.frame(t), self.labels(t), id_, inside, outside, width)

    def propagate(self, direction: str, until: int | None = None) -> None:
        """Start to bring all masks up to date with what is given, from the first one that is not.

        Args:
            direction: in time.
            until: frame after which it stops; ``None``: none.

        Raises:
            Refused: it is running already, or nothing is given.
            ValueError: no such direction.
        """
        if direction not in DIRECTIONS:
            raise ValueError(f"direction={direction}: give one of {', '.join(DIRECTIONS)}")
        with self._lock:
            self._check_idle()
            self.direction, self._until = direction, until
            self._start("propagate", f"--config={self.config}")

    def export(self) -> None:
        """Start to write overlay, mattes and run-length codes of the masks.

        Raises:
            Refused: some frames have no mask of what is given now.
        """
        if not self.complete:
            raise Refused("not all masks are there, or some were mended since; propagate first")
        self._start("export", *EXPORTS)

    def stop(self) -> None:
        """End what is running; the masks that are there stay."""
        self.propagation.stop()

    @property
    def complete(self) -> bool:
        """Whether every frame has a mask of what is given now."""
        return not self.changed and (self.out / "manifests" / f"{self.name}.json").exists()

    def state(self, since: int = 0) -> dict[str, Any]:
        """What has changed since a version that was told before; 0: everything."""
        with self._lock:
            self._refresh()
            frames = range(len(self.movie.frame_names)) if since == 0 else sorted({*self._log[since - 1 :]})
            report = self.report
            return {
                "version": len(self._log) + 1,
                "frames": {t: self._frame(t) for t in frames},
                "running": self._running,
                "begun": report.starts > self._seen,
                "done": report.done,
                "total": report.total,
                "fps": report.fps,
                "at": self._at,
                "message": self.message,
                "failed": self.failed,
                "changed": sorted(self.changed),
                "direction": self.direction,
                "complete": self.complete and not self._running,
                "look": self.least_certain(),
            }

    def least_certain(self) -> int | None:
        """The frame with the object of the lowest confidence, of those that are up to date and not given."""
        sure = {
            t: min(confidence for area, confidence in objects.values() if area)
            for t, objects in self.report.objects.items()
            if t in self._present and t not in self.given.ids and any(area for area, _ in objects.values())
        }
        return min(sure, key=lambda t: sure[t]) if sure and not self.changed else None

    def close(self) -> None:
        """End what is running."""
        self.propagation.close()

    # ---------------------------------------------------------------- inside

    def _check_idle(self) -> None:
        if self.propagation.running:
            raise Refused("masks are being propagated already")
        if not self.given.ids:
            raise Refused("no object is given; paint one on any frame, then propagate")

    def _start(self, what: str, *options: str) -> None:
        with self._lock:
            self._check_idle()
            self._seen, self.message = self.report.starts, ""
            if what == "propagate" and self.changed:
                (self.out / "overlays" / f"{self.name}.mp4").unlink(missing_ok=True)  # of masks that change
            self.propagation.start(*options, "--data.masks=all", f"--data.direction={self.direction}")
            self._running = what

    def _refresh(self) -> None:
        ended = self.propagation.ended()  # before the report is read to its end
        told = self.report.read_on()
        if told:
            self._at = told[-1]
            self._present.update(told)
            self._log += told
            if self._until is not None and self._until in told and not ended:
                self.stop()
        if self._running == "propagate" and self.report.starts > self._seen and self.changed:
            self.changed.clear()  # the masks that do not follow what is given are gone
            self._save()
            self._look_at_masks()
        if ended is not None:
            what, self._running, self._until = self._running, "", None
            self.failed = bool(ended.problem)
            self.message = ended.problem or ("stopped" if ended.stopped else _DONE[what])
            self._look_at_masks()

    def _look_at_masks(self) -> None:
        folder = self.results.masks / self.name
        names = {path.stem for path in folder.glob("*.png")} if folder.is_dir() else set()
        self._present = {t for t, name in enumerate(self.movie.frame_names) if name in names}
        self._log += range(len(self.movie.frame_names))

    def _frame(self, t: int) -> dict[str, Any]:
        told = self.report.objects.get(t, {}) if t in self._present else {}
        return {"mask": t in self._present, "given": self.given.ids.get(t, []), "objects": told}

    def _load(self) -> None:
        try:
            said = json.loads((self.out / "annotation.json").read_text(encoding="utf-8"))
            self.changed = {int(t) for t in said["changed"]}
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            self.changed = set(self.given.ids)

    def _save(self) -> None:
        with unfinished(self.out / "annotation.json") as beside:
            beside.write_text(json.dumps({"changed": sorted(self.changed)}), encoding="utf-8")
