"""How long DMM-Net's matching layer takes: 16 clips at once against plain loops.

    python -m benchmarks.matching [--rounds N]

16 problems of 5 templates x 50 proposals, 40 gradient steps of 5 sweeps, float32 on one core, forward and backward.
Everything is timed in one run on the same costs; of several rounds the shortest counts, as other processes only add.
*Loops* is ``tests/reference_matching.py``: problem by problem, loops over rows and columns. *One by one* is the layer
itself on one problem at a time: what batching alone is worth.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_vos.methods.dmm_net.matching import relaxed_assignment
from tests import reference_matching

CLIPS, TEMPLATES, PROPOSALS = 16, 5, 50
STEPS, SWEEPS, STEP_SIZE = 40, 5, 0.1
MODES = ("paper", "official")

Solver = Callable[[Tensor, str], Tensor]


def batched(cost: Tensor, mode: str) -> Tensor:
    return relaxed_assignment(cost, mode=mode, steps=STEPS, sweeps=SWEEPS, step_size=STEP_SIZE)


def one_by_one(cost: Tensor, mode: str) -> Tensor:
    return torch.cat([batched(clip, mode) for clip in cost.split(1)])


def loops(cost: Tensor, mode: str) -> Tensor:
    return torch.stack(
        [reference_matching.relaxed_assignment(clip, mode, STEPS, SWEEPS, STEP_SIZE, average=True) for clip in cost]
    )


def measure(solve: Solver, cost: Tensor, mode: str, rounds: int) -> tuple[tuple[float, float], Tensor, Tensor]:
    """Shortest forward and shortest backward in milliseconds, the solution and the gradient of its weighted sum."""
    weight = torch.randn(cost.shape, generator=torch.Generator().manual_seed(1))
    forward = backward = float("inf")
    for _ in range(rounds):
        leaf = cost.clone().requires_grad_()
        began = time.perf_counter()
        solution = solve(leaf, mode)
        middle = time.perf_counter()
        (gradient,) = torch.autograd.grad((weight * solution).sum(), leaf)
        ended = time.perf_counter()
        forward, backward = min(forward, middle - began), min(backward, ended - middle)
    return (1e3 * forward, 1e3 * backward), solution.detach(), gradient


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the loops, of which the shortest counts")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    torch.set_num_threads(1)
    cost = -torch.rand(CLIPS, TEMPLATES, PROPOSALS, generator=torch.Generator().manual_seed(0))
    print(f"{CLIPS} problems of {TEMPLATES} x {PROPOSALS}, {STEPS} steps of {SWEEPS} sweeps; shortest time in ms")
    print(f"{'mode':<10}{'algorithm':<12}{'forward':>10}{'backward':>10}{'both':>10}{'of ours':>10}")
    for mode in MODES:
        # Short measurements catch more of the noise of other processes, and cost little to repeat.
        ours, *expected = measure(batched, cost, mode, 10 * options.rounds)
        rows = [("batched", ours)]
        for name, solve, rounds in (("one by one", one_by_one, 2 * options.rounds), ("loops", loops, options.rounds)):
            took, *found = measure(solve, cost, mode, rounds)
            for mine, theirs in zip(expected, found, strict=True):
                torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4)
            rows.append((name, took))
        for name, (forward, backward) in rows:
            both = forward + backward
            ratio = "" if name == "batched" else f"{both / sum(ours):.1f} x"
            print(f"{mode:<10}{name:<12}{forward:10.1f}{backward:10.1f}{both:10.1f}{ratio:>10}")


if __name__ == "__main__":
    main()
