"""The charts of the page, drawn by plotly; one colour per record in all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lightning_vos.compare.records import Record
from lightning_vos.metrics import FrameScore

# Okabe and Ito's colours, which people with colour-blindness tell apart; yellow left out, it is too light on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555")
_GREY = "#dfe3e8"
_MOST_BARS = 40
_ROW = 130  # height of an object's row in the chart over time, pixels


def colour(index: int) -> str:
    """Colour of record number ``index``; they repeat after seven."""
    return COLOURS[index % len(COLOURS)]


def speed_chart(records: Sequence[Record]) -> go.Figure:
    """J&F against FPS, a named point a record; FPS on a logarithmic axis where they differ tenfold."""
    speeds = [record.metrics.get("FPS", float("nan")) for record in records]
    figure = go.Figure()
    known = [speed for speed in speeds if speed > 0]
    wide = bool(known) and max(known) > 10 * min(known)
    middle = (max(known) * (min(known) if wide else max(known) / 4)) ** 0.5 if known else 0.0
    for index, (record, speed) in enumerate(zip(records, speeds, strict=True)):
        figure.add_scatter(
            x=[round(speed, 2)],
            y=[round(100 * record.metrics["J&F"], 2)],
            mode="markers+text",
            text=[record.name],
            textposition="top left" if speed > middle else "top right",  # towards the middle, where there is room
            cliponaxis=False,
            marker={"size": 13, "color": colour(index)},
            hovertemplate="%{text}<br>J&F %{y:.1f}<br>%{x:.1f} FPS<extra></extra>",
        )
    figure.update_xaxes(title="FPS", type="log" if wide else "linear", rangemode="tozero")
    figure.update_yaxes(title="J&F")
    if known and not wide:
        figure.update_xaxes(range=[0, 1.05 * max(known)])
    return _styled(figure, 340)


def sequence_chart(records: Sequence[Record]) -> go.Figure:
    """Bars of J&F, a group a sequence, where the records differ most on top; at most 40 sequences."""
    names = by_interest(records)[:_MOST_BARS][::-1]  # plotly draws from below
    figure = go.Figure()
    for index in reversed(range(len(records))):  # likewise
        record = records[index]
        figure.add_bar(
            orientation="h",
            name=record.name,
            x=[round(100 * record.sequences[name], 2) for name in names],
            y=names,
            marker={"color": colour(index)},
            hovertemplate="%{y}<br>J&F %{x:.1f}<extra>" + record.name + "</extra>",
        )
    figure.update_layout(barmode="group", bargap=0.25, legend={"traceorder": "reversed"})
    figure.update_xaxes(title="J&F", range=[0, 100])
    figure.update_yaxes(automargin=True, ticksuffix=" ")
    return _styled(figure, 110 + len(names) * (12 * len(records) + 10))


def time_chart(records: Sequence[Record], sequence: str) -> go.Figure:
    """J of every object over the frames of a sequence: a row an object, a line a record."""
    scores: list[dict[int, list[FrameScore]]] = []
    for record in records:
        objects: dict[int, list[FrameScore]] = defaultdict(list)
        for score in record.frame_scores(sequence):
            objects[score.object].append(score)
        scores.append(objects)
    ids = sorted(scores[0])
    figure = make_subplots(rows=len(ids), shared_xaxes=True, vertical_spacing=0.25 / max(2, len(ids)))
    for index, (record, objects) in enumerate(zip(records, scores, strict=True)):
        for row, id_ in enumerate(ids, 1):
            figure.add_scatter(
                row=row,
                col=1,
                x=[score.number for score in objects[id_]],
                y=[round(100 * score.j, 1) for score in objects[id_]],
                name=record.name,
                legendgroup=record.name,
                showlegend=row == 1,
                mode="lines",
                line={"color": colour(index), "width": 2},
                hovertemplate="frame %{x}<br>J %{y:.1f}<extra>" + record.name + "</extra>",
            )
    for row, id_ in enumerate(ids, 1):
        figure.update_yaxes(row=row, col=1, title=f"J, object {id_}", range=[-3, 103], tickvals=[0, 50, 100])
    figure.update_xaxes(title="frame", row=len(ids), col=1)
    return _styled(figure, 110 + _ROW * len(ids))


def by_interest(records: Sequence[Record]) -> list[str]:
    """Sequences by how far the records lie apart, the farthest first; of a single record the worst first."""

    def spread(name: str) -> float:
        values = [record.sequences[name] for record in records]
        return max(values) - min(values) if len(values) > 1 else 1 - values[0]

    return sorted(records[0].sequences, key=spread, reverse=True)


def _styled(figure: go.Figure, height: int) -> go.Figure:
    """What all charts share. Nothing is dragged or zoomed by touch, so that a finger scrolls the page."""
    figure.update_layout(
        template="none",
        height=height,
        autosize=True,
        margin={"l": 50, "r": 16, "t": 10, "b": 44},
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#20262d"},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        dragmode=False,
        showlegend=len({trace.name for trace in figure.data} - {None}) > 1,
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
    )
    figure.update_xaxes(gridcolor=_GREY, zeroline=False, fixedrange=True)
    figure.update_yaxes(gridcolor=_GREY, zeroline=False, fixedrange=True)
    return figure
