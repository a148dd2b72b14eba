"""Writes a batch file and hands it to Slurm: ``python -m experiments.slurm.submit --help``; `make slurm` calls it."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

from lightning_vos.atomic import unfinished

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def batch_file(args: argparse.Namespace) -> str:
    """The batch file of a job.

    Raises:
        ValueError: the command names other numbers of devices or nodes than Slurm is asked for.
    """
    for option, wanted in (("devices", args.devices), ("num_nodes", args.nodes)):
        for value in [word.partition("=")[2] for word in args.command if word.startswith(f"--trainer.{option}=")]:
            if value != str(wanted):
                raise ValueError(f"--trainer.{option}={value}, but Slurm is asked for {wanted}: set GPUS and NODES")
    if not re.fullmatch(r"[\w.-]+", args.name):
        raise ValueError(f"job name {args.name!r}: use letters, digits, dots and hyphens")
    folder = (ROOT / args.folder).resolve()
    options = {
        "job-name": args.name,
        "partition": args.partition,
        "nodes": args.nodes,
        "ntasks-per-node": args.devices,
        "gpus-per-node": args.gpus or None,
        "cpus-per-task": args.cpus,
        "time": args.time,
        "signal": f"USR1@{args.notice}",
        "requeue": True,
        "open-mode": "append",
        "output": folder / ("slurm-%A_%a.log" if args.array else "slurm-%j.log"),
        "array": f"1-{args.array}" if args.array else None,
        "dependency": f"afterok:{args.after}" if args.after else None,
        "kill-on-invalid-dep": "yes" if args.after else None,
    }
    lines = [f"#SBATCH --{k}" if v is True else f"#SBATCH --{k}={v}" for k, v in options.items() if v]
    lines += [f"#SBATCH {option}" for option in shlex.split(args.options)]
    words = [word for word in args.command if not word.startswith(("--trainer.devices=", "--trainer.num_nodes="))]
    if not args.array:
        words += [f"--trainer.devices={args.devices}", f"--trainer.num_nodes={args.nodes}"]
    text = (HERE / ("agents.sbatch" if args.array else "train.sbatch")).read_text(encoding="utf-8")
    for name, value in {
        "OPTIONS": "\n".join(lines),
        "ROOT": shlex.quote(str(ROOT)),
        "FOLDER": shlex.quote(str(folder)),
        "COMMAND": "".join(_in_place(word) for word in words).strip(),
    }.items():
        text = text.replace(f"@{name}@", value)
    return text


def main() -> None:
    """Write the file, submit it, print the number of the job; what is wrong is one line and exit status 2."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--folder", required=True, help="of the run: batch file and output go there")
    parser.add_argument("--name", required=True, help="of the job")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--devices", type=int, default=1, help="of a node: one task each")
    parser.add_argument("--gpus", type=int, default=0, help="of a node; 0 for a job without")
    parser.add_argument("--cpus", type=int, default=8, help="of a task: the process and its loaders")
    parser.add_argument("--time", default="24:00:00", help="limit, as Slurm writes it")
    parser.add_argument("--partition", default="")
    parser.add_argument("--notice", type=int, default=300, help="seconds before the limit at which SIGUSR1 comes")
    parser.add_argument("--after", default="", help="number of a job that must end well first")
    parser.add_argument("--array", type=int, default=0, help="number of trials of a sweep")
    parser.add_argument("--options", default="", help="further options of sbatch")
    parser.add_argument("command", nargs="+", help="what each task runs, after --")
    args = parser.parse_args()
    try:
        text = batch_file(args)
        path = ROOT / args.folder / "job.sbatch"
        with unfinished(path) as beside:
            beside.write_text(text, encoding="utf-8")
        done = subprocess.run(
            ["sbatch", "--parsable", str(path)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ValueError(
                f"sbatch refused {path}: {' '.join(done.stderr.split())}; submit from a login node of the cluster, and "
                "look at PARTITION, GPUS, CPUS, TIME and SBATCH"
            )
    except FileNotFoundError as error:
        sys.exit(_complaint(f"{error.filename}: no such command; run this where Slurm is, such as a login node"))
    except ValueError as error:
        sys.exit(_complaint(str(error)))
    number = done.stdout.strip().partition(";")[0]
    sys.stderr.write(f"job {number}: {path}\n")
    print(number)


def _in_place(word: str) -> str:
    """An option starts a line of its own."""
    return (" \\\n    " if word.startswith("--") else " ") + shlex.quote(word)


def _complaint(line: str) -> int:
    sys.stderr.write(f"error: {line}\n")
    return 2


if __name__ == "__main__":
    main()
