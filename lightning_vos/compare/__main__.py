"""``python -m lightning_vos.compare CHECKPOINT ... --out DIR -- <options of validate>``."""

from __future__ import annotations

import subprocess
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from lightning_vos.atomic import unfinished
from lightning_vos.checkpoint import read_checkpoint
from lightning_vos.cli import run
from lightning_vos.command_line import at_home
from lightning_vos.compare.page import page
from lightning_vos.compare.records import Record, folder_name, read_record, run_names
from lightning_vos.compare.tables import csv_table, markdown_table
from lightning_vos.lease import Lease

FILES = ("comparison.md", "comparison.csv", "comparison.html")


def compare(checkpoints: dict[str, Path], out: Path, options: Sequence[str]) -> list[Record]:
    """Evaluate every checkpoint and write ``comparison.md``, ``comparison.csv`` and ``comparison.html`` to ``out``.

    Each evaluation is ``python -m lightning_vos validate`` with the same options in a process of its own (one's memory
    is never counted as another's), below ``out/<name>``. Files of an earlier comparison are removed first.

    Args:
        checkpoints: name in the tables -> checkpoint.
        out: folder of the results.
        options: of ``validate``: configuration files, data, precision.

    Returns:
        What was measured, in the order of ``checkpoints``.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        FolderInUse: another process writes to ``out``.
        ValueError: a checkpoint cannot be read, its evaluation failed, nothing was scored, or two share a folder.
    """
    folders = {name: folder_name(name) for name in checkpoints}
    if len(set(folders.values())) < len(folders):
        raise ValueError(f"two of {', '.join(folders)} would share a folder of {out}; give names of their own")
    # All are read before the first is evaluated: a damaged one must not be found after hours.
    steps = {name: int(read_checkpoint(str(path)).get("global_step", 0)) for name, path in checkpoints.items()}
    with Lease(out, "comparison"):
        return _compared(checkpoints, steps, folders, out, options)


def _compared(
    checkpoints: dict[str, Path], steps: dict[str, int], folders: dict[str, str], out: Path, options: Sequence[str]
) -> list[Record]:
    for file in FILES:
        (out / file).unlink(missing_ok=True)
    records = []
    for name, path in checkpoints.items():
        folder = out / folders[name]
        command = [sys.executable, "-m", "lightning_vos", "validate", *options]
        command += [f"--ckpt_path={path}", f"--trainer.default_root_dir={folder}"]
        status = subprocess.run(command, check=False).returncode
        if status:
            raise ValueError(f"{path}: its evaluation ended with status {status}; what is wrong stands above")
        records.append(read_record(folder, name, path, steps[name]))
    for file, text in zip(FILES, (markdown_table(records), csv_table(records), page(records)), strict=True):
        with unfinished(out / file) as beside:
            beside.write_text(text, encoding="utf-8")
    return records


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line, compare, say where the results are.

    Raises:
        ValueError, FileNotFoundError: see :func:`compare`.
    """
    words = [at_home(word) for word in (sys.argv[1:] if args is None else args)]
    end = words.index("--") if "--" in words else len(words)
    parser = ArgumentParser("lightning_vos.compare", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument(
        "checkpoints",
        nargs="*",
        help="PATH or NAME=PATH, the name is what the tables say; instead of a path, that of a released network",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="folder of the results")
    given = parser.parse_args(words[:end])
    compare(run_names(given.checkpoints), given.out, words[end + 1 :])
    console = Console(soft_wrap=True, highlight=False)
    console.print((given.out / "comparison.md").read_text(encoding="utf-8"), markup=False)
    for file in FILES:
        console.print(f"written   {given.out / file}")


if __name__ == "__main__":
    run(main)
