"""What an evaluation measured, of what and on what, in one file for programs to read."""

from __future__ import annotations

import json
from typing import ClassVar

from lightning import LightningModule, Trainer
from torch import Tensor

from callbacks.device import device_name
from callbacks.evaluation_loop import stage_of
from lightning_vos.atomic import unfinished
from lightning_vos.column import Column
from lightning_vos.frame_callback import FrameCallback
from lightning_vos.results_folder import ResultsFolder
from lightning_vos.video import Video


class EvaluationRecord(FrameCallback):
    """Writes ``<output_dir>/record.json`` when an evaluation is over: rank zero, in one stroke.

    ``method``, ``parameters`` (of the whole network), ``device`` and ``precision``, ``frames`` (that rank zero
    segmented), ``metrics``: everything that was logged, without the stage in front, and ``columns``: those figures that
    a table shows, as the callbacks of the run declare them, in their order. The file of an earlier evaluation is
    removed when one starts.

    Args:
        output_dir: ``None``: the trainer's ``default_root_dir``.
    """

    columns: ClassVar[tuple[Column, ...]] = (
        Column("parameters", "params M", "parameters, millions, frozen ones included", 1e-6, 2, "lower"),
    )

    def __init__(self, output_dir: str | None = None) -> None:
        self.output_dir = output_dir
        self._frames = 0
        self._columns: dict[str, Column] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note the columns, in the order in which the callbacks were given; later some may move."""
        self._columns = {}
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, FrameCallback):
                for column in callback.columns:
                    self._columns.setdefault(column.key, column)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove an earlier record."""
        self._frames = 0
        if trainer.is_global_zero and not trainer.sanity_checking:
            self._files(trainer).record.unlink(missing_ok=True)

    def on_frame_end(
        self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int, frame: Tensor, labels: Tensor
    ) -> None:
        """Count one frame."""
        self._frames += 1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the record; all callbacks have logged by now."""
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        prefix = f"{stage_of(trainer)}/"
        record = {
            "method": type(pl_module).__name__,
            "parameters": sum(parameter.numel() for parameter in pl_module.parameters()),
            "device": device_name(pl_module.device),
            "precision": str(trainer.precision),
            "frames": self._frames,
            "metrics": {
                name.removeprefix(prefix): float(value)
                for name, value in trainer.callback_metrics.items()
                if name.startswith(prefix)
            },
            "columns": [column._asdict() for column in self._columns.values()],
        }
        with unfinished(self._files(trainer).record) as beside:
            beside.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    on_test_epoch_start = on_validation_epoch_start
    on_test_end = on_validation_end

    def _files(self, trainer: Trainer) -> ResultsFolder:
        return ResultsFolder(self.output_folder(trainer))
