"""How long J and F take on one core: ours against the textbook algorithms on full frames.

    python -m benchmarks.scoring [--frames N]

Everything is timed in one run on the same masks, the shortest of several rounds, per frame and object. The masks are
480 x 854: procedural ones, and with ``../shared/golden/davis_eval`` real predictions against real annotations.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_vos import metrics
from tests import reference

SHARED = Path(__file__).resolve().parents[2] / "shared"
Pair = tuple[Tensor, Tensor]


def procedural(frames: int) -> list[Pair]:
    """One blob object, and the same moved by a few pixels with a bite taken out."""
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for _ in range(frames):
        target = reference.blobs(480, 854, generator, count=3)
        dy, dx = torch.randint(-10, 11, (2,), generator=generator).tolist()
        bite = reference.blobs(480, 854, generator, count=1, high=0.1)
        pairs.append((target.roll((dy, dx), (0, 1)) & ~bite, target))
    return pairs


def golden(frames: int) -> list[Pair]:
    """Predictions of OSVOS and the annotations of DAVIS, evenly spaced over six sequences."""
    truth = SHARED / "data" / "davis2016" / "Annotations" / "480p"
    files = sorted(p for p in (SHARED / "golden" / "davis_eval" / "osvos").glob("*/*.png") if truth.is_dir())
    pairs = []
    for path in files[:: max(1, len(files) // frames)][:frames]:
        annotation = np.array(Image.open(truth / path.parent.name / path.name))
        annotation = annotation if annotation.ndim == 2 else annotation.max(-1)
        pairs.append((torch.from_numpy(np.array(Image.open(path)) > 0), torch.from_numpy(annotation > 0)))
    return pairs


def milliseconds(measure: Callable[[Tensor, Tensor], object], pairs: list[Pair], rounds: int) -> float:
    """Shortest mean over the pairs."""
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        for pred, target in pairs:
            measure(pred, target)
        best = min(best, time.perf_counter() - began)
    return 1e3 * best / len(pairs)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=20, help="mask pairs per set")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the shortest counts")
    options = parser.parse_args()
    if options.frames < 1 or options.rounds < 1:
        parser.error("--frames and --rounds must be at least 1")
    torch.set_num_threads(1)
    sets = {"procedural": procedural(options.frames), "DAVIS (OSVOS)": golden(options.frames)}
    print(f"{'masks':<16}{'measure':<10}{'algorithm':<28}{'ms':>8}{'of ours':>12}")
    for name, pairs in sets.items():
        if not pairs:
            print(f"{name:<16}skipped: nothing at {SHARED}")
            continue
        for pred, target in pairs:
            if float(metrics.boundary_accuracy(pred, target)) != reference.boundary_accuracy(pred, target):
                raise RuntimeError(f"{name}: ours and the textbook differ")
        j = milliseconds(metrics.region_similarity, pairs, options.rounds)
        f = milliseconds(metrics.boundary_accuracy, pairs, options.rounds)
        rows = [
            ("J", "ours", j, j),
            ("J", "full frame", milliseconds(reference.region_similarity, pairs, options.rounds), j),
            ("F", "ours", f, f),
            ("F", "full frame, shifts", milliseconds(reference.boundary_accuracy, pairs, options.rounds), f),
            (
                "F",
                "full frame, convolution",
                milliseconds(lambda p, t: reference.boundary_accuracy(p, t, convolve=True), pairs, options.rounds),
                f,
            ),
        ]
        for measure, algorithm, took, ours in rows:
            ratio = "" if algorithm == "ours" else f"{took / ours:.1f} x"
            print(f"{name:<16}{measure:<10}{algorithm:<28}{took:8.2f}{ratio:>12}")


if __name__ == "__main__":
    main()
