"""What a run is: the words for ``python -m lightning_vos``, made of a few choices.

Here, and nowhere else, the order of the layers is fixed; a later file goes over an earlier one, key by key::

    base < stage < data set < method/model < method/stage < method/recipe/{model,stage}, for each recipe < options
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from experiments.search import OWN, data_files, method_folder, one_of, recipes_of, shown
from lightning_vos.networks import released

TRAINING = ("static", "video", "online")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What a user chooses. Everything else of a run follows from it.

    Attributes:
        method: name of a folder of experiments, or a path to one.
        data: name of a data set, or a path to its file.
        recipe: settings on top of the method's own, in turn; ``None``: ``small demo`` on the demo set, else none.
        data_root: folder that holds the data sets.
        runs: folder of all runs.
        run: name of this one; empty: ``<method>-<data>``, with the first recipe where the data is not the demo set.
        weights: checkpoint that a training starts from; the online stage starts from that of stage two by default.
        checkpoint: to evaluate, a path or the name of a released network; empty: the newest state of stage two, and to
            predict the released network of the method.
        precision: of the trainer.
        options: further options of ``lightning_vos``, which go over everything.
        search: folders in which methods and data sets are looked for.
    """

    method: str = "remn"
    data: str = "demo"
    recipe: tuple[str, ...] | None = None
    data_root: str = "data"
    runs: str = "runs"
    run: str = ""
    weights: str = ""
    checkpoint: str = ""
    precision: str = "32-true"
    options: tuple[str, ...] = ()
    search: tuple[Path, ...] = (OWN,)

    @cached_property
    def method_folder(self) -> Path:
        """Where the method's ``model.yaml`` lies."""
        return method_folder(self.method, self.search)

    @cached_property
    def recipes(self) -> tuple[str, ...]:
        """The recipes in turn.

        Raises:
            ValueError: the method has no such recipe.
        """
        there = recipes_of(self.method_folder)
        if self.recipe is None:
            return tuple(name for name in ("small", "demo") if self.data == "demo" and name in there)
        for name in self.recipe:
            one_of("RECIPE", name, there)
        return self.recipe

    @property
    def name(self) -> str:
        """Of the run, and of its folder in ``runs``."""
        recipe = self.recipes[:1] if self.data != "demo" else ()
        return self.run or "-".join([Path(self.method).name, Path(self.data).stem, *recipe])

    def folder(self, stage: str) -> Path:
        """Where a stage writes."""
        return Path(self.runs) / self.name / stage


@dataclass(frozen=True)
class Run:
    """A command line.

    Attributes:
        stage: what it is.
        folder: where it writes.
        words: what ``python -m <module>`` is given.
        module: the program.
    """

    stage: str
    folder: Path
    words: tuple[str, ...]
    module: str = "lightning_vos"

    @property
    def command(self) -> list[str]:
        """All words, the interpreter first."""
        return [str(shown(Path(sys.executable))), "-m", self.module, *self.words]

    @property
    def hands_over(self) -> Path:
        """The newest state of a training: it is continued from there, and the next stage starts from its weights."""
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def results(self) -> Path:
        """The scores of its last validation."""
        return self.folder / "results" / "global_results-val.csv"


def compose(experiment: Experiment, stage: str) -> Run:
    """A stage that trains (static, video, online), eval, or submission.

    Raises:
        ValueError: there is no such stage, method, data set or recipe; names those there are.
    """
    one_of("STAGE", stage, (*TRAINING, "eval", "submission"))
    e, folder = experiment, experiment.folder(stage)
    if stage not in TRAINING:
        data = data_files(e.data, e.search, "data" if stage == "eval" else "submission")
        subcommand = "validate" if stage == "eval" else "test"
        layers = [_own("base"), _own("video"), *data, e.method_folder / "model.yaml"]
        options = ["--trainer.logger=false"] if stage == "eval" else []
        options.append(f"--ckpt_path={e.checkpoint or _trained(e)}")
    else:
        if stage == "online":
            method_folder(e.method, e.search, stage)
        subcommand, layers, options = "fit", _training_layers(e, stage), ["--ckpt_path=last"]
        weights = e.weights or (str(_trained(e)) if stage == "online" else "")
        if weights and stage != "static":
            options.append(f"--model.weights={weights}")
    settings = [f"--data.root={e.data_root}", f"--trainer.default_root_dir={folder}"]
    words = (*_configs(layers), *settings, f"--trainer.precision={e.precision}", *options, *e.options)
    return Run(stage, folder, (subcommand, *words))


def train(experiment: Experiment) -> list[Run]:
    """Both stages and an evaluation: the second starts from the weights of the first, the third scores the second."""
    return [compose(experiment, "static"), compose(from_static(experiment), "video"), compose(experiment, "eval")]


def from_static(experiment: Experiment) -> Experiment:
    """The same experiment, started from the weights that its own first stage hands over."""
    return replace(experiment, weights=str(compose(experiment, "static").hands_over))


