"""What is known of a prediction on disk: which masks are whole, and where an interrupted one goes on."""

from __future__ import annotations

import json
import pickle
import shutil
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from lightning_vos import checksum
from lightning_vos.atomic import unfinished
from lightning_vos.results_folder import ResultsFolder

Place = tuple[int, int]  # number of a pass, and of a frame in it
Fingerprint = Callable[[Place | None], str]


class PredictionRecord:
    """Files of one video below the folder of a prediction.

    ``masks/<video>/<frame>.png`` are the result. ``progress/<video>/`` exists until it is complete: snapshots, the
    state of the model before some frame with checksums of all masks before it, and the masks of a first pass that the
    second one needs. ``manifests/<video>.json`` comes last: checksums of all masks.

    A record belongs to a fingerprint of everything the masks depend on, a snapshot to one of what the masks before its
    frame depend on. What lies there with another fingerprint, or with a mask that is missing or not as it was written,
    is done again from the last snapshot before it, or from the start.

    Args:
        root: folder of the prediction.
        name: of the video.
        fingerprint: of settings, weights, video and given masks: number of a pass and of its frame -> what the masks
            before it depend on; ``None``: all masks.
        keep: snapshots of each pass; more than one are left when the video is complete, for given masks that change.
    """

    def __init__(self, root: Path, name: str, fingerprint: Fingerprint, keep: int = 1) -> None:
        self.root = root
        self.fingerprint = fingerprint
        self.keep = keep
        self.masks = ResultsFolder(root).masks / name
        self.progress = root / "progress" / name
        self.manifest = root / "manifests" / f"{name}.json"
        self.checksums: dict[str, int] = {}  # of the masks so far, by their path below root

    def is_finished(self) -> bool:
        """Whether all masks are there and as they were written."""
        try:
            manifest = json.loads(self.manifest.read_text(encoding="utf-8"))
            return manifest["fingerprint"] == self.fingerprint(None) and self._intact(manifest["checksums"])
        except (FileNotFoundError, ValueError, KeyError):
            return False

    def load(self, device: torch.device | str) -> dict[str, Any] | None:
        """What :meth:`save` wrote last of what still holds; ``None`` if there is nothing that can be continued.

        Masks and snapshots after it are removed.
        """
        for path, place in reversed(self.snapshots()):
            if (saved := self._read(path, place, device)) is not None:
                self.checksums = saved["checksums"]
                self.manifest.unlink(missing_ok=True)
                self._sweep()
                for mask in (*self.masks.glob("*.png"), *self.progress.glob("*.png")):
                    if not self.holds(mask):
                        mask.unlink()
                return saved
            path.unlink()
        return None

    def begin(self) -> None:
        """Remove what an earlier prediction has left, and nothing else.

        Raises:
            FileExistsError: there are masks that no prediction has left.
        """
        ours = self.manifest.exists() or self.progress.exists()
        if not ours and self.masks.exists() and any(not path.name.startswith(".") for path in self.masks.iterdir()):
            raise FileExistsError(
                f"{self.masks}: has files that are not of a prediction; give another folder: --trainer.default_root_dir"
            )
        self.manifest.unlink(missing_ok=True)
        self._sweep()
        for mask in self.masks.glob("*.png") if self.masks.exists() else ():
            mask.unlink()
        shutil.rmtree(self.progress, ignore_errors=True)
        self.checksums = {}
        self.save((0, 0), {})

    def add(self, path: Path, content: bytes) -> None:
        """Write a mask in one stroke."""
        with unfinished(path) as beside:
            beside.write_bytes(content)
        self.checksums[self._key(path)] = zlib.crc32(content)

    def holds(self, path: Path) -> bool:
        """Whether the mask has been written."""
        return self._key(path) in self.checksums

    def save(self, place: Place, content: dict[str, Any]) -> None:
        """Write a snapshot in one stroke, and remove those that are too many.

        Args:
            place: where to go on: number of the pass, and of the frame in it.
            content: may hold tensors; all checksums so far are added.
        """
        fingerprint = self.fingerprint(place)
        path = self.progress / f"snapshot-{place[0]}-{place[1]:08d}.pt"
        with unfinished(path) as beside:
            checksum.save({"fingerprint": fingerprint, "checksums": self.checksums, **content}, beside)
        found = self.snapshots()
        kept = thinned([other for _, other in found], self.keep)
        for path, other in found:
            if other not in kept:
                path.unlink()

    def snapshots(self) -> list[tuple[Path, Place]]:
        """The files that a prediction may go on from, and the places, in their order."""
        found = []
        for path in self.progress.glob("snapshot-*.pt"):
            _, number, t = path.stem.split("-")
            found.append((path, (int(number), int(t))))
        return sorted(found, key=lambda pair: pair[1])

    def finish(self, about: dict[str, Any]) -> None:
        """Write the manifest, with ``about`` in it, and remove what is not needed any more."""
        masks = {key: crc for key, crc in sorted(self.checksums.items()) if key.startswith("masks/")}
        with unfinished(self.manifest) as beside:
            text = json.dumps({**about, "fingerprint": self.fingerprint(None), "checksums": masks}, indent=0)
            beside.write_text(text, encoding="utf-8")
        if self.keep > 1:
            return
        shutil.rmtree(self.progress)
        with suppress(OSError):  # another video is in the making
            self.progress.parent.rmdir()

    def _read(self, path: Path, place: Place, device: torch.device | str) -> dict[str, Any] | None:
        """A snapshot that holds: of these masks, and whole."""
        try:
            checksum.check(path)
            saved: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        except (FileNotFoundError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError):
            return None
        return (
            saved if saved.get("fingerprint") == self.fingerprint(place) and self._intact(saved["checksums"]) else None
        )

    def _sweep(self) -> None:
        """Remove what was being written when an earlier prediction was killed."""
        for folder in (self.masks, self.progress):
            for part in folder.glob(".*.png.*"):
                part.unlink()

    def _key(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _intact(self, checksums: dict[str, int]) -> bool:
        try:
            return all(zlib.crc32((self.root / key).read_bytes()) == crc for key, crc in checksums.items())
        except FileNotFoundError:
            return False


def thinned(places: list[Place], keep: int) -> list[Place]:
    """Which snapshots of each pass to keep: the newest, and of older ones fewer the longer ago they are.

    With one snapshot that of the last pass is kept. Else the one that goes first is that whose neighbours lie closest
    together for its distance from the newest, so that what is kept lies at distances that grow like powers.

    Args:
        places: in order.
        keep: how many of each pass.
    """
    if keep == 1:
        return places[-1:]
    kept = []
    for number in sorted({number for number, _ in places}):
        frames = [t for other, t in places if other == number]
        while len(frames) > keep:
            gaps = [0, *frames]  # before the first one lies the start
            spare = min(range(len(frames) - 1), key=lambda i: (frames[i + 1] - gaps[i]) / (frames[-1] - frames[i]))
            del frames[spare]
        kept += [(number, t) for t in frames]
    return kept
