"""The comparison as one HTML file that needs no network: table, charts, clips."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from lightning_vos.compare.charts import by_interest, colour, sequence_chart, speed_chart, time_chart
from lightning_vos.compare.clips import read_clip
from lightning_vos.compare.records import Record
from lightning_vos.compare.tables import columns, figure, is_best, protocol_line, shown

MOST_CLIPS = 6
CLIP_BYTES = 3_200_000  # of all pictures; as text they are a third larger, plotly is 4.8 MB, and a page stays below 10
MOST_TIMES = 60  # sequences with a chart over time


def page(records: Sequence[Record]) -> str:
    """The page. Clips and charts over time are of the sequences where the records lie farthest apart.

    Args:
        records: the evaluations, of one data set.

    Returns:
        HTML.
    """
    sequences = by_interest(records)
    clips = {}
    for name in sequences:
        clip = read_clip(records, name, CLIP_BYTES // min(MOST_CLIPS, len(sequences)))
        if clip is not None:
            clips[name] = clip
        if len(clips) == MOST_CLIPS:
            break
    chosen = list(dict.fromkeys([*clips, *sequences[:MOST_TIMES]]))
    headings = columns(records)
    rows = [
        {
            "name": record.name,
            "method": record.method,
            "colour": colour(index),
            "cells": [
                {"text": shown(c, record), "value": figure(c, record), "best": is_best(c, record, records)}
                for c in headings
            ],
            "checkpoint": f"{record.checkpoint}, step {record.step}",
        }
        for index, record in enumerate(records)
    ]
    environment = Environment(loader=PackageLoader(__package__), autoescape=True, undefined=StrictUndefined)
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # the order of clips and layers means something
    return environment.get_template("page.html.j2").render(
        columns=headings,
        rows=rows,
        protocol=protocol_line(records),
        shown=chosen,
        plotly=get_plotlyjs(),
        data={
            "speed": _plain(speed_chart(records)),
            "sequences": _plain(sequence_chart(records)),
            "times": {name: _plain(time_chart(records, name)) for name in chosen},
            "clips": clips,
            "colours": {record.name: colour(index) for index, record in enumerate(records)},
        },
    )


def _plain(figure: Any) -> dict[str, Any]:
    """Data and layout of a figure as plain values."""
    content = json.loads(figure.to_json())
    return {"data": content["data"], "layout": content["layout"]}
