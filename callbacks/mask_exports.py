"""Masks of a prediction in other forms: alpha mattes and COCO run-length codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from lightning import LightningModule, Trainer
from PIL import Image
from pycocotools import mask as run_length

from callbacks.picture_file import save_picture
from lightning_vos.atomic import unfinished
from lightning_vos.frame_callback import FrameCallback
from lightning_vos.results_folder import ResultsFolder
from lightning_vos.video import Footage


class MaskExports(FrameCallback):
    """Writes further files when the masks of a video are complete, made of the masks on disk.

    ``<output_dir>/alpha/<video>/<frame>.png``: grey, 255 on all objects and 0 elsewhere.
    ``<output_dir>/rle/<video>.json``: a COCO data set; ``track_id`` is the id of an object, ``frame`` the name of the
    frame. It can be given as masks again.

    Args:
        alpha: write mattes.
        rle: write run-length codes.
        output_dir: ``None``: the trainer's ``default_root_dir``.
    """

    def __init__(self, alpha: bool = False, rle: bool = False, output_dir: str | None = None) -> None:
        self.alpha = alpha
        self.rle = rle
        self.output_dir = output_dir

    def on_footage_end(self, trainer: Trainer, pl_module: LightningModule, footage: Footage) -> None:
        """Write them all."""
        root = self.output_folder(trainer)
        video = footage.video
        masks = [ResultsFolder(root).mask(video.name, name) for name in video.frame_names]
        if self.alpha:
            for mask in masks:
                matte = (_labels(mask) > 0).astype(np.uint8) * 255
                save_picture(root / "alpha" / video.name / mask.name, Image.fromarray(matte))
        if self.rle:
            _write_codes(root / "rle" / f"{video.name}.json", masks, video.size)


def _write_codes(path: Path, masks: list[Path], size: tuple[int, int]) -> None:
    height, width = size
    images = [{"id": t, "file_name": mask.name, "height": height, "width": width} for t, mask in enumerate(masks)]
    with unfinished(path) as beside, beside.open("w", encoding="utf-8") as file:
        file.write(f'{{"images": {json.dumps(images)},\n"annotations": [')
        count = 0
        for t, mask in enumerate(masks):  # one frame at a time is in memory
            labels = _labels(mask)
            for id_ in np.unique(labels[labels > 0]).tolist():
                code = run_length.encode(np.asfortranarray(labels == id_))
                annotation = {
                    "id": count + 1,
                    "image_id": t,
                    "frame": mask.stem,
                    "track_id": id_,
                    "area": int(run_length.area(code)),
                    "bbox": run_length.toBbox(code).tolist(),
                    "iscrowd": 0,
                    "segmentation": {"size": [height, width], "counts": code["counts"].decode("ascii")},
                }
                file.write(f"{',' if count else ''}\n{json.dumps(annotation)}")
                count += 1
        file.write("]}\n")


def _labels(mask: Path) -> np.ndarray:
    with Image.open(mask) as image:
        return np.array(image)
