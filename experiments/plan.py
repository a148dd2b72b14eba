"""From the options of a command to the runs that it starts."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from experiments.compose import (
    Experiment,
    Run,
    annotate,
    check_data,
    compare,
    compose,
    dry_run,
    from_static,
    predict,
    train,
)
from experiments.options import experiment_of
from experiments.search import one_of

STAGES = {
    "train": ("static", "video", "online", "all"),
    "check": ("static", "video", "all"),
    "command": ("static", "video", "online", "eval", "all"),
    "slurm": ("static", "video", "online", "eval", "all"),
}


def plan(args: Namespace, scratch: str = "$folder") -> list[Run]:
    """What a command runs, in turn.

    Args:
        args: of the command.
        scratch: folder for the figures of a dry run.

    Raises:
        ValueError: a mistake in one of the choices.
    """
    e = experiment_of(args)
    match args.command:
        case "train" | "command" | "slurm":
            one_of("STAGE", args.stage, STAGES[args.command])
            return train(e) if args.stage == "all" else [compose(e, args.stage)]
        case "check":
            one_of("STAGE", args.stage, STAGES["check"])
            stages = ["static", "video"] if args.stage == "all" else [args.stage]
            return [dry_run(e, stage, scratch, table=stage == stages[-1]) for stage in stages]
        case "predict":
            return [predict(e, args.video, args.mask, args.out, args.direction)]
        case "annotate":
            return [annotate(e, args.video, args.mask, args.out, args.direction, args.port)]
        case "compare":
            return [compare(e, args.ckpts)]
        case "check-data":
            return [check_data(e)]
        case "sweep":
            return [_sweep(e)]
        case "sync":
            return [_sync(e)]
        case "video":
            return [compose(from_static(e) if args.from_static else e, "video")]
        case _:
            return [compose(e, args.command)]


def scored(experiment: Experiment) -> bool:
    """Whether stage two ended with an evaluation of its last state."""
    video = compose(experiment, "video")
    if not video.results.is_file() or not video.hands_over.is_file():
        return video.results.is_file()
    return video.results.stat().st_mtime > video.hands_over.stat().st_mtime


def _sweep(e: Experiment) -> Run:
    file = e.method_folder / "sweep.yaml"
    if not file.is_file():
        raise ValueError(f"{file}: no such file; a sweep of {e.method} is described there")
    return Run("sweep", Path(e.runs), ("sweep", str(file)), "wandb")


def _sync(e: Experiment) -> Run:
    parts = sorted(Path(e.runs).rglob("wandb/offline-run-*"), key=lambda path: path.name)  # in the order of their times
    if not parts:
        raise ValueError(f"RUNS={e.runs}: nothing below it was logged offline")
    return Run("sync", Path(e.runs), ("sync", *map(str, parts)), "wandb")
