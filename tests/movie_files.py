"""Small videos of a user: movie files, folders of frames, masks; and a prediction of them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from lightning import Callback, Trainer
from PIL import Image

from callbacks import MaskWriter
from datamodules import PredictDataModule
from lightning_vos import VOSModule

SIZE = (32, 48)


def moving_square(count: int, size: tuple[int, int] = SIZE, objects: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Frames ``(T, H, W, 3)`` uint8, drifting noise with moving squares, all different; labels ``(T, H, W)`` uint8."""
    rng = np.random.default_rng(0)
    height, width = size
    small = Image.fromarray(rng.integers(0, 120, (4, 6, 3), dtype=np.uint8))
    noise = np.asarray(small.resize((width, height)))
    frames = np.stack([np.roll(noise, t, axis=1) for t in range(count)])
    labels = np.zeros((count, height, width), dtype=np.uint8)
    side = max(1, min(size) // 3)
    for t in range(count):
        for k in range(1, objects + 1):
            top, left = (k - 1) * side % max(1, height - side), (t + 3 * k) % max(1, width - side)
            labels[t, top : top + side, left : left + side] = k
        frames[t][labels[t] > 0] = (255, 200, 40)
    return frames, labels


def write_movie(
    path: Path,
    frames: np.ndarray,
    codec: str = "libx264",
    seconds: Sequence[float] | None = None,
    rotation: int = 0,
    **options: str,
) -> Path:
    """Encode ``(T, H, W, 3)`` uint8 frames; ``rotation`` is what a player is asked to turn them by."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"g": "12", **options})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = {"ffv1": "bgr0"}.get(codec, "yuv420p")
        stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for t, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = round(1000 * (seconds[t] if seconds else t / 25)), Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def write_frames(folder: Path, frames: np.ndarray, names: Sequence[str] | None = None, suffix: str = ".png") -> Path:
    """A folder of pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{names[t] if names else f'{t:05d}'}{suffix}")
    return folder


def write_mask(path: Path, labels: np.ndarray, palette: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels)
    if palette:
        image.putpalette([(7 * i) % 256 for i in range(768)])
    image.save(path)
    return path


def predict(
    model: VOSModule, out: Path, *callbacks: Callback, every: int = 4, snapshots: int = 1, **data: Any
) -> PredictDataModule:
    """Segment what ``PredictDataModule(**data)`` describes; masks go below ``out``."""
    module = PredictDataModule(**{name: str(v) if isinstance(v, Path) else v for name, v in data.items()})
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=out,
        callbacks=[MaskWriter(every, snapshots=snapshots), *callbacks],
    )
    trainer.predict(model, module, return_predictions=False)
    return module


def written(out: Path, name: str) -> dict[str, np.ndarray]:
    """The masks of a prediction by frame name."""
    masks = {}
    for path in sorted((out / "masks" / name).iterdir()):
        with Image.open(path) as image:
            assert image.mode == "P"
            masks[path.stem] = np.array(image)
    return masks


def contents(out: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def assert_same(one: Path, other: Path) -> None:
    """The same files, to the last byte; of overlays the same pictures at the same times.

    On a busy machine libx264 encodes the same pictures into other bytes now and then; why is not known.
    """
    here, there = contents(one), contents(other)
    movies = {name for name in here if name.endswith(".mp4")}
    assert {name: here[name] for name in here.keys() - movies} == {n: there[n] for n in there.keys() - movies}
    assert here.keys() == there.keys()
    for name in movies:
        (times, pictures), (other_times, other_pictures) = (_decoded(folder / name) for folder in (one, other))
        assert times == other_times
        difference = np.abs(pictures - other_pictures).mean()
        assert difference < 5, f"{name}: {difference} of 255 levels"


def _decoded(path: Path) -> tuple[list[float], np.ndarray]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [frame.time for frame in frames], np.stack(
        [frame.to_ndarray(format="rgb24").astype(float) for frame in frames]
    )
