"""``python -m tests.fuzz``: thousands of damaged and hostile files; each is read, or refused in one line.

Anything else ends it with a traceback: another kind of error, an error of several lines, ten seconds for one file, or
more than a gigabyte of memory. Every file has a number and a seed of its own, so that it can be made again.
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
import zlib
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as native
from safetensors import torch as safetensors
from torch import Tensor

from datamodules import DavisSet, ImageSet, YouTubeVOSSet
from datamodules.images import read_image, read_labels
from datamodules.prompts import read_prompts
from lightning_vos.checkpoint import load_weights, read_checkpoint

SIZE = (24, 36)
SECONDS = 10
MEMORY = 2**30
NASTY: list[Any] = [
    None, True, -1, 0, 1, 254, 255, 1.5, 2**31, 2**32, 2**63, 10**400, 1e9, 1e300, float("nan"), float("inf"), "", "1",
    "..", "../x", "/etc", "a/b", "é\n", "\x00", "x" * 5000, [], {}, [[]], [1, 2], [[1e9] * 6], {"size": [10**5] * 2},
    [[0, 0, 36, 24] * 5000], "PPPPPPPP0", [[[[[[]]]]]], ["a"], [None],
]  # fmt: skip


class _Overrun(BaseException):
    """A file took too long; no ``except Exception`` may hide it."""


# ---------------------------------------------------------------- mutation


def mutated(content: Any, rng: random.Random) -> Any:
    """A copy of JSON-like content with one value, somewhere, that is nasty, missing, doubled, or of another place."""
    places = list(_places(content))
    if not places:
        return rng.choice(NASTY)
    content = json.loads(json.dumps(content))
    *path, last = rng.choice(places)
    holder = content
    for step in path:
        holder = holder[step]
    action = rng.randrange(6)
    if action == 0:
        del holder[last]
    elif action == 1 and isinstance(holder, list):
        holder.append(holder[last])
    elif action == 2 and isinstance(holder, dict):
        holder[str(rng.choice(NASTY))] = holder.pop(last)
    elif action == 3 and type(holder[last]) in (int, float) and abs(holder[last]) < 2**64:  # 10**400 + 0.5 is none
        holder[last] += rng.choice([-1, 1, -(2**31), 0.5, 2**32])
    else:
        holder[last] = rng.choice(NASTY)
    return content


def _places(content: Any, path: tuple = ()) -> Iterator[tuple]:
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inside:
        yield (*path, key)
        yield from _places(value, (*path, key))


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Bytes that were flipped, cut, doubled or overwritten."""
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        place, length = rng.randrange(len(changed) or 1), rng.choice([1, 2, 4, 30])
        action = rng.randrange(5)
        if action == 0:
            changed[place : place + 1] = bytes([rng.randrange(256)])
        elif action == 1:
            del changed[place : place + length]
        elif action == 2:
            changed[place:place] = changed[place : place + length]
        elif action == 3:
            changed[place : place + length] = rng.choice([b"\xff", b"\x00", b"\x80"]) * length
        elif rng.random() < 0.2:
            del changed[place:]
    return bytes(changed)


def _png(content: bytes, rng: random.Random) -> bytes:
    """A PNG with a damaged chunk whose checksum is right, so that it reaches the decoder."""
    chunks, place = [], 8
    while place + 12 <= len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    number = rng.randrange(len(chunks))
    kind, data = chunks[number]
    if kind == b"IHDR" and rng.random() < 0.5:
        data = struct.pack(">II", *(rng.choice([0, 1, 24, 36, 8000, 2**16, 2**31 - 1]) for _ in "wh")) + data[8:]
    elif kind == b"IDAT" and rng.random() < 0.5:
        data = zlib.compress(damaged(zlib.decompress(data), rng))
    else:
        data = damaged(data, rng)
    chunks[number] = (rng.choice([kind] * 9 + [b"zTXt", b"eXIf", b"tRNS", b"PLTE"]), data)
    return content[:8] + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _any_json(content: Any, rng: random.Random) -> bytes:
    for _ in range(rng.choice([0, 1, 1, 1, 2, 5])):
        content = mutated(content, rng)
    text = json.dumps(content, ensure_ascii=rng.random() < 0.9).encode("utf-8", "replace")
    return damaged(text, rng) if rng.random() < 0.15 else text


# ---------------------------------------------------------------- what is fuzzed: each reads one damaged file


def _labels() -> np.ndarray:
    labels = np.zeros(SIZE, dtype=np.uint8)
    labels[3:12, 4:15], labels[10:20, 20:30] = 1, 2
    return labels


def _frames(folder: Path, masks: Path) -> None:
    for t in range(2):
        for path, array in ((folder, np.repeat(_labels()[..., None] * 90, 3, axis=2)), (masks, _labels())):
            path.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path / f"{t:05d}.png")


