"""What J and F cost: ours against the way of the official DAVIS 2017 code, in CPU seconds of one thread.

    OMP_NUM_THREADS=1 python -m benchmarks.scoring [--frames N] [--videos N]

The official way is our own rendering of it: full frames, OpenCV's dilation by a disk (``tests/reference.py``), and for
a whole evaluation all masks of a video as float64, split into one mask an object, object by object and frame by frame
(`official_program`). All of it runs in one process on the same masks, and the results must be equal.

Masks are 480 x 854. With ``../shared`` they are predictions of OSVOS and annotations of six sequences of DAVIS 2016:
several objects are masks of several sequences painted over each other, and the 30 videos of 61 objects of the whole
evaluation repeat them in all combinations. Without, they are procedural blobs.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.official_program import evaluate
from datamodules.images import read_labels
from lightning_vos import metrics
from lightning_vos.metrics.masks import object_masks
from lightning_vos.video import Video
from tests import reference

SHARED = Path(__file__).resolve().parents[2] / "shared"
SIZE = (480, 854)
VIDEOS, OBJECTS = 30, 61  # of the validation set of DAVIS 2017

Sequence = list[tuple[np.ndarray, np.ndarray]]  # bool prediction and annotation of every frame


def procedural() -> Iterator[Sequence]:
    """Blobs, and the same moved by a few pixels with a bite taken out; six sequences of 60 frames."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        target, bite = (reference.blobs(*SIZE, generator, count=n) for n in (3, 1))
        steps = torch.randint(-10, 11, (60, 2), generator=generator).tolist()
        yield [((target.roll(step, (0, 1)) & ~bite).numpy(), target.numpy()) for step in steps]


def recorded() -> Iterator[Sequence]:
    """Predictions of OSVOS and the annotations of DAVIS."""
    truth = SHARED / "data" / "davis2016" / "Annotations" / "480p"
    for folder in sorted((SHARED / "golden" / "davis_eval" / "osvos").iterdir()):
        files = sorted(folder.glob("*.png"))
        yield [(read_labels(path) > 0, read_labels(truth / folder.name / path.name) > 0) for path in files]


def painted(sequences: list[Sequence], t: int) -> tuple[np.ndarray, np.ndarray]:
    """Frame ``t`` of several sequences as one pair of label maps; later ones lie on top."""
    maps = np.zeros((2, *SIZE), dtype=np.uint8)
    for label, sequence in enumerate(sequences, 1):
        for labels, mask in zip(maps, sequence[t % len(sequence)], strict=True):
            labels[mask] = label
    return maps[0], maps[1]


def cpu_seconds(work: Callable[[], object], rounds: int) -> float:
    """The shortest of several rounds."""
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best


def ours(calls: list[tuple[Tensor, ...]]) -> list[tuple[Tensor, Tensor]]:
    """J and F of masks with any leading dimensions."""
    return [metrics.region_and_boundary(pred, target) for pred, target in calls]


def official(pairs: list[tuple[Tensor, ...]]) -> list[tuple[float, float]]:
    """J and F of single masks."""
    return [
        (reference.region_similarity(pred, target), reference.boundary_accuracy(pred, target)) for pred, target in pairs
    ]


