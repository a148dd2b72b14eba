"""W&B's agent without W&B's server: ``agent.py SWEEP.yaml ID`` runs one trial, that of its place in the job array.

The agent, the rendering of the command and the environment of the trial are wandb's own; what the server would answer
is answered here.
"""

from __future__ import annotations

import os
import queue
import sys
from pathlib import Path
from typing import Any

import wandb
import yaml
from wandb.apis.public import sweeps
from wandb.wandb_agent import Agent


def main() -> None:
    """Hand the agent a single run."""
    config = yaml.safe_load(Path(sys.argv[1]).read_text())
    os.environ.setdefault("WANDB_DIR", str(Path(sys.argv[1]).parent))
    os.environ["WANDB_SWEEP_ID"] = sys.argv[2].rpartition("/")[2]
    task = int(os.environ["SLURM_ARRAY_TASK_ID"])
    values = {name: {"value": p["values"][task - 1]} for name, p in config["parameters"].items()}
    runs = [[{"type": "run", "run_id": f"trial{task}", "args": values, "program": ""}]]

    def heartbeat(*args: Any) -> list[dict[str, Any]]:
        return runs.pop() if runs else []

    sweeps._sweep_with_runs = lambda *args: {"config": yaml.safe_dump(config)}
    sweeps._register_agent = lambda *args, **kwargs: {"id": "agent"}
    sweeps._agent_heartbeat = heartbeat
    wandb.Api = lambda *args, **kwargs: None
    Agent(None, queue.Queue(), sweep_id=sys.argv[2], count=1).run()


if __name__ == "__main__":
    main()
