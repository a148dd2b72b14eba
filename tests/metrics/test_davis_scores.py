"""The protocol of DAVIS in a plain loop: against the official results, plain loops, and what the callback logs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED
from PIL import Image
from scored_videos import Model, Videos, csv_rows, expected_scores, loader, means, quiet_trainer
from torch import Tensor

from callbacks import DavisEvaluation
from lightning_vos.metrics import DavisScores, FrameScore
from lightning_vos.video import Video

GOLDEN = SHARED / "golden" / "davis_eval"
ROOT = Path(__file__).resolve().parents[2]
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no official results at {GOLDEN}")


def _read(path: Path, single: bool) -> Tensor:
    labels = np.array(Image.open(path))
    labels = labels if labels.ndim == 2 else labels.max(-1)
    return torch.from_numpy((labels > 0).astype(np.uint8) if single else labels)


def _video(index: int, name: str, objects: int, truth: Path, frames: list[str], single: bool) -> Video:
    """A sequence without pictures: only masks are scored."""
    masks = [truth / name / frame for frame in frames]
    first = _read(masks[0], single)
    size, ids = (first.shape[0], first.shape[1]), tuple(range(1, objects + 1))
    nothing = torch.zeros(3, *size, dtype=torch.uint8)
    return Video(index, name, size, ids, {0: first}, frames, lambda t: nothing, lambda t: _read(masks[t], single))


@needs_golden
@pytest.mark.parametrize("kind", ["single_object", "multi_object"])
def test_equals_official_code(kind: str) -> None:
    """Every frame of every sequence, and mean, recall and decay, as the official DAVIS 2017 code gives them."""
    official = json.loads((GOLDEN / f"{kind}.json").read_text())
    single = kind == "single_object"
    truth = SHARED / "data" / "davis2016" / "Annotations" / "480p" if single else GOLDEN / "reference"
    if not truth.is_dir():
        pytest.skip(f"no annotations at {truth}")
    names = list(official)
    scores = DavisScores(names, [tuple(map(int, sorted(official[name], key=int))) for name in names], baseline=False)
    for index, name in enumerate(names):
        folder = GOLDEN / ("osvos" if single else "prediction") / name
        frames = sorted(path.name for path in folder.glob("*.png"))
        video = _video(index, name, len(official[name]), truth, frames, single)
        scores.start(video)
        for t, frame in enumerate(frames):
            scores.add(t, _read(folder / frame, single))
        rows = scores.finish()
        for id_, expected in official[name].items():
            own = [row for row in rows if row.object == int(id_)]
            assert [row.frame for row in own] == frames[1:-1]
            assert [row.j for row in own] == pytest.approx(expected["J"], abs=1e-9)
            assert [row.f for row in own] == pytest.approx(expected["F"], abs=1e-9)
    objects = scores.per_object()
    assert len(objects) == sum(len(expected) for expected in official.values())
    for scored in objects:
        expected = official[names[scored.video]][str(scored.object)]
        for measure in "JF":
            assert scored.values[measure] == pytest.approx(expected[f"{measure}_stats"]["mean"], abs=1e-9)
            for statistic in ("recall", "decay"):
                value = scored.values[f"{measure}_{statistic}"]
                assert value == pytest.approx(expected[f"{measure}_stats"][statistic], abs=1e-9)
    total = np.mean([[e["J_stats"]["mean"], e["F_stats"]["mean"]] for v in official.values() for e in v.values()])
    assert float(scores.compute()["J&F"]) == pytest.approx(total, abs=1e-9)
    assert scores.baseline() is None


def _scored(videos: Videos) -> tuple[DavisScores, dict[str, list[FrameScore]]]:
    """What a user's own loop would do."""
    scores = DavisScores(videos.names, videos.object_ids)
    rows = {}
    for video in (videos[i] for i in range(len(videos))):
        scores.start(video)
        for t in range(len(video)):
            scores.add(t, videos.scenes[video.index][2][t])
        rows[video.name] = scores.finish()
    return scores, rows


@pytest.mark.parametrize("kind", ["plain", "late", "sparse"])
def test_a_plain_loop_gives_what_the_callback_logs(kind: str, tmp_path: Path) -> None:
    """To the last digit; and both give what plain loops over the official way do."""
    late = kind == "late"
    lengths, objects = ([7, 4, 10], [1, 2, 3]) if late else ([7, 2, 1, 10], [1, 2, 1, 3])
    videos = Videos(lengths, objects, late=late, sparse=kind == "sparse")
    videos.scenes[0][1][3, :4, :20] = 255
    scores, frames = _scored(videos)
    baseline = scores.baseline()
    assert baseline is not None
    total = {name: float(value) for name, value in scores.compute().items()}
    assert total == pytest.approx(means(expected_scores(videos)), abs=1e-12)
    assert float(baseline["J&F"]) == pytest.approx(means(expected_scores(videos, copied=True))["J&F"], abs=1e-12)

    trainer = quiet_trainer(tmp_path, [DavisEvaluation(table=False)])
    logged = trainer.validate(Model(videos), loader(videos), verbose=False)[0]
    expected = {**total, "J&F_copied_first_mask": float(baseline["J&F"])}
    assert logged == {f"val/{name}": value for name, value in expected.items()}
    for name, rows in frames.items():
        path = tmp_path / "results" / "per-frame_results-val" / f"{name}.csv"
        assert path.exists() == bool(rows)
        if rows:
            cells = [[str(r.number), r.frame, str(r.object), f"{r.j:.6f}", f"{r.f:.6f}"] for r in rows]
            assert csv_rows(path)[1:] == cells


def test_a_video_must_come_whole_and_in_order() -> None:
    videos = Videos([4, 3], [1, 1])
    scores = DavisScores(videos.names, videos.object_ids)
    found = videos.scenes[0][2]
    for early in (lambda: scores.add(0, found[0]), scores.finish):
        with pytest.raises(ValueError, match=r"no video was started; call start\(video\)"):
            early()
    scores.start(videos[0])
    scores.add(0, found[0])
    with pytest.raises(ValueError, match=r"clip-0.*frame 2 came instead of 1; add every frame"):
        scores.add(2, found[2])
    with pytest.raises(ValueError, match=r"clip-0.*finished after 1 frames; add every frame"):
        scores.finish()
    scores.start(videos[0])  # what was interrupted is dropped
    for t in range(4):
        scores.add(t, found[t])
    assert [row.number for row in scores.finish()] == [1, 2]
    scores.start(videos[1])
    scores.add(0, found[0])
    with pytest.raises(ValueError, match=r"frame 1 has labels \(5, 40\), ground truth \(24, 40\)"):
        scores.add(1, found[1][:5])
    stranger = Videos([3, 3, 3], [1, 1, 1])[2]
    with pytest.raises(ValueError, match="is not number 2 of the evaluation set"):
        scores.start(stranger)


@pytest.mark.slow
def test_needs_no_lightning() -> None:
    """In a process in which importing Lightning fails."""
    program = f"""
import sys, types
sys.modules.update(dict.fromkeys(("lightning", "lightning_vos.module", "lightning_vos.frame_callback")))
package = types.ModuleType("lightning_vos")
package.__path__ = [{str(ROOT / "lightning_vos")!r}]
sys.modules["lightning_vos"] = package
from lightning_vos.metrics import DavisScores, JAndF, boundary_accuracy, region_similarity
scores = DavisScores(["a"], [(1,)])
print(scores.per_object())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr
