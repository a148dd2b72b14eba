"""Tasks that Slurm has started, and whether they fit the trainer."""

from __future__ import annotations

import os

from lightning.pytorch.plugins.environments import SLURMEnvironment


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