def _code(label: int, is_compressed: bool = True) -> dict[str, Any]:
    mask = _labels() == label
    if is_compressed:
        code = native.encode(np.asfortranarray(mask))
        return {"size": list(SIZE), "counts": code["counts"].decode()}
    edges = np.flatnonzero(np.diff(mask.T.ravel().astype(int), prepend=0, append=2))
    return {"size": list(SIZE), "counts": np.diff(edges, prepend=0).tolist()}


SEGMENTATIONS: list[Any] = [_code(1), _code(2, False), [[4, 3, 15, 3, 15, 12, 4, 12], [20, 10, 30, 10, 30, 20.5]]]


def coco(folder: Path, rng: random.Random) -> None:
    """A COCO annotation file, whose masks are all decoded."""
    _frames(folder / "images", folder / "masks")
    images = [{"id": t + 1, "file_name": f"{t:05d}.png", "height": SIZE[0], "width": SIZE[1]} for t in range(2)]
    annotations = [
        {"id": k, "image_id": 1 + k % 2, "iscrowd": 0, "area": 90, "segmentation": segmentation}
        for k, segmentation in enumerate(SEGMENTATIONS)
    ]
    content = _any_json({"images": images, "annotations": annotations}, rng)
    (folder / "a.json").write_bytes(content)
    for still in ImageSet(".", annotations="a.json", min_area=0).stills(folder, rng.random() < 0.5):
        still.read()


def prompts(folder: Path, rng: random.Random) -> None:
    """Run-length codes and polygons that a user gives."""
    entries = [{"frame": "00000", "segmentation": SEGMENTATIONS[0], "track_id": 3}, {**SEGMENTATIONS[1], "frame": 1}]
    entries.append({"image_id": 7, "segmentation": SEGMENTATIONS[2]})
    whole: Any = {"images": [{"id": 7, "file_name": "a/00001.jpg"}], "annotations": entries}
    content = rng.choice([whole, entries[:2], entries[0], entries[1], [entries[2]]])
    (folder / "m.json").write_bytes(_any_json(content, rng))
    read_prompts(folder / "m.json", ["00000", "00001"], SIZE, asked=["all"])


def meta(folder: Path, rng: random.Random) -> None:
    """The list of videos and objects of YouTube-VOS."""
    _frames(folder / "train/JPEGImages/v", folder / "train/Annotations/v")
    objects = {"1": {"category": "cat", "frames": ["00000", "00001"]}, "2": {"frames": ["00001"]}}
    (folder / "train/meta.json").write_bytes(_any_json({"videos": {"v": {"objects": objects}}}, rng))
    for video in YouTubeVOSSet("").videos(folder):
        video.starting_ids()
        video.check()


def lists(folder: Path, rng: random.Random) -> None:
    """A list of sequences of DAVIS."""
    _frames(folder / "JPEGImages/480p/v", folder / "Annotations/480p/v")
    words = rng.choices(
        ["v", "../v", "v/..", "/", "ö", "v\r", "\ufeffv", "v v", "\x00", "x" * 300],
        [9] + [1] * 9,
        k=rng.choice([1, 1, 2]),
    )
    (folder / "ImageSets/2017").mkdir(parents=True)
    content = "\n".join(words).encode("utf-16" if rng.random() < 0.1 else "utf-8")
    (folder / "ImageSets/2017/train.txt").write_bytes(damaged(content, rng) if rng.random() < 0.5 else content)
    for video in DavisSet("").videos(folder):
        video.check()


def picture(folder: Path, rng: random.Random) -> None:
    """A PNG, JPEG or BMP as a frame and as a mask."""
    image = Image.fromarray(_labels())
    kind = rng.choice(["PNG", "PNG", "PNG", "JPEG", "BMP", "EPS"])
    mode = rng.choice(["L", "P", "RGB", "1", *(["RGBA", "LA", "I;16"] if kind == "PNG" else ["L"])])
    if kind in ("JPEG", "EPS") and mode in ("P", "1"):
        mode = "L"
    path = folder / f"a.{rng.choice(['png', 'bmp'])}"
    image.convert(mode).save(path, format=kind, **({"exif": Image.Exif()} if kind in ("PNG", "JPEG") else {}))
    content = path.read_bytes()
    path.write_bytes(_png(content, rng) if kind == "PNG" and rng.random() < 0.7 else damaged(content, rng))
    reads: Sequence[Callable[[], Any]] = (
        lambda: read_image(path, rng.choice([None, 7]), upright=rng.random() < 0.5),
        lambda: read_labels(path),
        lambda: read_prompts(path, ["a"], SIZE),
    )
    errors = [error for read in reads if (error := refused(read)) is not None]
    if len(errors) == len(reads):
        raise errors[0]


