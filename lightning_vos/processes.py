"""How many processes a run is: ``devices: ${processes:2}`` in a configuration, and tasks that Slurm has started."""

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


OmegaConf.register_resolver("processes", processes, replace=True)


def check_tasks(devices: int, nodes: int) -> None:
    """Refuse a number of Slurm tasks that does not fit: each would train alone, or all would wait for one.

    Args:
        devices: of a node, as the trainer counts them.
        nodes: likewise.

    Raises:
        ValueError: with both numbers.
    """
    if not SLURMEnvironment.detect():
        return
    tasks = int(os.environ["SLURM_NTASKS"])
    if tasks > 1 and "SLURM_STEP_ID" not in os.environ:
        raise ValueError(f"SLURM_NTASKS={tasks}, but this is one process: start it with srun, one task a device")
    if tasks != devices * nodes:
        raise ValueError(
            f"SLURM_NTASKS={tasks} for trainer.devices={devices} on trainer.num_nodes={nodes}: one task a device is "
            f"needed; ask Slurm for --nodes={nodes} --ntasks-per-node={devices}"
        )
