"""J&F inside a real trainer, against direct computation on the same videos."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from PIL import Image
from scored_videos import Model, Videos, csv_rows, expected_scores, loader, means, quiet_trainer
from torch import distributed
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from callbacks import PALETTE, DavisEvaluation, FPSLogger, MaskImages
from lightning_vos.frame_callback import FrameCallback
from lightning_vos.metrics import davis
from lightning_vos.video import Video


@pytest.mark.parametrize("kind", ["plain", "late", "sparse"])
def test_davis_evaluation_numbers(kind: str, tmp_path: Path) -> None:
    late = kind == "late"
    videos = Videos([7, 4 if late else 2, 10], [1, 2, 3], late=late, sparse=kind == "sparse")
    videos.scenes[0][1][3, :4, :20] = 255
    trainer = quiet_trainer(tmp_path, [DavisEvaluation(table=False)])
    logged = trainer.validate(Model(videos), loader(videos), verbose=False)[0]
    scores = expected_scores(videos)
    expected = {f"val/{name}": value for name, value in means(scores).items()}
    expected["val/J&F_copied_first_mask"] = means(expected_scores(videos, copied=True))["J&F"]
    assert logged == pytest.approx(expected, abs=1e-12)
    assert 0.2 < logged["val/J&F"] < 1
    header, row = csv_rows(tmp_path / "results" / "global_results-val.csv")
    assert header == ["J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay"]
    assert [float(x) for x in row] == pytest.approx(list(means(scores).values()), abs=1e-6)
    header, *rows = csv_rows(tmp_path / "results" / "per-sequence_results-val.csv")
    assert header == ["Sequence", "J-Mean", "F-Mean"]
    assert [row[0] for row in rows] == list(scores)
    for name, j, f in rows:
        assert (float(j), float(f)) == pytest.approx((scores[name][0], scores[name][3]), abs=1e-6)
    frames: dict[str, list[list[str]]] = {name: [] for name in scores}
    for path in (tmp_path / "results" / "per-frame_results-val").iterdir():
        header, *rows = csv_rows(path)
        assert header == ["Number", "Frame", "Object", "J", "F"]
        for row in rows:
            frames[f"{path.stem}_{row[2]}"].append(row)
    for name, rows in frames.items():
        assert [f"{int(row[0]):05d}" for row in rows] == [row[1] for row in rows] == sorted(row[1] for row in rows)
        assert np.mean([float(row[3]) for row in rows]) == pytest.approx(scores[name][0], abs=1e-6)
        assert np.mean([float(row[4]) for row in rows]) == pytest.approx(scores[name][3], abs=1e-6)
    assert not list(tmp_path.rglob(".*.csv.*"))


def test_davis_evaluation_repeats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sanity check, several validations, limits and a test in one object: each is scored for what it was."""
    videos = Videos([6, 5, 8], [1, 1, 2])
    evaluation = DavisEvaluation(output_dir=str(tmp_path / "out"))
    stale = tmp_path / "out" / "results" / "global_results-val.csv"
    stale.parent.mkdir(parents=True)
    stale.write_text("an earlier run")
    history: list[dict[str, float]] = []

    class Watch(Callback):
        def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if not trainer.sanity_checking:
                assert not stale.exists()

        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.sanity_checking:
                assert stale.read_text() == "an earlier run"
                assert not trainer.callback_metrics
            else:
                history.append({name: float(value) for name, value in trainer.callback_metrics.items()})
                videos.scenes[0][2].zero_()  # the model forgets the first video

    trainer = quiet_trainer(tmp_path, [evaluation, Watch()], max_epochs=2, num_sanity_val_steps=1)
    model = Model(videos)
    baseline = means(expected_scores(videos, copied=True))["J&F"]
    before = means(expected_scores(videos))["J&F"]
    trainer.fit(model, DataLoader(torch.ones(2, 1)), loader(videos))
    after = means(expected_scores(videos))["J&F"]
    assert before != after
    assert [metrics["val/J&F"] for metrics in history] == pytest.approx([before, after], abs=1e-12)
    assert [m["val/J&F_copied_first_mask"] for m in history] == pytest.approx([baseline] * 2, abs=1e-12)
    assert len(evaluation._baselines) == 1
    printed = capsys.readouterr().out
    assert "copied first mask" in printed
    assert f"{100 * after:.1f}" in printed

    logged = trainer.test(model, loader(videos), verbose=False)[0]
    assert logged["test/J&F"] == pytest.approx(after, abs=1e-12)
    assert (tmp_path / "out" / "results" / "per-sequence_results-test.csv").exists()

    limited = quiet_trainer(tmp_path, [evaluation], limit_val_batches=2)
    logged = limited.validate(model, loader(videos), verbose=False)[0]
    assert logged["val/J&F"] == pytest.approx(means(expected_scores(videos, scored=[0, 1]))["J&F"], abs=1e-12)
    expected = means(expected_scores(videos, copied=True, scored=[0, 1]))["J&F"]
    assert logged["val/J&F_copied_first_mask"] == pytest.approx(expected, abs=1e-12)