def checkpoint(folder: Path, rng: random.Random) -> None:
    """A checkpoint, read and loaded into a layer."""
    layer, path = torch.nn.Linear(3, 2), folder / "a.ckpt"
    content: dict[str, Any] = {"method": "Linear", "network": "Linear", "hyper_parameters": {"a": [1, {"b": 2}]}}
    content |= {"state_dict": dict(layer.state_dict()), "global_step": 7}
    if rng.random() < 0.3:
        holder = rng.choice([content, content["state_dict"]])
        holder[rng.choice([*holder])] = rng.choice(NASTY)
    torch.save(content, path)
    if rng.random() < 0.8:
        path.write_bytes(damaged(path.read_bytes(), rng))
    read_checkpoint(str(path))
    load_weights(layer, str(path))


def signed(header: dict[str, Any], weights: dict[str, Tensor]) -> bytes:
    """A file with any header and a checksum that is right."""
    text = json.dumps({**header, "sha256": "0" * 64})
    content = safetensors.save(weights, {"lightning_vos": text})
    return content.replace(b"0" * 64, hashlib.sha256(content).hexdigest().encode(), 1)


def network(folder: Path, rng: random.Random) -> None:
    """The file of a released network, with a checksum that is right as often as not."""
    layer, path = torch.nn.Linear(3, 2), folder / "a.safetensors"
    header: dict[str, Any] = {"format": 1, "method": "Linear", "network": "Linear", "settings": {"a": [1, {"b": 2}]}}
    header |= {"training": {"lr": 1e-5}, "step": 7, "card": {"data": "none"}}
    if rng.random() < 0.5:
        header = dict(_pairs(mutated(header, rng)))
    weights = {name: value.half() if rng.random() < 0.8 else value for name, value in layer.state_dict().items()}
    if rng.random() < 0.2:
        weights["weight"] = rng.choice([torch.zeros(0), torch.full((2, 3), torch.nan), torch.ones(2, 3).bool()])
    path.write_bytes(signed(header, weights))
    if rng.random() < 0.5:
        path.write_bytes(damaged(path.read_bytes(), rng))
    read_checkpoint(str(path))
    load_weights(layer, str(path))


def _pairs(content: Any) -> Iterator[tuple[str, Any]]:
    """Those of a mapping; what is none is a value of one."""
    yield from content.items() if isinstance(content, dict) else [("settings", content)]


TARGETS = {target.__name__: target for target in (coco, prompts, meta, lists, picture, checkpoint, network)}


# ---------------------------------------------------------------- the run


def refused(read: Callable[[], Any]) -> ValueError | OSError | None:
    """The one line with which something was refused; ``None``: it was read.

    Raises:
        AssertionError: the error has several lines, or memory ran out and an error hides it.
    """
    try:
        read()
    except (ValueError, OSError) as error:
        found = error
    else:
        return None
    assert "\n" not in str(found), f"several lines: {found}"
    cause: BaseException | None = found
    while cause is not None:
        assert not isinstance(cause, MemoryError), f"out of memory: {found}"
        cause = cause.__cause__ or cause.__context__
    return found


@contextmanager
def limits() -> Iterator[None]:
    """A gigabyte of address space beyond what is in use; and a clock that is set for each file."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    handler = signal.signal(signal.SIGALRM, _stop)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def _stop(number: int, frame: object) -> None:
    raise _Overrun(f"more than {SECONDS} seconds for one file")


def fuzz(count: int, folder: Path, first: int = 0) -> dict[str, Counter[str]]:
    """Read ``count`` files, of each kind in turn; how many of each were read and refused.

    Raises:
        Exception: a file was neither; its kind and number stand in a note.
    """
    found: dict[str, Counter[str]] = {name: Counter() for name in TARGETS}
    with limits(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(first, first + count):
            name = [*TARGETS][number % len(TARGETS)]
            place = folder / str(number)
            place.mkdir()
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            try:
                error = refused(lambda: TARGETS[name](place, random.Random(number)))  # noqa: B023
            except BaseException as error:
                error.add_note(f"{name}, file {number}: python -m tests.fuzz --count 1 --first {number}")
                raise
            found[name]["read" if error is None else "refused"] += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            shutil.rmtree(place)
    return found


def main() -> None:
    """Fuzz, and say how much of it was read."""
    parser = ArgumentParser("tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=6000, help="files")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    given = parser.parse_args()
    faulthandler.enable()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = fuzz(given.count, Path(folder), given.first)
    for name, counts in found.items():
        sys.stdout.write(f"{name:12}{counts['read']:6} read {counts['refused']:6} refused in one line\n")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    sys.stdout.write(f"{given.count} files, {time.monotonic() - start:.0f} s, at most {peak} MB in use\n")


if __name__ == "__main__":
    main()
