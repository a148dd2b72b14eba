"""What is known of a prediction on disk: which masks are whole, and where an interrupted one goes on."""

from __future__ import annotations

import json
import pickle
import shutil
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from lightning_vos import checksum
from lightning_vos.atomic import unfinished
from lightning_vos.results_folder import ResultsFolder


class PredictionRecord:
    """Files of one video below the folder of a prediction.

    ``masks/<video>/<frame>.png`` are the result. ``progress/<video>/`` exists until it is complete: ``snapshot.pt``,
    the state of the model before some frame with checksums of all masks before it, and the masks of a first pass that
    the second one needs. ``manifests/<video>.json`` comes last: checksums of all masks.

    A record belongs to a fingerprint of everything the masks depend on. What lies there with another fingerprint, or
    with a mask that is missing or not as it was written, is done again from the start.

    Args:
        root: folder of the prediction.
        name: of the video.
        fingerprint: of settings, weights, video and given masks.
    """

    def __init__(self, root: Path, name: str, fingerprint: str) -> None:
        self.root = root
        self.fingerprint = fingerprint
        self.masks = ResultsFolder(root).masks / name
        self.progress = root / "progress" / name
        self.manifest = root / "manifests" / f"{name}.json"
        self.checksums: dict[str, int] = {}  # of the masks so far, by their path below root

    @property
    def snapshot(self) -> Path:
        """The file that an interrupted prediction goes on from."""
        return self.progress / "snapshot.pt"

    def is_finished(self) -> bool:
        """Whether all masks are there and as they were written."""
        try:
            manifest = json.loads(self.manifest.read_text(encoding="utf-8"))
            return manifest["fingerprint"] == self.fingerprint and self._intact(manifest["checksums"])
        except (FileNotFoundError, ValueError, KeyError):
            return False

    def load(self, device: torch.device | str) -> dict[str, Any] | None:
        """What :meth:`save` wrote; ``None`` if there is nothing that can be continued."""
        try:
            checksum.check(self.snapshot)
            saved: dict[str, Any] = torch.load(self.snapshot, map_location=device, weights_only=True)
        except (FileNotFoundError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError):
            return None
        if saved.get("fingerprint") != self.fingerprint or not self._intact(saved["checksums"]):
            return None
        self.checksums = saved["checksums"]
        self._sweep()
        return saved

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
        self.save({})

    def add(self, path: Path, content: bytes) -> None:
        """Write a mask in one stroke."""
        with unfinished(path) as beside:
            beside.write_bytes(content)
        self.checksums[self._key(path)] = zlib.crc32(content)

    def holds(self, path: Path) -> bool:
        """Whether the mask has been written."""
        return self._key(path) in self.checksums

    def save(self, content: dict[str, Any]) -> None:
        """Write the snapshot in one stroke: ``content``, which may hold tensors, with all checksums so far."""
        with unfinished(self.snapshot) as beside:
            checksum.save({"fingerprint": self.fingerprint, "checksums": self.checksums, **content}, beside)

    def finish(self, about: dict[str, Any]) -> None:
        """Write the manifest, with ``about`` in it, and remove what is not needed any more."""
        masks = {key: crc for key, crc in sorted(self.checksums.items()) if key.startswith("masks/")}
        with unfinished(self.manifest) as beside:
            text = json.dumps({**about, "fingerprint": self.fingerprint, "checksums": masks}, indent=0)
            beside.write_text(text, encoding="utf-8")
        shutil.rmtree(self.progress)
        with suppress(OSError):  # another video is in the making
            self.progress.parent.rmdir()

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
