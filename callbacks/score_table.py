"""The table of scores that an evaluation prints: a line a video, the total, the copied first mask."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from rich.table import Table
from torch import Tensor

from lightning_vos.metrics import ObjectScores

_WORST = 10
_MANY_VIDEOS = 40


def score_table(
    names: Sequence[str],
    stage: str,
    total: dict[str, Tensor],
    objects: list[ObjectScores],
    baseline: dict[str, Tensor] | None,
) -> Table:
    """J, F and J&F in per cent: of every video, or of the 10 worst where there are more than 40.

    Args:
        names: of the videos.
        stage: ``val`` or ``test``.
        total: means over all objects.
        objects: every scored object.
        baseline: means of the copied first masks, ``None`` where they are not known.
    """
    videos: dict[int, list[ObjectScores]] = defaultdict(list)
    for scores in objects:
        videos[scores.video].append(scores)

    def mean(video: int, name: str) -> float:
        return sum(scores.values[name] for scores in videos[video]) / len(videos[video])

    shown, title = sorted(videos), f"{stage}: {len(videos)} videos, {len(objects)} objects"
    if len(videos) > _MANY_VIDEOS:
        shown = sorted(shown, key=lambda video: mean(video, "J&F"))[:_WORST]
        title += f", the {_WORST} worst"
    table = Table(title=title)
    table.add_column("video")
    for name in ("objects", "frames", "J", "F", "J&F"):
        table.add_column(name, justify="right")
    for video in shown:
        cells = [f"{100 * mean(video, name):.1f}" for name in ("J", "F", "J&F")]
        table.add_row(names[video], str(len(videos[video])), str(videos[video][0].frames), *cells)
    table.add_section()
    frames = sum(group[0].frames for group in videos.values())
    cells = [f"{100 * float(total[name]):.1f}" for name in ("J", "F", "J&F")]
    table.add_row("all", str(len(objects)), str(frames), *cells, style="bold")
    if baseline is not None:
        cells = [f"{100 * float(baseline[name]):.1f}" for name in ("J", "F", "J&F")]
        table.add_row("copied first mask", str(len(objects)), str(frames), *cells, style="dim")
    return table
