"""The batch file of a job, and how it is handed to Slurm."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.launch import ENVIRONMENT
from experiments.search import one_line
from lightning_vos.atomic import unfinished

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, kw_only=True)
class Job:
    """What Slurm is asked for.

    Attributes:
        folder: of the run: batch file and output go there.
        name: of the job.
        command: what each task runs; of an array, what each of its jobs does.
        nodes: number of nodes.
        devices: of a node: one task each.
        gpus: of a node; 0 for a job without.
        cpus: of a task: the process and its loaders.
        time: limit, as Slurm writes it.
        partition: of the cluster.
        notice: seconds before the limit at which SIGUSR1 comes.
        after: number of a job that must end well first.
        array: number of trials of a sweep; 0 for a single job.
        options: further options of sbatch.
    """

    folder: Path
    name: str
    command: Sequence[str]
    nodes: int = 1
    devices: int = 1
    gpus: int = 0
    cpus: int = 8
    time: str = "24:00:00"
    partition: str = ""
    notice: int = 300
    after: str = ""
    array: int = 0
    options: Sequence[str] = ()


def batch_file(job: Job) -> str:
    """The batch file of a job.

    Raises:
        ValueError: the command names other numbers of devices or nodes than Slurm is asked for, or a value would
            break a line of the file.
    """
    for option, wanted in (("devices", job.devices), ("num_nodes", job.nodes)):
        for value in [word.partition("=")[2] for word in job.command if word.startswith(f"--trainer.{option}=")]:
            if value != str(wanted):
                raise ValueError(f"--trainer.{option}={value}, but Slurm is asked for {wanted}: set GPUS and NODES")
    folder = job.folder.absolute()
    if "\\" in str(folder):
        raise ValueError(f"{folder}: Slurm cannot write to a folder with a backslash in its name; choose another one")
    options = {
        "job-name": re.sub(r"[^\w.-]+", "-", job.name),
        "partition": job.partition,
        "nodes": job.nodes,
        "ntasks-per-node": job.devices,
        "gpus-per-node": job.gpus or None,
        "cpus-per-task": job.cpus,
        "time": job.time,
        "signal": f"USR1@{job.notice}",
        "requeue": True,
        "open-mode": "append",
        "output": f"{folder}/".replace("%", "%%") + ("slurm-%A_%a.log" if job.array else "slurm-%j.log"),
        "array": f"1-{job.array}" if job.array else None,
        "dependency": f"afterok:{job.after}" if job.after else None,
        "kill-on-invalid-dep": "yes" if job.after else None,
    }
    asked = [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items() if value]
    lines = [f"#SBATCH {_header(word)}" for word in (*asked, *job.options)]
    words = [word for word in job.command if not word.startswith(("--trainer.devices=", "--trainer.num_nodes="))]
    if not job.array:
        words += [f"--trainer.devices={job.devices}", f"--trainer.num_nodes={job.nodes}"]
    values = {"OPTIONS": "\n".join(lines), "WORK": shlex.quote(str(Path.cwd()))}
    return filled("agents.sbatch" if job.array else "train.sbatch", folder, words, values)


def filled(template: str, folder: Path, words: Sequence[str], values: Mapping[str, str]) -> str:
    """A template of this folder with the folder of the run, the command and other values in place."""
    for what, text in (("folder", str(folder)), ("working directory", str(Path.cwd()))):
        one_line(what, text)
    values = {
        "FOLDER": shlex.quote(str(folder.absolute())),
        "COMMAND": "".join(_in_place(word) for word in words).strip(),
        "ENVIRONMENT": shlex.join(f"{name}={value}" for name, value in ENVIRONMENT.items()),
        "SLURM": shlex.quote(str(HERE)),
        **values,
    }
    text = (HERE / template).read_text(encoding="utf-8")
    return re.sub(r"@([A-Z]+)@", lambda match: values[match[1]], text)


def submit(job: Job) -> str:
    """Write the batch file and submit it; the number of the job.

    Raises:
        ValueError: Slurm refused it, or is not here.
    """
    path, text = job.folder.absolute() / "job.sbatch", batch_file(job)
    with unfinished(path) as beside:
        write(beside, text)
    try:
        done = subprocess.run(["sbatch", "--parsable", str(path)], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ValueError("sbatch: no such command; run this where Slurm is, such as a login node") from error
    if done.returncode:
        raise ValueError(
            f"sbatch refused {path}: {' '.join(done.stderr.split())}; submit from a login node of the cluster, and "
            "look at PARTITION, GPUS, CPUS, TIME and SBATCH"
        )
    number = done.stdout.strip().partition(";")[0]
    sys.stderr.write(f"job {number}: {path}\n")
    return number


def write(path: Path, script: str) -> None:
    """A script, with names of files that are not UTF-8 as they are."""
    path.write_text(script, encoding="utf-8", errors="surrogateescape")


def _header(word: str) -> str:
    """An option of sbatch, as it reads one from a line of a batch file: quotes as in a shell, but nothing else."""
    one_line("SBATCH", word)
    if re.fullmatch(r"[\w@%+=:,./-]+", word):
        return word
    return '"' + re.sub(r'[\\"]', r"\\\g<0>", word) + '"'


def _in_place(word: str) -> str:
    """An option starts a line of its own."""
    return (" \\\n    " if word.startswith("--") else " ") + shlex.quote(word)