def dry_run(experiment: Experiment, stage: str, folder: str, table: bool = True) -> Run:
    """A few of the heaviest steps of a stage; figures in ``folder/rows.json``, a table of them where asked for."""
    run = compose(experiment, stage)
    options = [f"--trainer.default_root_dir={folder}/{stage}", "--trainer.logger=false", "--ckpt_path=null"]
    options += ["--trainer.callbacks+=callbacks.DryRun", f"--trainer.callbacks.output={folder}/rows.json"]
    options += [] if table else ["--trainer.callbacks.table=false"]
    return Run("check", Path(folder) / stage, (*run.words, *options))


def predict(experiment: Experiment, video: str, mask: str, out: str, direction: str = "forward") -> Run:
    """Masks of one's own videos, by the released network of the method, or by its newest checkpoint if there is none.

    Raises:
        ValueError: there is no such method or direction, nothing to segment, or no checkpoint.
    """
    e = experiment
    for name, value, what in (("VIDEO", video, "the video to segment"), ("MASK", mask, "what to follow in it")):
        if not value:
            raise ValueError(f"{name} is not set: give {what}; the masks go to OUT, {out}")
    one_of("DIRECTION", direction, ("forward", "backward", "both"))
    layers = [_own("base"), _own("predict"), e.method_folder / "model.yaml"]
    options = [f"--data.video={video}", f"--data.mask={mask}", f"--data.direction={direction}"]
    options += [f"--trainer.default_root_dir={out}", f"--trainer.precision={e.precision}"]
    method = e.method_folder.name
    network = e.checkpoint or (method if method in released() else newest_checkpoint(e))
    options.append(f"--ckpt_path={network}")
    return Run("predict", Path(out), ("predict", *_configs(layers), *options, *e.options))


def annotate(experiment: Experiment, video: str, mask: str, out: str, direction: str, port: int) -> Run:
    """The page that paints and mends masks of a video; it predicts into ``out`` from ``<out>/given``.

    Raises:
        ValueError: as :func:`predict` says.
    """
    run = predict(experiment, video, str(Path(out) / "given"), out, direction)
    options = [f"--video={video}", f"--out={out}", f"--direction={direction}", f"--port={port}"]
    options += [f"--mask={mask}"] if mask else []
    return Run(
        "annotate", Path(out), (*options, f"--propagate={_own('annotate')}", "--", *run.words), "experiments.annotate"
    )


def newest_checkpoint(experiment: Experiment) -> Path:
    """The newest state of a second stage of the method, of whatever data.

    Raises:
        ValueError: there is none.
    """
    method, runs = experiment.method_folder.name, Path(experiment.runs)
    files = [path for path in runs.glob("*/video/checkpoints/last.ckpt") if path.parts[-4].startswith(f"{method}-")]
    if not files:
        wanted = runs / f"{method}-*/video/checkpoints/last.ckpt"
        raise ValueError(
            f"no released network {method} (released are: {', '.join(released()) or 'none'}) and no checkpoint "
            f"{wanted}: train {method} first, or name a checkpoint (CKPT)"
        )
    return max(files, key=lambda path: path.stat().st_mtime)


def compare(experiment: Experiment, checkpoints: Sequence[str] = ()) -> Run:
    """Checkpoints of any methods, ``PATH`` or ``NAME=PATH``, on one data set under one protocol."""
    e, data = experiment, data_files(experiment.data, experiment.search, "data")
    folder = Path(e.runs) / f"compare-{Path(e.data).stem}"
    layers = [_own("base"), _own("video"), *data, _own("compare")]
    options = [*_configs(layers), f"--data.root={e.data_root}", f"--trainer.precision={e.precision}", *e.options]
    scored = checkpoints or [e.checkpoint or str(_trained(e))]
    return Run("compare", folder, (*scored, f"--out={folder}", "--", *options), "lightning_vos.compare")


def check_data(experiment: Experiment) -> Run:
    """Open every file of a data set, in both of its uses."""
    e = experiment
    files = [str(path) for path in data_files(e.data, e.search, "data", "submission")]
    return Run("check-data", Path(e.data_root), (*files, f"--root={e.data_root}", *e.options), "datamodules.check")


def _training_layers(e: Experiment, stage: str) -> list[Path]:
    optional = [e.method_folder / f"{stage}.yaml"]
    optional += [e.method_folder / recipe / f"{part}.yaml" for recipe in e.recipes for part in ("model", stage)]
    there = [path for path in optional if path.is_file()]
    return [_own("base"), _own(stage), *data_files(e.data, e.search, "data"), e.method_folder / "model.yaml", *there]


def _own(name: str) -> Path:
    return shown(OWN / f"{name}.yaml")


def _configs(layers: Sequence[Path]) -> list[str]:
    return [word for path in layers for word in ("--config", str(path))]


def _trained(e: Experiment) -> Path:
    return e.folder("video") / "checkpoints" / "last.ckpt"
