"""What is submitted: the stages of a run, trials of a sweep; and such a trial."""

from __future__ import annotations

import os
import shlex
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.compose import compose
from experiments.launch import become
from experiments.options import experiment_of
from experiments.plan import plan
from experiments.search import one_of, shown
from experiments.slurm.submit import Job, batch_file, filled, submit, write
from lightning_vos.atomic import unfinished
from lightning_vos.names import component

STAGES = ("static", "video", "all")  # of a trial; all is video


def stages(args: Namespace) -> int:
    """A job for each stage, each after the one before; the number of the last is printed."""
    name, after = experiment_of(args).name, args.after
    args.options = _with_workers(args)
    for run in plan(args):
        job = Job(folder=run.folder, name=f"{name}-{run.stage}", command=run.command, after=after, **_asked(args))
        if args.only_print:
            print(batch_file(job))
        else:
            after = submit(job)
    if not args.only_print:
        print(after)
    return 0


def agents(args: Namespace) -> int:
    """An array of jobs, each of which asks W&B for one trial; what they have in common is in their environment.

    Raises:
        ValueError: there is no sweep, or no such stage, or its id is no name of a folder.
    """
    if not args.sweep:
        raise ValueError("SWEEP is not set: give entity/project/id, as make sweep prints it")
    one_of("STAGE", args.stage, STAGES)
    args.options = _with_workers(args)
    e, sweep = experiment_of(args), component(args.sweep.rpartition("/")[2], "sweep")
    settings = {
        "STAGE": "video" if args.stage == "all" else args.stage,
        "DATA": e.data,
        "DATA_ROOT": e.data_root,
        "RECIPE": None if e.recipe is None else " ".join(e.recipe),
        "EXPERIMENTS": args.experiments or None,
        "WEIGHTS": e.weights or None,
        "PRECISION": e.precision,
        "RUNS": e.runs,
        "ARGS": shlex.join(e.options),
    }
    environment = [f"{name}={value}" for name, value in settings.items() if value is not None]
    agent = [*args.agent] or [str(shown(Path(sys.executable))), *["-m", "wandb", "agent", "--count", "1"]]
    job = Job(
        folder=Path(e.runs) / "sweeps" / sweep,
        name=f"sweep-{sweep}",
        command=["env", *environment, *agent, args.sweep],
        array=args.count,
        after=args.after,
        **_asked(args),
    )
    print(batch_file(job) if args.only_print else submit(job))
    return 0


def trial(args: Namespace) -> int:
    """A trial, in ``<runs>/sweeps/<sweep>/<id>``: in a job by srun, from a script that goes on with it; else here.

    Raises:
        ValueError: W&B has not named the trial, or not so that a folder can be.
    """
    for name in ("WANDB_SWEEP_ID", "WANDB_RUN_ID"):
        if name not in os.environ:
            raise ValueError(f"{name} is not set: a trial is started by an agent of W&B, see docs/cluster.md")
    one_of("STAGE", args.stage, STAGES)
    sweep, run_id = (component(os.environ[name], name) for name in ("WANDB_SWEEP_ID", "WANDB_RUN_ID"))
    e = replace(experiment_of(args), run=f"sweeps/{sweep}/{run_id}")
    run = compose(e, "video" if args.stage == "all" else args.stage)
    script = os.environ.get("TRIAL")
    if not script:
        become(run.command)
    tasks = [f"--trainer.devices={os.environ['SLURM_NTASKS_PER_NODE']}"]
    tasks += [f"--trainer.num_nodes={os.environ['SLURM_NNODES']}"]
    variables = {k: v for k, v in os.environ.items() if k.startswith("WANDB_") and k != "WANDB_API_KEY"}
    values = {"WANDB": shlex.join(f"{name}={value}" for name, value in variables.items())}
    with unfinished(script) as beside:
        write(beside, filled("trial.sh", run.folder, [*run.command, *tasks], values))
    become(["bash", script])


def _with_workers(args: Namespace) -> list[str]:
    """The options, below which the loaders have the cores that the process itself leaves them."""
    return [f"--data.num_workers={max(1, args.cpus - 1)}", *args.options]


def _asked(args: Namespace) -> dict[str, Any]:
    names = ("nodes", "gpus", "cpus", "time", "partition", "notice")
    devices = args.devices or args.gpus or 1
    return {"devices": devices, "options": args.sbatch, **{name: getattr(args, name) for name in names}}