def test_baseline_is_scored_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second validation scores predictions only, after an interrupted first one scored nothing for good."""
    videos = Videos([5], [1])
    calls: list[int] = []
    measure = davis.region_and_boundary
    monkeypatch.setattr(davis, "region_and_boundary", lambda *masks: (calls.append(1), measure(*masks))[1])

    class Interrupt(FrameCallback):
        broken = True

        def on_frame_end(self, *args: Any) -> None:
            if self.broken and args[3] == 2:
                raise RuntimeError("interrupted")

    interrupt, evaluation = Interrupt(), DavisEvaluation(table=False)
    trainer, model = quiet_trainer(tmp_path, [evaluation, interrupt]), Model(videos)
    with pytest.raises(RuntimeError, match="interrupted"):
        trainer.validate(model, loader(videos), verbose=False)
    interrupt.broken = False
    counts, results = [], []
    for _ in range(2):
        calls.clear()
        results.append(trainer.validate(model, loader(videos), verbose=False)[0])
        counts.append(len(calls))
    assert counts == [6, 3]
    assert results[0] == results[1]
    assert results[0]["val/J&F"] == pytest.approx(means(expected_scores(videos))["J&F"], abs=1e-12)


def test_nothing_to_score(tmp_path: Path) -> None:
    """Without ground truth nothing is logged or written, and the masks still are, with the data set's own ids."""
    videos = Videos([3, 1], [2, 1])
    videos.target = lambda index, t: None  # type: ignore[method-assign]
    trainer = quiet_trainer(tmp_path, [DavisEvaluation(save_masks=True)])
    assert trainer.validate(Model(videos), loader(videos), verbose=False) == [{}]
    assert not (tmp_path / "results").exists()
    assert sorted(p.relative_to(tmp_path / "masks").as_posix() for p in (tmp_path / "masks").rglob("*")) == [
        "clip-0", "clip-0/00000.png", "clip-0/00001.png", "clip-0/00002.png", "clip-1", "clip-1/00000.png",
    ]  # fmt: skip
    ids = np.array([0, *videos.object_ids[0]], dtype=np.uint8)
    for t in range(3):
        image = Image.open(tmp_path / "masks" / "clip-0" / f"{t:05d}.png")
        assert image.mode == "P"
        assert image.getpalette() == PALETTE.reshape(-1).tolist()
        labels = videos.prompts[0][0] if t == 0 else videos.scenes[0][2][t]
        assert np.array_equal(np.array(image), ids[labels.numpy()])


def test_given_masks_are_saved_as_given(tmp_path: Path) -> None:
    """On its prompt frame an object's saved mask is the prompt, and the others' masks stay the model's."""
    videos = Videos([4], [2], late=True)
    trainer = quiet_trainer(tmp_path, [DavisEvaluation(save_masks=True, table=False)])
    trainer.validate(Model(videos), loader(videos), verbose=False)
    saved = torch.from_numpy(np.array(Image.open(tmp_path / "masks" / "clip-0" / "00002.png")))
    first, second = videos.object_ids[0]
    prompt, found = videos.prompts[0][2], videos.scenes[0][2][2]
    assert (prompt == 2).any()
    assert not torch.equal(prompt == 2, found == 2)
    assert torch.equal(saved == second, prompt == 2)
    assert torch.equal(saved == first, (found == 1) & (prompt != 2))


