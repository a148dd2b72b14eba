"""Options of ``python -m experiments``. Each takes its default from the environment variable of its name.

So Make hands its variables over as they are: no value is ever a word of a shell command.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, NoReturn

from experiments.compose import Experiment
from experiments.precision import PRECISIONS, default_precision, job_precision
from experiments.search import one_line, search_path
from lightning_vos.command_line import at_home, each_text


class Option(NamedTuple):
    """One option: what it means, and its value where neither command line nor environment gives one."""

    help: str
    default: str | int | None = ""
    choice: bool = False  # an empty variable is a mistake, or a choice; elsewhere it counts as not set
    form: str = ""  # what a value that is not empty must match
    wanted: str = ""  # that, in words
    least: int = 0  # of a number


OPTIONS = {
    "method": Option("folder of experiments, or a path to one", "remn", True),
    "data": Option("data set, or a path to its file", "demo", True),
    "recipe": Option(
        'settings on top of the method\'s own, such as "small demo"; on the demo set these two', None, True
    ),
    "experiments": Option("further folders with methods and data sets, dir1:dir2"),
    "data-root": Option("folder that holds the data sets", "data"),
    "runs": Option("folder of all runs; on a cluster one that all nodes see", "runs"),
    "run": Option("name of the run: <method>-<data>[-<first recipe>]"),
    "stage": Option("static, video, online, or all: static, video and eval", "all", True),
    "weights": Option("checkpoint or released network to start from; online: that of stage two"),
    "ckpt": Option("checkpoint or released network; by default the newest of the run's stage two, in predict METHOD's"),
    "precision": Option(
        "bf16-mixed where the processor or a GPU computes with it, else 32-true; jobs: on GPUS",
        form="|".join(PRECISIONS),
        wanted=f"one of {', '.join(PRECISIONS)}",
    ),
    "video": Option("movie file or folder of frames, or a folder of several"),
    "mask": Option("mask of the first frame, a folder of masks, or box=x0,y0,x1,y1 around one object (rough)"),
    "out": Option("folder of the masks", "predictions"),
    "direction": Option("forward, backward or both", "forward", True),
    "port": Option("at which this machine serves the page; 0: any that is free", 0),
    "nodes": Option("of a job", 1, least=1),
    "gpus": Option("of each node", 1),
    "devices": Option("processes of each node, by default as many as GPUs", 0),
    "cpus": Option("of each process, for it and its loaders", 8, least=1),
    "time": Option(
        "limit of a job, as Slurm writes it",
        "24:00:00",
        form=r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}|(?i:infinite|unlimited)",
        wanted="minutes, hours:minutes:seconds, or days-hours",
    ),
    "partition": Option("of the cluster"),
    "notice": Option("seconds before the limit at which the run is asked to stop", 300, least=1),
    "after": Option("number of a job that must end well first", form=r"\d+(_\d+)?", wanted="the number of a job"),
    "sbatch": Option('further options of sbatch, such as "--account=vos --mem=64G"'),
    "sweep": Option("entity/project/id, as sweep prints it"),
    "count": Option("number of trials", 1, least=1),
    "agent": Option("what runs one trial; by default W&B's agent"),
}

_RUN = ("method", "data", "recipe", "experiments", "data-root", "runs", "run", "precision")
_PREDICT = ("method", "experiments", "runs", "ckpt", "precision", "video", "mask", "out", "direction")
_JOB = ("nodes", "gpus", "devices", "cpus", "time", "partition", "notice", "after", "sbatch")

COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "train": (
        "both stages, and eval unless stage two ended with one; or one stage",
        (*_RUN, "stage", "weights", "ckpt"),
    ),
    "static": ("stage one: clips made of still images", _RUN),
    "video": ("stage two: clips of videos, from the weights of stage one if they are given", (*_RUN, "weights")),
    "online": ("first-frame training, on the given masks of the validation set", (*_RUN, "weights")),
    "eval": ("score a checkpoint on the validation set", (*_RUN, "ckpt")),
    "predict": ("masks and overlay of a video from its first mask", _PREDICT),
    "annotate": ("a page that paints first masks of a video, propagates and mends them", (*_PREDICT, "port")),
    "compare": ("checkpoints of any methods under one protocol: tables and a page", (*_RUN, "ckpt")),
    "submission": ("masks for an evaluation server, zipped and checked", (*_RUN, "ckpt")),
    "check": ("before hour zero: heaviest steps, all labels; memory, speed, hours", (*_RUN, "stage", "weights")),
    "check-data": ("open every frame and mask of a data set, name what is wrong", ("data", "experiments", "data-root")),
    "command": ("print what a stage would run, for scripts", (*_RUN, "stage", "weights", "ckpt")),
    "slurm": ("submit a job for each stage, in order, or for one", (*_RUN, "stage", "weights", "ckpt", *_JOB)),
    "sweep": ("register the sweep of a method at W&B", ("method", "experiments")),
    "agents": ("submit an array of trials of a sweep", (*_RUN, "stage", "weights", *_JOB, "sweep", "count", "agent")),
    "trial": ("one trial, as an agent of W&B starts it: METHOD, then its options", (*_RUN, "stage", "weights")),
    "sync": ("upload what was logged offline; several parts of a run become one", ("runs",)),
}


_WITHOUT_OPTIONS = ("sweep", "sync")  # these do not start lightning_vos


class Parser(argparse.ArgumentParser):
    """One whose complaint is an error like any other: one line."""

    def error(self, message: str) -> NoReturn:
        """Raise it.

        Raises:
            ValueError: always.
        """
        hint = "; options of lightning_vos go after --" if message.startswith("unrecognized arguments") else ""
        raise ValueError(f"{message}{hint}")


def parse(words: Sequence[str], environ: Mapping[str, str]) -> argparse.Namespace:
    """The options of a command; ``options`` are those for lightning_vos: of ``ARGS``, then of after ``--``.

    Args:
        words: of the command line.
        environ: where the values of options lie that the command line does not give.

    Raises:
        ValueError: a mistake, in one line.
    """
    words = [*words]
    if words[:1] == ["trial"]:
        words[2:2] = ["--"]
    end = words.index("--") if "--" in words else len(words)
    args = _parser(environ).parse_args(words[:end])
    if args.command in _WITHOUT_OPTIONS and end < len(words):
        raise ValueError(f"{args.command} takes no options of lightning_vos: leave out {shlex.join(words[end:])}")
    args.options = [*_split("args", environ.get("ARGS", "")), *words[end + 1 :]]
    for name in ("sbatch", "agent"):
        if name in args:
            setattr(args, name, _split(name, getattr(args, name) or ""))
    for name, value in vars(args).items():
        each_text(value, partial(one_line, _variable(name)))
        _check(name, value)
    return each_text(args, at_home)


def experiment_of(args: argparse.Namespace) -> Experiment:
    """What the options choose."""
    given = vars(args)
    recipe = given.get("recipe")
    precision = given.get("precision", "32-true")  # of commands that compute
    if not precision:
        precision = job_precision(args.gpus) if "gpus" in given else default_precision()
    names = {"checkpoint": "ckpt", **{name: name for name in ("method", "data", "data_root", "runs", "run", "weights")}}
    chosen = {name: given[option] for name, option in names.items() if option in given}
    return Experiment(
        recipe=None if recipe is None else tuple(recipe.split()),
        precision=precision,
        options=tuple(args.options),
        search=search_path(given.get("experiments", "")),
        **chosen,
    )


def _parser(environ: Mapping[str, str]) -> Parser:
    parser = Parser(
        "python -m experiments",
        description="Compose a run from its method, its data and its recipe, and start it.",
        epilog="Further options of lightning_vos go after --, such as: train remn --data davis17 -- --model.lr=2e-5. "
        "An option's default is the environment variable of its name (DATA_ROOT, ...); ARGS holds further options.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, (summary, names) in COMMANDS.items():
        part = commands.add_parser(command, help=summary, description=summary, allow_abbrev=False)
        for name in names:
            _add(part, name, environ, positional=name == "method" and command != "compare")
        if command == "compare":
            given = _split("ckpts", environ.get("CKPTS", ""))
            part.add_argument("ckpts", nargs="*", default=given, metavar="CKPTS", help="PATH or NAME=PATH")
        if command == "video":
            part.add_argument("--from-static", action="store_true", help="from the weights of its own stage one")
        if command == "eval":
            part.add_argument("--if-needed", action="store_true", help="unless stage two ended with an evaluation")
        part.add_argument("--print", action="store_true", dest="only_print", help="print the command, run nothing")
        if command not in _WITHOUT_OPTIONS:
            dashes = "" if command == "trial" else "-- "
            part.usage = f"{part.format_usage().removeprefix('usage: ').rstrip()} [{dashes}OPTION ...]"
            part.epilog = "OPTION: of lightning_vos, such as --model.lr=2e-5; goes over everything else"
    return parser


def _split(name: str, text: str) -> list[str]:
    """Words, as a shell would split them.

    Raises:
        ValueError: a quotation mark that is not closed.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ValueError(
            f"{_variable(name)}={text!r}: {str(error).lower()}; put quotes around what belongs together"
        ) from error


