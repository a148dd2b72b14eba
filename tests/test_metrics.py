"""J, F and their means against the official numbers, textbook code and plain loops."""

from __future__ import annotations

import json
import math
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, distributed, multiprocessing

from lightning_vos.metrics import STATISTICS, JAndF, boundary_accuracy, region_similarity
from tests import reference

SHARED = Path(__file__).resolve().parents[2] / "shared"
GOLDEN = SHARED / "golden" / "davis_eval"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no official results at {GOLDEN}")

SIZES = [(1, 1), (1, 9), (8, 1), (2, 2), (7, 13), (24, 31), (61, 40)]


def _masks(height: int, width: int, seed: int) -> list[Tensor]:
    """Empty, full, border, single pixel, blob and noise masks."""
    generator = torch.Generator().manual_seed(seed)
    empty = torch.zeros(height, width, dtype=torch.bool)
    border, corner, dot = empty.clone(), empty.clone(), empty.clone()
    border[:, -1] = border[-1] = True
    corner[-1, -1] = True
    dot[height // 2, width // 2] = True
    noise = [torch.rand(height, width, generator=generator) < density for density in (0.03, 0.5)]
    blobs = [reference.blobs(height, width, generator) for _ in range(2)]
    return [empty, ~empty, border, ~border, corner, dot, *noise, *blobs]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("with_void", [False, True])
def test_equals_textbook(size: tuple[int, int], with_void: bool) -> None:
    """Every pair of masks, several tolerances: exactly the full-frame results."""
    masks = _masks(*size, seed=0)
    void = torch.rand(size, generator=torch.Generator().manual_seed(1)) < 0.2 if with_void else None
    for i, pred in enumerate(masks):
        for j, target in enumerate(masks):
            assert float(region_similarity(pred, target, void)) == reference.region_similarity(pred, target, void)
            for tolerance in (0.008, 0.1, 1, 3):
                ours = float(boundary_accuracy(pred, target, void, tolerance))
                theirs = reference.boundary_accuracy(pred, target, void, tolerance)
                assert ours == theirs, (i, j, tolerance)


def test_the_two_textbook_dilations_agree() -> None:
    """Shifts and a convolution are independent ways to the same disk."""
    for mask in _masks(33, 47, seed=2):
        for radius in (0, 1, 4, 8):
            assert torch.equal(reference.dilate_by_shifts(mask, radius), reference.dilate_by_convolution(mask, radius))


def test_equals_textbook_at_full_size() -> None:
    """480 x 854 as in DAVIS, where the tolerance is 8 pixels."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(2):
        pred, target = reference.blobs(480, 854, generator), reference.blobs(480, 854, generator)
        assert float(boundary_accuracy(pred, target)) == reference.boundary_accuracy(pred, target, convolve=True)


def test_worked_examples() -> None:
    """Values that can be checked by hand."""
    empty = torch.zeros(20, 20, dtype=torch.bool)
    left, right = empty.clone(), empty.clone()
    left[:, :10] = True
    right[:, :14] = True
    assert float(region_similarity(left, right)) == pytest.approx(10 / 14)
    assert float(boundary_accuracy(left, right, tolerance=3)) == 0.0  # the boundaries are 4 columns apart
    assert float(boundary_accuracy(left, right, tolerance=4)) == 1.0
    assert float(boundary_accuracy(left, right, tolerance=0.008)) == 0.0  # ceil(0.008 * 28.3) = 1
    for measure in (region_similarity, boundary_accuracy):
        assert float(measure(empty, empty)) == 1.0
        assert float(measure(left, empty)) == 0.0
        assert float(measure(empty, left)) == 0.0
        assert float(measure(left, empty, left)) == 1.0  # all of it is void
        assert measure(left, right).dtype == torch.float64


def test_leading_dimensions() -> None:
    """A batch gives what its members give, in place; void is broadcast."""
    masks = torch.stack(_masks(19, 23, seed=4)[:6]).view(2, 3, 19, 23)
    others = masks.flip(1)
    void = torch.rand(19, 23, generator=torch.Generator().manual_seed(5)) < 0.1
    for measure in (region_similarity, boundary_accuracy):
        batched = measure(masks, others, void)
        assert batched.shape == (2, 3)
        for i in range(2):
            for j in range(3):
                assert batched[i, j] == measure(masks[i, j], others[i, j], void)
        assert measure(masks[:0], others[:0]).shape == (0, 3)


def test_mixed_precision_changes_nothing() -> None:
    """Lightning's evaluation steps run under autocast; a count in bfloat16 would be wrong above 256."""
    generator = torch.Generator().manual_seed(8)
    pred, target = torch.rand(2, 64, 96, generator=generator) < 0.3
    with torch.autocast("cpu", torch.bfloat16):
        mixed = [measure(pred, target) for measure in (region_similarity, boundary_accuracy)]
    assert [float(value) for value in mixed] == [
        reference.region_similarity(pred, target),
        reference.boundary_accuracy(pred, target),
    ]


def test_batched_counts_do_not_mix() -> None:
    """The path of other devices, all maps in one pass, equals the boxes of the CPU."""
    from lightning_vos.metrics import _match_table

    masks = _masks(17, 29, seed=6)
    pairs = [(a, b) for a in masks for b in masks]
    preds, targets = torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs])
    for radius in (1, 5, 40):
        together = _match_table(preds, targets, radius)
        apart = torch.cat([_match_table(a[None], b[None], radius) for a, b in pairs])
        assert torch.equal(together[:, 4:], apart[:, 4:])  # codes from 4 on: boundary pixels
        near = torch.stack([reference.dilate_by_shifts(reference.boundary_map(b), radius) for _, b in pairs])
        bounds = torch.stack([reference.boundary_map(a) for a, _ in pairs])
        matched = together.view(-1, 2, 2, 2, 2)[:, :, 1, 1].sum((1, 2))  # bits: on target, on pred, near target, ...
        assert torch.equal(matched, (bounds & near).sum((1, 2)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu() -> None:
    """Same digits on the GPU."""
    masks = torch.stack(_masks(61, 40, seed=7))
    for measure in (region_similarity, boundary_accuracy):
        assert torch.equal(measure(masks.cuda(), masks.flip(0).cuda()).cpu(), measure(masks, masks.flip(0)))


def test_refuses_what_is_not_a_mask() -> None:
    """Shapes, dtypes and tolerances."""
    mask = torch.ones(4, 5, dtype=torch.bool)
    for measure in (region_similarity, boundary_accuracy):
        with pytest.raises(ValueError, match="same"):
            measure(mask, mask[:3])
        with pytest.raises(ValueError, match="bool"):
            measure(mask.float(), mask)
    with pytest.raises(ValueError, match="tolerance"):
        boundary_accuracy(mask, mask, tolerance=-1)


def _read(path: Path) -> Tensor:
    labels = np.array(Image.open(path))
    return torch.from_numpy(labels if labels.ndim == 2 else labels.max(-1))


@needs_golden
@pytest.mark.parametrize("kind", ["single_object", "multi_object"])
def test_equals_official_code(kind: str) -> None:
    """Every frame of every sequence, and mean, recall and decay, as the official DAVIS 2017 code gives them."""
    official = json.loads((GOLDEN / f"{kind}.json").read_text())
    truth = SHARED / "data" / "davis2016" / "Annotations" / "480p" if kind == "single_object" else GOLDEN / "reference"
    if not truth.is_dir():
        pytest.skip(f"no annotations at {truth}")
    names = list(official)
    metric = JAndF(len(names), 2)
    for video, name in enumerate(names):
        folder = (GOLDEN / "osvos" if kind == "single_object" else GOLDEN / "prediction") / name
        files = sorted(path.name for path in folder.glob("*.png"))[1:-1]
        ids = sorted(official[name], key=int)
        j, f = [], []
        for file in files:
            pred, target = _read(folder / file), _read(truth / name / file)
            if kind == "single_object":
                pred, target = (pred > 0)[None], (target > 0)[None]
            else:
                values = torch.tensor([int(i) for i in ids])[:, None, None]
                pred, target = pred == values, target == values
            j.append(region_similarity(pred, target))
            f.append(boundary_accuracy(pred, target))
        metric.update(video, torch.stack(j), torch.stack(f))
        for k, i in enumerate(ids):
            assert [float(v[k]) for v in j] == pytest.approx(official[name][i]["J"], abs=1e-9)
            assert [float(v[k]) for v in f] == pytest.approx(official[name][i]["F"], abs=1e-9)
    objects = metric.per_object()
    assert len(objects) == sum(len(scores) for scores in official.values())
    for scored in objects:
        expected = official[names[scored.video]][str(scored.object)]
        for measure in "JF":
            assert scored.values[measure] == pytest.approx(expected[f"{measure}_stats"]["mean"], abs=1e-9)
            for statistic in ("recall", "decay"):
                value = scored.values[f"{measure}_{statistic}"]
                assert value == pytest.approx(expected[f"{measure}_stats"][statistic], abs=1e-9)


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
