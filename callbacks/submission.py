"""Masks for the evaluation servers: written frame by frame, zipped as the server wants, checked before it is there."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from lightning import LightningModule, Trainer
from PIL import Image
from rich.console import Console
from torch import Tensor

from callbacks.evaluation_loop import evaluation_set
from callbacks.mask_png import labels_to_save, save_palette_png
from lightning_vos.atomic import unfinished
from lightning_vos.frame_callback import FrameCallback
from lightning_vos.palette import PALETTE
from lightning_vos.results_folder import ResultsFolder
from lightning_vos.video import Video

_NAMED = 5  # faults that an error names


class Submission(FrameCallback):
    """Writes ``<output_dir>/<name>.zip`` during ``test``: palette PNGs ``<folder>/<video>/<frame>.png`` of every frame.

    The ids are the data set's own, the size that of its masks; objects given on a frame are as they were given. Masks
    go to ``<output_dir>/masks`` as they are made, so a video may have any length and ranks share a set. When all are
    there, rank zero zips them under another name, reads every mask back from the zip (:func:`faults`) and only then
    gives it its name: a zip that lies there is complete. One of an earlier run is removed at the start.

    Args:
        name: of the zip, without suffix.
        folder: folder inside the zip: ``Annotations`` (YouTube-VOS, LVOS) or none (DAVIS, MOSE).
        every: only frames whose name is a multiple of this number; 5 for YouTube-VOS' ``valid_all_frames``.
        output_dir: ``None``: the trainer's ``default_root_dir``.

    Raises:
        ValueError: if ``every`` is below 1.
    """

    def __init__(self, name: str, folder: str = "", every: int = 1, output_dir: str | None = None) -> None:
        if every < 1:
            raise ValueError(f"every={every}: must be at least 1; 1 submits every frame")
        self.name = name
        self.folder = folder
        self.every = every
        self.output_dir = output_dir

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove what an earlier run has left."""
        if trainer.is_global_zero:
            self._zip(trainer).unlink(missing_ok=True)
            shutil.rmtree(self._files(trainer).masks, ignore_errors=True)
        trainer.strategy.barrier()

    def on_frame_end(
        self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int, frame: Tensor, labels: Tensor
    ) -> None:
        """Write the masks of one frame."""
        if self._wanted(video.frame_names[t]):
            path = self._files(trainer).mask(video.name, video.frame_names[t])
            save_palette_png(path, labels_to_save(video, t, labels))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Zip, check, name.

        Raises:
            ValueError: the zip is not what the server takes; it names the first faults.
        """
        trainer.strategy.barrier()  # the masks of all ranks are there
        if not trainer.is_global_zero:
            return
        final = self._zip(trainer)
        with unfinished(final) as beside:
            with zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED) as file:  # PNGs are compressed already
                for path in sorted(self._files(trainer).masks.rglob("*.png")):
                    file.write(path, (Path(self.folder) / path.relative_to(self._files(trainer).masks)).as_posix())
            dataset = evaluation_set(trainer)
            wrong = list(faults(beside, dataset, self.folder, self.every))
            if wrong:
                more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
                raise ValueError(
                    f"{final.name} is not written, it would be refused: {'; '.join(wrong[:_NAMED])}{more}; "
                    f"the masks are in {self._files(trainer).masks}"
                )
        size = final.stat().st_size / 2**20
        Console(soft_wrap=True, highlight=False).print(f"checked   {final}, {len(dataset)} videos, {size:.1f} MiB")

    def _wanted(self, name: str) -> bool:
        return self.every == 1 or int(name) % self.every == 0

    def _files(self, trainer: Trainer) -> ResultsFolder:
        return ResultsFolder(self.output_folder(trainer))

    def _zip(self, trainer: Trainer) -> Path:
        return self.output_folder(trainer) / f"{self.name}.zip"


def faults(path: Path, dataset: Any, folder: str = "", every: int = 1) -> Iterator[str]:
    """What an evaluation server would refuse, or score as something else, in a zip of masks.

    Files that are missing or that nobody asked for, damaged ones, other modes than palette with the colours of DAVIS,
    another size than the data set's masks, ids that the video does not have, and prompts that were changed.

    Args:
        path: the zip.
        dataset: videos that it must hold: ``dataset[i]`` is a :class:`~lightning_vos.video.Video`.
        folder: folder inside the zip.
        every: see :class:`Submission`.

    Yields:
        A phrase for each fault, in the order of the videos.
    """
    with zipfile.ZipFile(path) as file:
        there = {name for name in file.namelist() if not name.endswith("/")}
        for index in range(len(dataset)):
            video = dataset[index]
            for t, name in enumerate(video.frame_names):
                if every > 1 and int(name) % every:
                    continue
                entry = f"{folder}/{video.name}/{name}.png".lstrip("/")
                if entry not in there:
                    yield f"{entry} is missing"
                    continue
                there.discard(entry)
                fault = _mask_fault(file.read(entry), video, t)
                if fault:
                    yield f"{entry} {fault}"
    yield from (f"{entry} is not asked for" for entry in sorted(there))


def _mask_fault(content: bytes, video: Video, t: int) -> str | None:
    """What is wrong with the mask of frame ``t``."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            mode, palette, ids = image.mode, image.getpalette(), np.asarray(image)
    except (OSError, SyntaxError) as error:
        return f"cannot be read ({error})"
    if mode != "P":
        return f"is of mode {mode}, not a palette picture"
    if palette is None or palette[: 3 * (int(ids.max()) + 1)] != PALETTE.ravel()[: 3 * (int(ids.max()) + 1)].tolist():
        return "has other colours than DAVIS'"
    if ids.shape != tuple(video.size):
        return f"is {ids.shape[0]}x{ids.shape[1]} instead of {video.size[0]}x{video.size[1]} (height x width)"
    if stray := sorted(set(np.unique(ids).tolist()) - {0, *video.object_ids}):
        return f"has ids {stray[:_NAMED]}, the objects are {list(video.object_ids)}"
    if t in video.prompts:
        prompt = video.prompts[t].numpy()
        given = np.array([0, *video.object_ids], dtype=np.uint8)[prompt]
        if (ids[prompt > 0] != given[prompt > 0]).any():
            return "differs from the mask that was given"
    return None
