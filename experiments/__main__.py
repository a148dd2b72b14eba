"""``python -m experiments COMMAND``: composes a run from a few choices, prints its command line and becomes it."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence

from experiments.launch import become, in_turn
from experiments.options import experiment_of, parse
from experiments.plan import plan, scored
from lightning_vos.command_line import print_any_letter


def main(words: Sequence[str] | None = None) -> int:
    """Parse the command line and run it; a mistake is one line on standard error and exit status 2."""
    print_any_letter()
    try:
        return _run(parse(sys.argv[1:] if words is None else words, os.environ))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


def _run(args: Namespace) -> int:
    if args.command in ("slurm", "agents", "trial"):
        # what they write is atomic, by a module of the library, whose import takes a while
        from experiments.slurm import jobs

        return {"slurm": jobs.stages, "agents": jobs.agents, "trial": jobs.trial}[args.command](args)
    if args.only_print or args.command == "command":
        print(*(shlex.join(run.command) for run in plan(args)), sep="\n")
        return 0
    if args.command == "check":
        with tempfile.TemporaryDirectory() as folder:
            return in_turn(run.command for run in plan(args, folder))
    runs = plan(args)
    if len(runs) > 1:  # an evaluation comes last: whether it is needed is known by then
        return in_turn(run.command for run in runs if run.stage != "eval" or not scored(experiment_of(args)))
    if args.command == "eval" and args.if_needed and scored(experiment_of(args)):
        return 0
    # a part goes on with its run in place of writing over it
    return become(runs[0].command, **({"WANDB_RESUME": "allow"} if args.command == "sync" else {}))


if __name__ == "__main__":
    sys.exit(main())
