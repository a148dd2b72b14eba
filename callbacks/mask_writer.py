"""Masks of a prediction as they come, such that an interrupted one can be continued."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import threading
from pathlib import Path

import numpy as np
import torch
from lightning import LightningModule, Trainer
from PIL import Image
from rich.console import Console
from torch import Tensor

from callbacks.mask_png import labels_to_save, palette_image
from callbacks.prediction_record import Place, PredictionRecord
from lightning_vos.frame_callback import FrameCallback
from lightning_vos.lease import Lease
from lightning_vos.leaving import leave
from lightning_vos.module import VOSModule
from lightning_vos.results_folder import ResultsFolder
from lightning_vos.video import Footage, Video


class MaskWriter(FrameCallback):
    """Writes ``<output_dir>/masks/<video>/<frame>.png`` in a prediction: palette PNGs, ids as they were given.

    A mask is written when its frame has been segmented, whole or not at all. On frames with given masks these come back
    bit for bit. Where two passes see a frame, an object that has not started yet in the second keeps its mask of the
    first.

    The same prediction once more goes on where it was interrupted, at the last snapshot, after a look at every mask
    that is there, and leaves a finished video alone; the files are the same to the last byte (on the same device).
    With other weights or settings it starts over, with other given masks at the last snapshot before the first frame
    that they change. While a video is segmented its folder belongs to this process alone.

    Args:
        snapshot_every: frames between two snapshots of the model's state.
        snapshots: how many are kept of each pass. More than one are kept also when the video is complete, closer
            together the newer they are: so a given mask may change and only what comes after it is done again.
        output_dir: ``None``: the trainer's ``default_root_dir``.

    Raises:
        ValueError: if ``snapshot_every`` or ``snapshots`` is below 1.
    """

    def __init__(self, snapshot_every: int = 100, output_dir: str | None = None, snapshots: int = 1) -> None:
        if snapshot_every < 1 or snapshots < 1:
            raise ValueError(f"MaskWriter(snapshot_every={snapshot_every}, snapshots={snapshots}): both at least 1")
        self.snapshot_every = snapshot_every
        self.snapshots = snapshots
        self.output_dir = output_dir
        self._footage: Footage | None = None
        self._record: PredictionRecord | None = None
        self._later: list[set[str]] = []  # for each pass, names of the frames that are seen again
        self._weights = ""
        self._lease: Lease | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the weights once, and let SIGTERM end the prediction: it goes on from its last snapshot."""
        if threading.current_thread() is threading.main_thread():  # Lightning would note it and go on to the end
            signal.signal(signal.SIGTERM, leave)
        digest = hashlib.sha256()
        for name, value in pl_module.state_dict().items():
            digest.update(name.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        self._weights = digest.hexdigest()

    def on_footage_start(self, trainer: Trainer, pl_module: LightningModule, footage: Footage) -> None:
        """Own the video's folder, find out what has been done already, and let the passes begin after it.

        Raises:
            FolderInUse: another process is segmenting the video there.
            FileExistsError: there are masks that no prediction has left.
        """
        self._footage = self._record = None  # of a video that failed
        self._release()
        root = self.output_folder(trainer)
        name, passes = footage.video.name, footage.passes
        lease = Lease(ResultsFolder(root).masks / name, "prediction")
        lease.acquire()
        self._lease = lease
        settings = json.dumps(dict(pl_module.hparams), sort_keys=True, default=str)
        parts = (type(pl_module).__name__, settings, trainer.precision, self._weights)

        def fingerprint(place: Place | None) -> str:
            known = footage.identity if place is None else footage.identity_before(*place)
            return hashlib.sha256(" ".join(map(str, (*parts, known))).encode()).hexdigest()

        self._footage = footage
        self._later = [{seen for other in passes[i + 1 :] for seen in other.frame_names} for i in range(len(passes))]
        self._record = record = PredictionRecord(root, name, fingerprint, self.snapshots)
        console = Console(soft_wrap=True, highlight=False)
        if record.is_finished():
            for video in passes:
                video.start = len(video)
            console.print(f"{name}: complete, every mask is as it was written")
            return
        saved = record.load(pl_module.device)
        if saved is None or "state" not in saved:
            record.begin()
            return
        for video in passes[: saved["pass"]]:
            video.start = len(video)
        current = passes[saved["pass"]]
        current.start, current.state = saved["t"], saved["state"]
        console.print(f"{name}: going on at frame {current.frame_names[saved['t']]}, all masks before it are whole")

    def on_frame_end(
        self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int, frame: Tensor, labels: Tensor
    ) -> None:
        """Write the mask; every ``snapshot_every`` frames, note where to go on."""
        footage, record = self._footage, self._record
        if footage is None or record is None:
            return
        number = next(i for i, other in enumerate(footage.passes) if other is video)
        name = f"{video.frame_names[t]}.png"
        ids = labels_to_save(video, t, labels)
        earlier = record.progress / name
        if number > 0 and record.holds(earlier):
            ids = _filled(ids, earlier, _not_started(video, t))
        # A frame that a later pass sees is not final yet.
        final = video.frame_names[t] not in self._later[number]
        buffer = io.BytesIO()
        palette_image(ids).save(buffer, format="PNG")
        record.add((record.masks if final else record.progress) / name, buffer.getvalue())
        done = t + 1
        if done % self.snapshot_every == 0 and done < len(video) and isinstance(pl_module, VOSModule):
            record.save((number, done), {"pass": number, "t": done, "state": pl_module.sequence_state()})

    def on_footage_end(self, trainer: Trainer, pl_module: LightningModule, footage: Footage) -> None:
        """Write the manifest: from now on the video is complete."""
        record, self._record, self._footage = self._record, None, None
        if record is not None and record.checksums:
            height, width = footage.video.size
            ids = sorted({id_ for video in footage.passes for id_ in video.object_ids})
            record.finish({"video": footage.video.name, "size": [height, width], "objects": ids})

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the folder to others."""
        self._release()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the last video's folder to others: further callbacks have written what they make of its masks."""
        self._release()

    def _release(self) -> None:
        if self._lease is not None:
            self._lease.release()
            self._lease = None


def _not_started(video: Video, t: int) -> list[int]:
    """Ids of the objects that no frame up to ``t`` has given."""
    labels = {label for s, prompt in video.prompts.items() if s <= t for label in prompt.unique().tolist()}
    return [id_ for label, id_ in enumerate(video.object_ids, 1) if label not in labels]


def _filled(ids: Tensor, earlier: Path, missing: list[int]) -> Tensor:
    """``ids (H, W)``, where they are background with the ``missing`` ones of an earlier mask."""
    with Image.open(earlier) as image:
        before = torch.from_numpy(np.array(image)).to(ids.device)
    wanted = torch.isin(before, torch.tensor(missing, dtype=torch.uint8, device=ids.device))
    return torch.where(wanted & (ids == 0), before, ids)
