"""The comparison as tables: Markdown for people, CSV for programs."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lightning_vos.compare.records import Record


class Column(NamedTuple):
    """A figure of a record.

    Attributes:
        key: name under which it was logged, and in the CSV.
        name: heading.
        meaning: one line for those who do not know it.
        scale: factor to the shown unit, 100 for per cent.
        digits: decimals shown.
        best: whether the largest or the smallest is best.
    """

    key: str
    name: str
    meaning: str
    scale: float
    digits: int
    best: Callable[..., Record]

    def value(self, record: Record) -> float:
        """The figure as it was logged; NaN where it was not."""
        return {**record.metrics, "parameters": record.parameters}.get(self.key, math.nan)

    def shown(self, record: Record) -> str:
        """The figure as the tables show it; a dash where it was not logged."""
        value = self.value(record)
        return "-" if math.isnan(value) else f"{self.scale * value:.{self.digits}f}"


COLUMNS = (
    Column("J&F", "J&F", "mean of J and F, per cent", 100, 1, max),
    Column("J", "J", "region similarity, per cent", 100, 1, max),
    Column("J_recall", "J recall", "share of frames with J above 0.5, per cent", 100, 1, max),
    Column("J_decay", "J decay", "J of the first quarter minus that of the last, points", 100, 1, min),
    Column("F", "F", "boundary accuracy, per cent", 100, 1, max),
    Column("F_recall", "F recall", "share of frames with F above 0.5, per cent", 100, 1, max),
    Column("F_decay", "F decay", "F of the first quarter minus that of the last, points", 100, 1, min),
    Column("FPS", "FPS", "frames per second, all objects at once", 1, 2, max),
    Column("latency_p50_ms", "p50 ms", "median latency of a frame, ms", 1, 1, min),
    Column("latency_p95_ms", "p95 ms", "95th percentile of the latency, ms", 1, 1, min),
    Column("peak_memory_MB", "memory MiB", "peak memory: of the GPU, on a CPU of the process", 1, 0, min),
    Column("parameters", "params M", "parameters, millions, frozen ones included", 1e-6, 2, min),
)


def protocol_line(records: Sequence[Record]) -> str:
    """What was measured on, in one line."""
    first = records[0]
    copied = first.metrics.get("J&F_copied_first_mask")
    parts = [
        f"{len(first.sequences)} sequences, {sum(first.objects.values())} objects, {first.frames} frames",
        f"{first.device}, precision {first.precision}",
        *([] if copied is None else [f"copied first mask J&F {100 * copied:.1f}"]),
    ]
    return "; ".join(parts)


def markdown_table(records: Sequence[Record]) -> str:
    """A table of the figures, the best of each column in bold, and what was measured on."""
    rows = [["", "method", *(column.name for column in COLUMNS)], ["---", "---", *["---:"] * len(COLUMNS)]]
    for record in records:
        cells = [f"**{c.shown(record)}**" if is_best(c, record, records) else c.shown(record) for c in COLUMNS]
        rows.append([record.name, record.method, *cells])
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    checkpoints = [f"* {record.name}: `{record.checkpoint}`, step {record.step}" for record in records]
    return "\n".join([*lines, "", protocol_line(records), "", *checkpoints, ""])


def csv_table(records: Sequence[Record]) -> str:
    """One line a record: what it is and its figures, unrounded, under the names and in the units that were logged."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = [column.key for column in COLUMNS]
    writer.writerow(["name", "method", *keys, "device", "precision", "step", "checkpoint"])
    for r in records:
        figures = [column.value(r) for column in COLUMNS]
        writer.writerow([r.name, r.method, *figures, r.device, r.precision, r.step, r.checkpoint])
    return text.getvalue()


def is_best(column: Column, record: Record, records: Sequence[Record]) -> bool:
    """Whether no record shows a better figure and some show a worse one."""
    measured = [other for other in records if not math.isnan(column.value(other))]
    shown = {column.shown(other) for other in measured}
    return len(shown) > 1 and column.shown(record) == column.shown(column.best(measured, key=column.value))
