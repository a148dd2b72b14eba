"""The comparison as tables: Markdown for people, CSV for programs."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from lightning_vos.column import Column
from lightning_vos.compare.records import Record


def columns(records: Sequence[Record]) -> list[Column]:
    """The columns of all records, in the order in which they come first."""
    found: dict[str, Column] = {}
    for record in records:
        for column in record.columns:
            found.setdefault(column.key, column)
    return list(found.values())


def figure(column: Column, record: Record) -> float:
    """The figure as it was logged; NaN where it was not."""
    return record.figures.get(column.key, math.nan)


def shown(column: Column, record: Record) -> str:
    """The figure as the tables show it; a dash where it was not logged."""
    value = figure(column, record)
    return "-" if math.isnan(value) else f"{column.scale * value:.{column.digits}f}"


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
    chosen = columns(records)
    rows = [["", "method", *(column.name for column in chosen)], ["---", "---", *["---:"] * len(chosen)]]
    for record in records:
        cells = [f"**{shown(c, record)}**" if is_best(c, record, records) else shown(c, record) for c in chosen]
        rows.append([record.name, record.method, *cells])
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    checkpoints = [f"* {record.name}: `{record.checkpoint}`, step {record.step}" for record in records]
    return "\n".join([*lines, "", protocol_line(records), "", *checkpoints, ""])


def csv_table(records: Sequence[Record]) -> str:
    """One line a record: what it is and its figures, unrounded, under the names and in the units that were logged."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    chosen = columns(records)
    keys = [column.key for column in chosen]
    writer.writerow(["name", "method", *keys, "device", "precision", "step", "checkpoint"])
    for r in records:
        figures = [figure(column, r) for column in chosen]
        writer.writerow([r.name, r.method, *figures, r.device, r.precision, r.step, r.checkpoint])
    return text.getvalue()


def is_best(column: Column, record: Record, records: Sequence[Record]) -> bool:
    """Whether no record shows a better figure and some show a worse one."""
    measured = [other for other in records if not math.isnan(figure(column, other))]
    if len({shown(column, other) for other in measured}) < 2:
        return False
    best = max if column.better == "higher" else min
    return shown(column, record) == shown(column, best(measured, key=lambda other: figure(column, other)))
