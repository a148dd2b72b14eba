"""How many processes a run is where there is no GPU: ``devices: ${processes:2}`` in a configuration."""

from __future__ import annotations

import os

import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment
from omegaconf import OmegaConf


def processes(wanted: int) -> int:
    """Processes that share a batch on the cores of a machine without a GPU; 1 on a GPU, and on Slurm.

    Threads work together inside an operation; a network that takes picture by picture keeps a second core busier as a
    process of its own. The batch, and what is learned of it, stay the same.

    Args:
        wanted: at most; there are no more than cores.
    """
    if torch.cuda.is_available() or SLURMEnvironment.detect():
        return 1
    return min(wanted, len(os.sched_getaffinity(0)))


def offer_processes() -> None:
    """Let configurations say ``devices: ${processes:2}``."""
    OmegaConf.register_resolver("processes", processes, replace=True)