def _variable(name: str) -> str:
    """What make, the environment and the messages call an option."""
    return name.upper().replace("-", "_")


def _check(name: str, value: object) -> None:
    """Refuse a value that is known to be wrong before anything is started or submitted.

    Raises:
        ValueError: naming what is wanted.
    """
    option = OPTIONS.get(name.replace("_", "-"), Option(""))
    if isinstance(value, int) and value < option.least:
        raise ValueError(f"{_variable(name)}={value}: give a number from {option.least} on")
    if isinstance(value, str) and value and option.form and not re.fullmatch(option.form, value):
        raise ValueError(f"{_variable(name)}={value}: give {option.wanted}")


def _add(parser: argparse.ArgumentParser, name: str, environ: Mapping[str, str], positional: bool) -> None:
    option, variable = OPTIONS[name], _variable(name)
    value = environ.get(variable)
    default = value if value or (option.choice and value is not None) else option.default
    shown = f"{option.help} [{default}]" if default not in (None, "") else option.help
    kind = int if isinstance(option.default, int) else str
    more: dict[str, Any] = {"nargs": "?"} if positional else {}
    flags = ["method"] if positional else [f"--{name}"]
    parser.add_argument(*flags, default=default, type=kind, metavar=variable, help=shown.replace("%", "%%"), **more)
