"""Mean, recall and decay of objects against plain loops, on any number of processes."""

from __future__ import annotations

import json
import math
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, multiprocessing

from lightning_vos.metrics import STATISTICS, JAndF
from tests import reference


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 7, 78, 255, 256, 257, 500, 2001])
def test_statistics_at_any_length(frames: int) -> None:
    """Mean, recall and decay against a numpy loop; beyond 255 frames the official 8-bit indices would break."""
    generator = torch.Generator().manual_seed(frames)
    values = torch.rand(frames, 2, generator=generator, dtype=torch.float64)
    metric = JAndF(1, 1)
    metric.update(0, values[:, :1], values[:, 1:])
    got = [float(metric.compute()[name]) for name in STATISTICS]
    expected = [x for column in values.T.tolist() for x in reference.statistics(column)]
    assert got == pytest.approx(expected, abs=1e-12)
    assert metric.per_object()[0].frames == frames


def test_decay_of_a_ramp() -> None:
    """A fall from 1 to 0: quarters' means are 3/4 apart, also at 500 frames (8-bit indices gave 0.24)."""
    ramp = torch.linspace(1, 0, 500, dtype=torch.float64)[:, None]
    metric = JAndF(1, 1)
    metric.update(0, ramp, ramp)
    assert float(metric.compute()["J_decay"]) == pytest.approx(0.75, abs=2e-3)


def _values(video: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 + video)
    shape = (10 + 3 * video, 1 + video % 3)
    return torch.rand(shape, generator=generator), torch.rand(shape, generator=generator)


def _expected(videos: list[int]) -> dict[str, float]:
    """The mean over objects, in plain Python."""
    rows = []
    for video in videos:
        for j, f in zip(_values(video)[0].T.tolist(), _values(video)[1].T.tolist(), strict=True):
            rows.append([*reference.statistics(j), *reference.statistics(f)])
    means = dict(zip(STATISTICS, np.mean(rows, axis=0).tolist(), strict=True))
    return {"J&F": (means["J"] + means["F"]) / 2, **means}


def test_mean_over_objects_with_duplicates_and_gaps() -> None:
    """Objects, not videos, weigh the same; repeated videos change nothing; unseen ones are left out."""
    metric = JAndF(6, 3)
    for video in (0, 4, 2, 4, 0, 4, 4):
        metric.update(video, *_values(video))
    got = {name: float(value) for name, value in metric.compute().items()}
    assert list(got) == ["J&F", "J", "J_recall", "J_decay", "F", "F_recall", "F_decay"]
    assert got == pytest.approx(_expected([0, 2, 4]), abs=1e-12)
    assert [(o.video, o.object) for o in metric.per_object()] == [(0, 1), (2, 1), (2, 2), (2, 3), (4, 1), (4, 2)]
    assert metric.state_dict() == {}
    metric.reset()
    assert metric.per_object() == []


def test_unscored_frames_and_objects() -> None:
    """NaN frames are left out per object; an object without frames, and a video without frames, is not counted."""
    j = torch.tensor([[0.2, math.nan, math.nan], [0.4, 0.6, math.nan], [0.9, 0.8, math.nan]], dtype=torch.float64)
    metric = JAndF(2, 3)
    metric.update(0, j, j)
    metric.update(1, torch.zeros(0, 2), torch.zeros(0, 2))
    first, second = metric.per_object()
    assert (first.object, second.object, first.frames) == (1, 2, 3)
    assert first.values["J"] == pytest.approx(0.5)
    assert second.values["J"] == pytest.approx(0.7)
    assert second.values["J_decay"] == pytest.approx(-0.2)
    assert float(metric.compute()["J&F"]) == pytest.approx(0.6)


def test_update_refuses() -> None:
    """Indices, shapes, too many objects, NaNs in one measure only."""
    metric = JAndF(2, 2)
    good = torch.ones(3, 2)
    for video in (-1, 2):
        with pytest.raises(ValueError, match=f"video={video}"):
            metric.update(video, good, good)
    with pytest.raises(ValueError, match=r"\(T, K\)"):
        metric.update(0, good, good[:2])
    with pytest.raises(ValueError, match=r"\(T, K\)"):
        metric.update(0, good[0], good[0])
    with pytest.raises(ValueError, match="max_objects=2"):
        metric.update(0, torch.ones(3, 3), torch.ones(3, 3))
    with pytest.raises(ValueError, match="NaN"):
        metric.update(0, good, torch.full_like(good, math.nan))
    with pytest.raises(ValueError, match="at least 1"):
        JAndF(0, 2)


def _rank(rank: int, world: int, port: int, folder: str) -> None:
    """Score two videos on the first 1, 2 and 3 ranks, with a repeated video or an idle rank on three."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    results = {}
    for size, spare in ((1, "none"), (2, "none"), (3, "repeats"), (3, "idles")):
        group = distributed.new_group(list(range(size)))
        if rank >= size:
            continue
        metric = JAndF(2, 2)
        metric.process_group = group
        for video in range(rank, 2, size):
            metric.update(video, *_values(video))
        if rank == 2 and spare == "repeats":
            metric.update(0, *_values(0))
        objects = [tuple(o) for o in metric.per_object()]
        total = {name: float(value) for name, value in metric.compute().items()}
        results[f"{size} {spare}"] = {"total": total, "objects": objects, "own": int(metric.seen.sum())}
    Path(folder, f"{rank}.json").write_text(json.dumps(results))
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_same_digits_on_any_number_of_ranks(tmp_path: Path) -> None:
    """Two videos on 1, 2 and 3 processes: identical results on every rank; each rank's own state stays its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(_rank, (3, port, str(tmp_path)), nprocs=3)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    single = ranks[0]["1 none"]
    assert single["total"] == pytest.approx(_expected([0, 1]), abs=1e-12)
    assert len(single["objects"]) == 3
    for rank in ranks:
        for result in rank.values():
            assert result["total"] == single["total"]
            assert result["objects"] == single["objects"]
    assert [rank["3 idles"]["own"] for rank in ranks] == [1, 2, 0]