def test_errors_name_video_and_frame(tmp_path: Path) -> None:
    videos = Videos([5, 5], [1, 2])
    videos.scenes[1][1][2, 0, 0] = 7
    with pytest.raises(ValueError, match=r"clip-1.*frame 2 \(00002\) has label 7.*2 objects"):
        quiet_trainer(tmp_path, [DavisEvaluation()]).validate(Model(videos), loader(videos), verbose=False)
    videos = Videos([5, 5], [1, 2])
    model = Model(videos)
    other = _Fixed(videos)
    other.names = ["other", "names"]
    with pytest.raises(ValueError, match="not number 0"):
        quiet_trainer(tmp_path, [DavisEvaluation()]).validate(model, loader(other), verbose=False)
    del other.names
    with pytest.raises(ValueError, match="_Fixed has no names"):
        quiet_trainer(tmp_path, [DavisEvaluation()]).validate(model, loader(other), verbose=False)
    loaders = [loader(videos), loader(videos)]
    with pytest.raises(ValueError, match="2 val dataloaders"):
        quiet_trainer(tmp_path, [DavisEvaluation()]).validate(model, loaders, verbose=False)


class _Fixed(Dataset[Video]):
    """The same videos behind attributes of its own."""

    def __init__(self, videos: Videos) -> None:
        self.names, self.object_ids, self.max_objects = videos.names, videos.object_ids, videos.max_objects
        self.videos = videos

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> Video:
        return self.videos[index]


def test_long_tables_show_the_worst(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos = Videos([3] * 41, [1] * 41)
    for index, (_, _, found) in enumerate(videos.scenes):
        found.zero_()
        if index >= 10:
            found.copy_(videos.scenes[index][1])
    quiet_trainer(tmp_path, [DavisEvaluation()]).validate(Model(videos), loader(videos), verbose=False)
    printed = capsys.readouterr().out
    assert [i for i in range(41) if f"clip-{i} " in printed] == list(range(10))
    assert "10 worst" in printed


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    """Three videos over two ranks, one of them twice: results, files and speed as with one process."""
    videos = Videos([6, 5, 8], [1, 1, 2])
    one = quiet_trainer(tmp_path / "one", [DavisEvaluation(table=False)])
    one.validate(Model(videos), loader(videos), verbose=False)
    callbacks = [DavisEvaluation(table=False), FPSLogger(0), MaskImages(3, 2), _WriteMetrics(str(tmp_path))]
    two = quiet_trainer(tmp_path / "two", callbacks, strategy="ddp_spawn", devices=2)
    sampler = _ByRank(videos, num_replicas=2, rank=0, shuffle=False)
    two.validate(Model(videos), loader(videos, sampler=sampler), verbose=False)
    for name in ("global_results-val.csv", "per-sequence_results-val.csv"):
        written = (tmp_path / "two" / "results" / name).read_text()
        assert written == (tmp_path / "one" / "results" / name).read_text()
        assert len(written.splitlines()) > 1
    for name in videos.names:
        path = Path("results", "per-frame_results-val", f"{name}.csv")
        assert (tmp_path / "two" / path).read_text() == (tmp_path / "one" / path).read_text()
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    assert ranks[0] == ranks[1]
    assert {name: ranks[0][name] for name in one.callback_metrics} == {
        name: float(value) for name, value in one.callback_metrics.items()
    }
    assert ranks[0]["val/FPS"] > 0
    assert sorted(path.name for path in (tmp_path / "two" / "pictures").iterdir()) == [
        "clip-0.png",
        "clip-1.png",
        "clip-2.png",
    ]


class _ByRank(DistributedSampler[int]):
    """Asks for its rank when it is read: it was made before there were processes."""

    def __iter__(self) -> Iterator[int]:
        self.rank = distributed.get_rank()
        return super().__iter__()


class _WriteMetrics(Callback):
    """Each rank's metrics to a file."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        torch.save(metrics, Path(self.folder) / f"rank{trainer.global_rank}.pt")
