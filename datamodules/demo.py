"""The embedded default: a small procedural VOS data set, written once, in DAVIS 2017 layout.

Textured objects with a smooth, deforming outline move over a textured, moving background. The videos show what makes
VOS hard - occlusion, look-alikes, change of scale, leaving and re-entering the frame, crossing, changing light - at a
size at which a network can be trained on a CPU in minutes.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image

from datamodules.demo_scenes import PHENOMENA, draw_scene

GENERATOR, VERSION = "lightning-vos-demo", 1
STREAMS = ("train", "val", "static")
PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]  # of DAVIS, as far as it is needed
VALIDATION = (
    "crossing",
    "occlusion",
    "distractor",
    "occlusion-distractor",
    "scale",
    "reentry",
    "light",
    "scale-distractor",
    "crossing-light",
    "reentry-distractor",
    "occlusion-scale",
    "crossing-scale-distractor",
)


def write_demo(
    root: str | Path,
    *,
    size: tuple[int, int] = (112, 160),
    train_videos: int = 60,
    train_frames: int = 24,
    val_videos: int = 12,
    val_frames: int = 36,
    image_size: tuple[int, int] = (160, 160),
    images: int = 300,
    seed: int = 0,
) -> Path:
    """Write the data set to ``root/demo``, unless this version with these parameters is there already.

    It appears at once and complete, under an exclusive lock, so that any number of processes may call this at the same
    time. Layout: ``JPEGImages/480p/<video>/00000.jpg``, ``Annotations/480p/<video>/00000.png`` (palette, ids 1..K) and
    ``ImageSets/2017/{train,val}.txt`` as on DAVIS 2017 (``480p`` is the name only); ``static/images/<stem>.jpg`` with
    ``static/masks/<stem>.png`` (0 and 255).

    Args:
        root: folder of the data sets, created where missing.
        size: ``(H, W)`` of the videos, pixels.
        train_videos: number of training videos, ``train-000`` and so on.
        train_frames: frames of each.
        val_videos: number of validation videos, named by what happens in them, ``VALIDATION`` in turn.
        val_frames: frames of each.
        image_size: ``(H, W)`` of the still images, pixels.
        images: number of still images.
        seed: of everything; the splits never share a random stream.

    Returns:
        ``root/demo``.

    Raises:
        ValueError: ``root/demo`` holds something else, the size is too narrow, or a video has no frame.
    """
    if min(train_frames, val_frames) < 1:
        raise ValueError(f"train_frames {train_frames}, val_frames {val_frames}: videos need at least one frame")
    stamp = {
        "generator": GENERATOR,
        "version": VERSION,
        "size": list(size),
        "train_videos": train_videos,
        "train_frames": train_frames,
        "val_videos": val_videos,
        "val_frames": val_frames,
        "image_size": list(image_size),
        "images": images,
        "seed": seed,
    }
    root = Path(root)
    final, partial, old = root / "demo", root / ".demo.partial", root / ".demo.old"
    if _read_stamp(final) == stamp:
        return final
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _read_stamp(final) == stamp:
            return final
        rank_zero_info(f"writing the demo data set to {final}, once: about a minute")
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
        for split, videos, frames in (("train", train_videos, train_frames), ("val", val_videos, val_frames)):
            _write_videos(partial, split, videos, frames, size, seed)
        _write_images(partial / "static", images, image_size, seed)
        (partial / "dataset.json").write_text(json.dumps(stamp, indent=2) + "\n")
        if final.exists():
            os.replace(final, old)
        os.replace(partial, final)
        shutil.rmtree(old, ignore_errors=True)
    return final


def _read_stamp(folder: Path) -> dict[str, object] | None:
    """The stamp of a written data set, ``None`` where there is nothing yet."""
    try:
        stamp = json.loads((folder / "dataset.json").read_text())
    except FileNotFoundError:
        stamp = None
    except json.JSONDecodeError:
        stamp = {}
    if stamp is None and (not folder.exists() or not any(folder.iterdir())):
        return None
    if not isinstance(stamp, dict) or stamp.get("generator") != GENERATOR:
        raise ValueError(f"{folder} exists but is not a demo data set; move it away or choose another root")
    return stamp


def _write_videos(folder: Path, split: str, videos: int, frames: int, size: tuple[int, int], seed: int) -> None:
    """One split: the frames, the annotations and the list of its videos."""
    names = []
    for index in range(videos):
        rng = np.random.default_rng((seed, STREAMS.index(split), index))
        if split == "val":
            phenomena = VALIDATION[index % len(VALIDATION)]
            names.append(f"val-{index:02d}-{phenomena}")
        else:
            phenomena = "-".join(name for name, share in PHENOMENA.items() if rng.random() < share)
            names.append(f"train-{index:03d}")
        scene = draw_scene(rng, size, frames, phenomena.split("-"))
        pictures, masks = (folder / kind / "480p" / names[-1] for kind in ("JPEGImages", "Annotations"))
        pictures.mkdir(parents=True)
        masks.mkdir(parents=True)
        for t in range(frames):
            image, labels = scene.frame(t)
            Image.fromarray(image).save(pictures / f"{t:05d}.jpg", quality=85)
            mask = Image.fromarray(labels, "P")
            mask.putpalette(PALETTE)
            mask.save(masks / f"{t:05d}.png")
    lists = folder / "ImageSets" / "2017"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


def _write_images(folder: Path, images: int, size: tuple[int, int], seed: int) -> None:
    """Still images of one object each, and its masks."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for index in range(images):
        rng = np.random.default_rng((seed, STREAMS.index("static"), index))
        scene = draw_scene(rng, size, 1, ["distractor"] if rng.random() < PHENOMENA["distractor"] else [], most=1)
        image, labels = scene.frame(0)
        Image.fromarray(image).save(folder / "images" / f"{index:05d}.jpg", quality=85)
        Image.fromarray(labels * 255).save(folder / "masks" / f"{index:05d}.png")
