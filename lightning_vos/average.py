"""The mean of the weights of several checkpoints: ``python -m lightning_vos.average one.ckpt two.ckpt mean.ckpt``.

Runs that start from the same first stage, and differ in their seed or their data, end close enough together for the
mean of their weights to be a network too, often a better one than each (uniform soup: Wortsman et al., *Model soups*,
ICML 2022). Runs that start apart do not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch

from lightning_vos.checkpoint import check_fits, check_method, read_checkpoint, restore
from lightning_vos.cli import run
from lightning_vos.module import VOSModule
from lightning_vos.networks import locate
from lightning_vos.official import save_checkpoint
from lightning_vos.quiet import quieten


def averaged(paths: Sequence[str]) -> VOSModule:
    """A model with the mean of the weights, and the settings of the first checkpoint.

    Means are taken in float64; counters are those of the first. Statistics of a batch norm are averaged like weights,
    which is right where training leaves them as they are, as all our methods do.

    Args:
        paths: two checkpoints or more, or names of released networks.

    Raises:
        FileNotFoundError: no such file, or no released network of this name.
        ValueError: fewer than two, not a checkpoint, another method, or weights of other shapes.
    """
    if len(paths) < 2:
        raise ValueError(
            f"{', '.join(paths)}: nothing to average; give two checkpoints or more, then the file to write"
        )
    paths = [locate(path, advice="give checkpoints of runs from the same first stage") for path in paths]
    first = read_checkpoint(paths[0])
    model: VOSModule = restore(first, paths[0], first["method"], {})
    state = model.state_dict()
    total = {name: value.double() for name, value in state.items() if value.is_floating_point()}
    for path in paths[1:]:
        other = read_checkpoint(path)
        check_method(other, model, path)
        advice = "give checkpoints of runs with the same model settings"
        check_fits(state, other["state_dict"], path, advice, paths[0])
        for name in total:
            total[name] += other["state_dict"][name]
    with torch.no_grad():
        for name, value in total.items():
            state[name].copy_(value / len(paths))
    return model


def main(args: list[str] | None = None) -> None:
    """Read, average, write.

    Raises:
        FileNotFoundError, ValueError: see :func:`averaged`; nothing is written then.
    """
    parser = argparse.ArgumentParser(prog="python -m lightning_vos.average", description=__doc__)
    parser.add_argument("checkpoints", nargs="+", help="checkpoints of one method")
    parser.add_argument("mean", help="where to write")
    options = parser.parse_args(args)
    quieten()
    model = averaged(options.checkpoints)
    save_checkpoint(model, options.mean)
    sys.stdout.write(f"{options.mean}: {type(model).__name__}, mean of {len(options.checkpoints)} checkpoints\n")


if __name__ == "__main__":
    run(main)
