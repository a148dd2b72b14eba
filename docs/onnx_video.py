"""Segment a video with an exported network: ``python onnx_video.py remn.onnx clip.mp4 first.png masks``.

Needs numpy, onnxruntime and av (PyAV), and nothing of this project. ``first.png`` holds the labels of the first frame,
palette indices or grey values, where everything but 0 is an object. Masks are written as PNGs of grey ids.
"""

import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import onnxruntime

KINDS = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}


def read_labels(path: str) -> np.ndarray:
    """``(H, W)`` uint8."""
    with av.open(path) as file:
        picture = next(file.decode(video=0))
    return picture.to_ndarray()[0] if picture.format.name == "pal8" else picture.to_ndarray(format="gray")


def write_labels(path: Path, labels: np.ndarray) -> None:
    """``(H, W)`` uint8 to a grey PNG."""
    encoder = av.CodecContext.create("png", "w")
    encoder.height, encoder.width = labels.shape
    encoder.pix_fmt, encoder.time_base = "gray", Fraction(1, 1)
    packets = encoder.encode(av.VideoFrame.from_ndarray(labels, format="gray")) + encoder.encode(None)
    path.write_bytes(b"".join(bytes(packet) for packet in packets))


def resize(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The nearest label of each pixel's middle."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip((height, width), labels.shape, strict=True)
    )
    return labels[rows[:, None], columns]


def main(graph: str, video: str, mask: str, out: str) -> None:
    """One frame after the other; what the graph gives back of its state is what it wants with the next frame."""
    session = onnxruntime.InferenceSession(graph)
    frames, _, *entries = session.get_inputs()
    height, width = frames.shape[2:]
    labels = read_labels(mask)
    ids = np.unique(labels[labels > 0])
    masks = (resize(labels, height, width) == ids[:, None, None])[None].astype(np.float32)
    sizes = {"objects": len(ids), "slots": 0}
    state = {e.name: np.zeros([sizes.get(size, size) for size in e.shape], KINDS[e.type]) for e in entries}
    Path(out).mkdir(parents=True, exist_ok=True)
    with av.open(video) as file:
        for t, frame in enumerate(file.decode(video=0)):
            pixels = frame.to_ndarray(width=width, height=height, format="rgb24").transpose(2, 0, 1)[None]
            logits, *after = session.run(None, {"frame": pixels, "mask": masks, **state})
            state, masks = dict(zip(state, after, strict=True)), np.zeros_like(masks)
            found = np.append(0, ids).astype(np.uint8)[logits[0].argmax(axis=0)]
            write_labels(Path(out) / f"{t:05d}.png", resize(found, frame.height, frame.width))


if __name__ == "__main__":
    main(*sys.argv[1:])