def masks(sequences: list[Sequence], frames: int, rounds: int) -> None:
    """One object, five objects of a frame, and stacks of frames in one call."""
    places = [(i, t) for i in range(len(sequences)) for t in range(len(sequences[i]))]
    chosen = places[:: max(1, len(places) // frames)][:frames]
    pairs = [tuple(torch.from_numpy(mask) for mask in sequences[i][t]) for i, t in chosen]
    five = [painted(sequences[:5], t) for t in range(max(1, frames // 5))]
    sets: dict[str, list[tuple[Tensor, ...]]] = {
        "one object": pairs,
        "five objects of a frame": [tuple(object_masks(torch.from_numpy(x), 5) for x in maps) for maps in five],
        "stack of frames": [tuple(torch.stack(side) for side in zip(*pairs, strict=True))],
    }
    print(f"{'ms a mask, J and F':<26}{'ours':>8}{'official':>10}{'ratio':>8}")
    for name, calls in sets.items():
        single = [pair for call in calls for pair in zip(*(x.reshape(-1, *SIZE) for x in call), strict=True)]
        found = torch.cat([torch.stack(scores, -1).reshape(-1, 2) for scores in ours(calls)])
        if found.tolist() != [list(scores) for scores in official(single)]:
            raise RuntimeError(f"{name}: ours and the official way differ")
        took = cpu_seconds(partial(ours, calls), rounds)
        theirs = cpu_seconds(partial(official, single), rounds)
        scale = 1e3 / len(single)
        print(f"{name:<26}{scale * took:8.3f}{scale * theirs:10.3f}{theirs / took:8.1f}")


class Folder(NamedTuple):
    """A video on the disk.

    Attributes:
        name: name.
        objects: how many.
        found: predicted label maps, in order of time.
        truth: the annotations.
    """

    name: str
    objects: int
    found: list[Path]
    truth: list[Path]


def written(root: Path, sequences: list[Sequence], videos: int) -> list[Folder]:
    """Palette PNGs of videos of two objects, the last one of three: 30 have 61, as in DAVIS 2017."""
    orders = itertools.cycle(itertools.permutations(range(len(sequences)), 3))
    folders = []
    for number, order in zip(range(videos), orders, strict=False):
        objects = 2 + (number == VIDEOS - 1)
        chosen = [sequences[i] for i in order[:objects]]
        folder = Folder(f"{number:02d}", objects, [], [])
        for t in range(len(chosen[0])):
            for side, labels, files in zip(("found", "truth"), painted(chosen, t), folder[2:], strict=True):
                files.append(root / side / folder.name / f"{t:05d}.png")
                files[-1].parent.mkdir(parents=True, exist_ok=True)
                image = Image.fromarray(labels).convert("P")
                image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
                image.save(files[-1])
        folders.append(folder)
    return folders


def scored(folders: list[Folder]) -> list[tuple[float, float]]:
    """J and F of every object by :class:`~lightning_vos.metrics.DavisScores`."""
    ids = [tuple(range(1, folder.objects + 1)) for folder in folders]
    scores = metrics.DavisScores([folder.name for folder in folders], ids, baseline=False)
    nothing = torch.zeros(3, 1, 1, dtype=torch.uint8)
    for index, folder in enumerate(folders):

        def target(t: int, files: list[Path] = folder.truth) -> Tensor:
            return torch.from_numpy(read_labels(files[t]))

        names = [path.stem for path in folder.truth]
        video = Video(index, folder.name, SIZE, ids[index], {0: target(0)}, names, lambda t: nothing, target)
        scores.start(video)
        for t, path in enumerate(folder.found):
            scores.add(t, torch.from_numpy(read_labels(path)))
        scores.finish()
    return [(scored.values["J"], scored.values["F"]) for scored in scores.per_object()]


def whole_evaluation(sequences: list[Sequence], videos: int) -> None:
    """All scores of a set of videos from the files of their masks."""
    with tempfile.TemporaryDirectory() as root:
        folders = written(Path(root), sequences, videos)
        files = [path for folder in folders for path in folder.found + folder.truth]
        reading = cpu_seconds(lambda: [np.array(Image.open(path)) for path in files], 1)
        results: list[list[tuple[float, float]]] = []
        took = cpu_seconds(lambda: results.append(scored(folders)), 2)
        theirs = cpu_seconds(lambda: results.append(evaluate([folder[1:] for folder in folders])), 1)
    if not np.allclose(results[0], results[-1], rtol=0, atol=1e-12):
        raise RuntimeError("whole evaluation: ours and the official way differ")
    print(f"\n{videos} videos, {sum(f.objects for f in folders)} objects, {len(files) // 2} frames, from PNGs:")
    print(f"ours {took:.1f} s, official {theirs:.1f} s, ratio {theirs / took:.1f}")
    print(f"reading the PNGs with Pillow alone {reading:.1f} s; without it: ratio", end=" ")
    print(f"{(theirs - reading) / (took - reading):.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=20, help="mask pairs of a set")
    parser.add_argument("--rounds", type=int, default=5, help="rounds over masks, of which the shortest counts")
    parser.add_argument(
        "--videos", type=int, default=VIDEOS, help=f"of the whole evaluation, at most {VIDEOS}; 0: none"
    )
    options = parser.parse_args()
    if options.frames < 1 or options.rounds < 1 or not 0 <= options.videos <= VIDEOS:
        parser.error(f"--frames and --rounds must be at least 1, --videos 0 to {VIDEOS}")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    real = (SHARED / "golden" / "davis_eval" / "osvos").is_dir() and (SHARED / "data" / "davis2016").is_dir()
    print("masks of DAVIS 2016 and OSVOS" if real else f"procedural masks: no real ones at {SHARED}")
    sequences = list(recorded() if real else procedural())
    masks(sequences, options.frames, options.rounds)
    if options.videos:
        whole_evaluation(sequences, options.videos)


if __name__ == "__main__":
    main()
