"""The command line: LightningCLI for any method and any data module, with mistakes in one line."""

from __future__ import annotations

import os
import re
import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning import LightningDataModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf.errors import OmegaConfBaseException

from lightning_vos.checkpoint import check_method, read_checkpoint
from lightning_vos.checkpoint_settings import as_saved, with_settings_of
from lightning_vos.command_line import at_home, each_text, print_any_letter
from lightning_vos.config_errors import explain
from lightning_vos.leaving import end_together
from lightning_vos.module import VOSModule
from lightning_vos.networks import locate
from lightning_vos.ownership import look, owned
from lightning_vos.passing import AGAIN, passes
from lightning_vos.processes import offer_processes
from lightning_vos.quiet import quieten
from lightning_vos.resume import check_continues
from lightning_vos.settings import changed
from lightning_vos.slurm_tasks import check_tasks
from lightning_vos.video import why
from lightning_vos.whole_run import check_whole


class VOSCLI(LightningCLI):
    """LightningCLI that takes any method and any data module by ``class_path``."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """What our methods can do: fit, validate, test and predict."""
        own = {"predict": {"return_predictions"}}  # masks are written, never gathered
        return {name: {*skip, *own.get(name, ()), "weights_only"} for name, skip in LightningCLI.subcommands().items()}

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Checkpoints hold tensors and plain values: nothing in one is ever run as code."""
        kwargs = {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}
        return {**kwargs, "return_predictions": False} if subcommand == "predict" else kwargs

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; what is wrong is one line.

        Raises:
            ValueError: naming the option, or the file and the key, and what to do.
            FileNotFoundError: there is no such checkpoint, or no released network of this name.
        """
        words = list(args) if isinstance(args, list) else []
        if words and not words[0].startswith("-") and words[0] not in self._subcommand_parsers:
            raise ValueError(f"{words[0]}: no such command; use one of {', '.join(self._subcommand_parsers)}")
        try:
            super().parse_arguments(parser, args)
        except ArgumentError as error:
            if not words or words[0].startswith("-"):
                commands = ", ".join(self._subcommand_parsers)
                raise ValueError(f"no command given; start with one of {commands}, then the options") from error
            options = self._subcommand_parsers[words[0]]._option_string_actions
            raise ValueError(as_saved(explain(str(error), words, options))) from error
        each_text(self.config, lambda text: at_home(as_saved(text)))
        command = self.config["subcommand"]
        path = self.config[command].get("ckpt_path")
        if path and not (command == "fit" and path == "last"):
            advice = "give a checkpoint, or last to continue a run"
            self.config[command]["ckpt_path"] = locate(path, "--ckpt_path=", advice)

    def _parse_ckpt_path(self) -> None:
        """Not Lightning's way, where a checkpoint's settings beat the command line; see :func:`with_settings_of`."""

    def before_instantiate_classes(self) -> None:
        """Refuse a folder that cannot be written to, or is another run's, before anything is built.

        Raises:
            FolderInUse: naming the process that writes there.
            OSError: with the option and what to do.
        """
        folder = Path(self._get(self.config, "trainer.default_root_dir") or ".")
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            fault = f"nothing can be written to {there}" if there.is_dir() else f"{there} is a file, not a folder"
            raise OSError(f"trainer.default_root_dir={folder}: {fault}; choose another folder")
        look(folder, self.subcommand or "")

    def instantiate_classes(self) -> None:
        """Build model, data and trainer.

        Raises:
            ValueError: as a constructor said it, without the parser's wrapping; or a text that is no interpolation.
        """
        try:
            super().instantiate_classes()
        except ValueError as error:
            cause: BaseException = error
            while cause.__cause__ is not None and str(cause).startswith(("Does not validate", "Parser key")):
                cause = cause.__cause__
            if isinstance(cause, OmegaConfBaseException):  # of the settings of the model, which are read once more
                text = f"model.{cause.full_key}: {str(cause).splitlines()[0]}; give it as plain text"
                raise ValueError(text) from cause
            raise cause from cause.__cause__

    def _run_subcommand(self, subcommand: str) -> None:
        """Run, as the owner of what is written to; when this rank fails, the others must not wait for it."""
        try:
            with owned(self.trainer, subcommand):
                super()._run_subcommand(subcommand)
        except BaseException as error:
            if isinstance(error, Exception) and self.trainer.world_size > 1:
                said = last_message(error) if passes(error) else str(error)
                sys.stderr.write(f"rank {self.trainer.global_rank} failed: {type(error).__name__}: {said}\n")
            end_together(self.trainer, error)
            raise

    def after_instantiate_classes(self) -> None:
        """Refuse what cannot work, before data is looked at and anything is written.

        Raises:
            ValueError: the checkpoint is damaged, of another method, or was trained with other settings; there is none
                to predict with; Slurm has started another number of tasks than there are devices; or an option of
                Lightning's would make another run than the settings say.
        """
        check_tasks(self.trainer.num_devices, self.trainer.num_nodes)
        if self.subcommand == "fit":
            check_whole(self.trainer)
        if isinstance(self.trainer.val_check_interval, int):
            # Lightning counts passes there; ours are steps, and accumulation must not change a run.
            self.trainer.val_check_interval *= self.trainer.accumulate_grad_batches
        path = self._get(self.config, "ckpt_path")
        if self.subcommand == "predict" and path is None and self.model.weights is None:
            raise ValueError("predict without weights; set --ckpt_path to a checkpoint")
        if path == "last":
            callbacks = [c for c in self.trainer.callbacks if isinstance(c, ModelCheckpoint)]  # type: ignore[attr-defined]
            files = dict.fromkeys(Path(callback.dirpath or "") / "last.ckpt" for callback in callbacks)
        else:
            files = {Path(path): None} if path else {}
        for file in filter(Path.is_file, files):
            checkpoint = read_checkpoint(str(file))
            check_method(checkpoint, self.model, str(file))
            own, saved = self.model.state_dict(), checkpoint["state_dict"]
            if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in saved.items()}:
                other = changed(checkpoint["hyper_parameters"], self.model.hparams)
                raise ValueError(
                    f"{file}: does not fit this model, it was trained with {', '.join(other) or 'another version'}; "
                    "set the same again, or choose another --trainer.default_root_dir"
                )
            if self.subcommand == "fit":
                check_continues(checkpoint, str(file), self.model, self.trainer, self.datamodule)

    def after_predict(self) -> None:
        """Name the videos that could not be segmented.

        Raises:
            UnfinishedVideos: there are some.
        """
        problems: dict[str, Exception] = getattr(self.datamodule, "problems", {})
        if problems:
            listed = "; ".join(f"{name} ({why(problem)})" for name, problem in problems.items())
            raise UnfinishedVideos(
                f"{len(problems)} of {self.datamodule.videos} videos were not segmented: {listed}",
                any(passes(problem) for problem in problems.values()),
            )


class UnfinishedVideos(Exception):
    """Some of several videos could not be segmented; the others were.

    Args:
        message: which ones, and why.
        may_pass: whether the same run, started again, may segment one of them.
    """

    def __init__(self, message: str, may_pass: bool) -> None:
        super().__init__(message)
        self.may_pass = may_pass


def main(args: Sequence[str] | None = None) -> VOSCLI:
    """Parse the configuration, build the parts, run.

    Args:
        args: command line without the program; ``sys.argv`` by default.

    Returns:
        The command line object, whose ``trainer`` and ``model`` a test may look at.

    Raises:
        ValueError, FileNotFoundError, MisconfigurationException: a mistake in configuration or data.
    """
    quieten()
    offer_processes()
    strict = {"exit_on_error": False, "allow_abbrev": False}
    return VOSCLI(
        VOSModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={
            "parser_mode": "omegaconf+",
            **strict,
            **{name: strict for name in VOSCLI.subcommands()},
        },
        args=with_settings_of([at_home(_null(word)) for word in (sys.argv[1:] if args is None else args)]),
    )


def _null(word: str) -> str:
    """``--model.part.name=null`` as ``--model.part={name: null}``: of the former the parser makes the text "None"."""
    return re.sub(r"^--model\.(?!init_args\.)(\w+)\.(\w+)=null$", r"--model.\1={\2: null}", word)


def run(command: Callable[[], object] = main) -> None:
    """Entry point: a user's mistake is one line on standard error and exit status 2, never a traceback.

    The status is 1 when some of several videos could not be segmented, and 75 after a fault that may pass, also of one
    of several videos.
    """
    print_any_letter()
    try:
        command()
    except UnfinishedVideos as error:
        sys.stderr.write(f"error: {last_message(error)}\n")
        sys.exit(AGAIN if error.may_pass else 1)
    except (ValueError, OSError, RuntimeError, MisconfigurationException) as error:
        again = passes(error)
        if os.environ.get("VOS_TRACEBACK") or (isinstance(error, RuntimeError) and not again):
            raise
        if again:
            sys.stderr.write(f"error: {last_message(error)}; this may pass, and the same command goes on\n")
            sys.exit(AGAIN)
        sys.stderr.write(f"error: {last_message(error)}\n(VOS_TRACEBACK=1 shows where)\n")
        sys.exit(2)


def last_message(error: Exception) -> str:
    """The message in one line, the operating system's file first; of a loader's process what follows the traceback."""
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror}"  # without [Errno 13] and quotation marks
    if " in DataLoader worker process " in text:
        text = text.rpartition(f"\n{type(error).__name__}: ")[2]
    return " ".join(text.split())
