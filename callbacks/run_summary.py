"""The last lines of every run: the figures that matter and where everything lies."""

from __future__ import annotations

from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from rich.console import Console

from callbacks.device import device_name
from callbacks.dry_run import DryRun
from lightning_vos.results_folder import ResultsFolder


class RunSummary(Callback):
    """Prints, on rank zero, where checkpoints, tables and pictures are, and the run's figures in one line.

    ``J&F 0.743  J 0.731  F 0.755  (copied first mask 0.312)  12.3 FPS on <device>``

    The figures are those of the last evaluation of the run; a run that was found complete has none, and says so. A dry
    run leaves nothing behind, and a few steps have no score worth telling.
    """

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print the summary, if an evaluation was finished."""
        dry = any(isinstance(callback, DryRun) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        if not trainer.is_global_zero or trainer.sanity_checking or dry:
            return
        root = Path(trainer.default_root_dir)
        files = ResultsFolder(root)
        console = Console(soft_wrap=True, highlight=False)
        places = {
            "checkpoint": root / "checkpoints" / "last.ckpt",
            "table": files.results,
            "pictures": files.pictures,
            "masks": files.masks,
            "overlays": root / "overlays",
        }
        for name, path in places.items():
            if path.exists():
                console.print(f"{name:<11}{path}")
        line = summary_line(trainer)
        if line is not None:
            console.print(line)
        elif stage == "fit" and 0 < trainer.max_steps <= trainer.global_step:
            done = f"complete after {trainer.global_step} steps"
            score = "python -m lightning_vos validate --ckpt_path=<checkpoint>"
            console.print(f"{done}; {score} scores it, another --trainer.default_root_dir starts anew")


def summary_line(trainer: Trainer) -> str | None:
    """The line described at :class:`RunSummary`; ``None`` before any evaluation."""
    stage = next((stage for stage in ("test", "val") if f"{stage}/J&F" in trainer.callback_metrics), None)
    if stage is None:
        return None

    def value(name: str) -> float | None:
        metric = trainer.callback_metrics.get(f"{stage}/{name}")
        return None if metric is None else float(metric)

    parts = [f"{name} {value(name):.3f}" for name in ("J&F", "J", "F")]
    copied, fps = value("J&F_copied_first_mask"), value("FPS")
    if copied is not None:
        parts.append(f"(copied first mask {copied:.3f})")
    if fps is not None:
        parts.append(f"{fps:.1f} FPS on {device_name(trainer.strategy.root_device)}")
    return "  ".join(parts)
