"""The callbacks inside a real Trainer, against direct computation on the same videos."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from PIL import Image
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from callbacks import (
    PALETTE,
    DavisEvaluation,
    FPSLogger,
    MaskImages,
    device_name,
    overlay,
    save_palette_png,
)
from lightning_vos.frame_callback import FrameCallback
from lightning_vos.video import Video
from tests import reference

SIZE = (24, 40)


def _scene(index: int, frames: int, objects: int) -> tuple[Tensor, Tensor, Tensor]:
    """Frames, ground truth labels and a model's labels of a video: rectangles that drift, and a model that lags."""
    generator = torch.Generator().manual_seed(index)
    pictures = torch.randint(0, 256, (frames, 3, *SIZE), generator=generator, dtype=torch.uint8)
    truth = torch.zeros(frames, *SIZE, dtype=torch.uint8)
    found = truth.clone()
    for k in range(1, objects + 1):
        y, x = torch.randint(0, 12, (2,), generator=generator).tolist()
        for t in range(frames):
            truth[t, y : y + 9, x + t : x + t + 8] = k
            late = t // 2
            found[t, y : y + 9 - index, x + late : x + late + 8] = k
    return pictures, truth, found


class Videos(Dataset[Video]):
    """Videos in memory; ``late`` gives the last object of a video on frame 2, ``sparse`` annotates even frames only."""

    def __init__(
        self, lengths: Sequence[int], objects: Sequence[int], late: bool = False, sparse: bool = False
    ) -> None:
        self.names = [f"clip-{i}" for i in range(len(lengths))]
        self.object_ids = [tuple(3 * k + 2 for k in range(n)) for n in objects]
        self.max_objects = max(objects)
        self.sparse = sparse
        self.scenes = [_scene(i, t, k) for i, (t, k) in enumerate(zip(lengths, objects, strict=True))]
        self.prompts = []
        for (_, truth, found), count in zip(self.scenes, objects, strict=True):
            prompts = {0: truth[0].clone()}
            if late:
                prompts[0][prompts[0] == count] = 0
                prompts[2] = torch.where(truth[2] == count, truth[2], 0)
                truth[:2][truth[:2] == count] = 0
                found[:2][found[:2] == count] = 0
            self.prompts.append(prompts)

    def __len__(self) -> int:
        return len(self.names)

    def target(self, index: int, t: int) -> Tensor | None:
        return None if self.sparse and t % 2 else self.scenes[index][1][t]

    def __getitem__(self, index: int) -> Video:
        pictures = self.scenes[index][0]
        return Video(
            index,
            self.names[index],
            SIZE,
            self.object_ids[index],
            self.prompts[index],
            [f"{t:05d}" for t in range(len(pictures))],
            pictures.__getitem__,
            lambda t: self.target(index, t),
        )


class Model(LightningModule):
    """Calls the hooks as VOSModule does, and answers with the labels of the scene."""

    def __init__(self, videos: Videos) -> None:
        super().__init__()
        self.videos = videos
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def validation_step(self, video: Video, batch_idx: int, dataloader_idx: int = 0) -> None:
        observers = [c for c in self.trainer.callbacks if isinstance(c, FrameCallback)]  # type: ignore[attr-defined]
        for t, frame in enumerate(video):
            for observer in observers:
                observer.on_frame_start(self.trainer, self, video, t)
            labels = self.videos.scenes[video.index][2][t]
            for observer in observers:
                observer.on_frame_end(self.trainer, self, video, t, frame, labels)

    test_step = validation_step

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.weight * batch.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def _trainer(folder: Path, callbacks: list[Callback], **options: Any) -> Trainer:
    settings = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
    }
    return Trainer(default_root_dir=folder, callbacks=callbacks, **{**settings, **options})


def _loader(videos: Videos, **options: Any) -> DataLoader[Video]:
    return DataLoader(videos, batch_size=None, **options)


def _scores(videos: Videos, copied: bool = False, scored: Sequence[int] | None = None) -> dict[str, tuple[float, ...]]:
    """``<video>_<id>`` -> mean, recall, decay of J and F, by plain loops."""
    result = {}
    for index in range(len(videos)) if scored is None else scored:
        _, truth, found = videos.scenes[index]
        last = len(truth) - 1
        for k, identity in enumerate(videos.object_ids[index], start=1):
            start = min(t for t, prompt in videos.prompts[index].items() if (prompt == k).any())
            j, f = [], []
            for t in range(start + 1, last if last > 1 else last + 1):
                target = videos.target(index, t)
                if target is None:
                    continue
                if copied:  # objects given later and on top of others hide them from then on
                    mask = videos.prompts[index][start] == k
                    for later, prompt in videos.prompts[index].items():
                        if start < later <= t:
                            mask = mask & (prompt == 0)
                else:
                    mask = found[t] == k
                void = target == 255
                j.append(reference.region_similarity(mask, target == k, void))
                f.append(reference.boundary_accuracy(mask, target == k, void))
            if j:
                name = f"{videos.names[index]}_{identity}"
                result[name] = (*reference.statistics(j), *reference.statistics(f))
    return result


def _means(scores: dict[str, tuple[float, ...]]) -> dict[str, float]:
    names = ("J", "J_recall", "J_decay", "F", "F_recall", "F_decay")
    means = dict(zip(names, np.mean(list(scores.values()), axis=0).tolist(), strict=True))
    return {"J&F": (means["J"] + means["F"]) / 2, **means}


def _rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("kind", ["plain", "late", "sparse"])
def test_davis_evaluation_numbers(kind: str, tmp_path: Path) -> None:
    late = kind == "late"
    videos = Videos([7, 4 if late else 2, 10], [1, 2, 3], late=late, sparse=kind == "sparse")
    videos.scenes[0][1][3, :4, :20] = 255
    trainer = _trainer(tmp_path, [DavisEvaluation(table=False)])
    logged = trainer.validate(Model(videos), _loader(videos), verbose=False)[0]
    scores = _scores(videos)
    expected = {f"val/{name}": value for name, value in _means(scores).items()}
    expected["val/J&F_copied_first_mask"] = _means(_scores(videos, copied=True))["J&F"]
    assert logged == pytest.approx(expected, abs=1e-12)
    assert 0.2 < logged["val/J&F"] < 1
    header, row = _rows(tmp_path / "results" / "global_results-val.csv")
    assert header == ["J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay"]
    assert [float(x) for x in row] == pytest.approx(list(_means(scores).values()), abs=1e-6)
    header, *rows = _rows(tmp_path / "results" / "per-sequence_results-val.csv")
    assert header == ["Sequence", "J-Mean", "F-Mean"]
    assert [row[0] for row in rows] == list(scores)
    for name, j, f in rows:
        assert (float(j), float(f)) == pytest.approx((scores[name][0], scores[name][3]), abs=1e-6)
    frames: dict[str, list[list[str]]] = {name: [] for name in scores}
    for path in (tmp_path / "results" / "per-frame_results-val").iterdir():
        header, *rows = _rows(path)
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
    history: list[tuple[dict[str, float], bool]] = []

    class Watch(Callback):
        def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if not trainer.sanity_checking:
                assert not stale.exists()

        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.sanity_checking:
                assert stale.read_text() == "an earlier run"
                assert not trainer.callback_metrics
            else:
                metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
                history.append((metrics, evaluation._baseline_metric is None))
                videos.scenes[0][2].zero_()  # the model forgets the first video

    trainer = _trainer(tmp_path, [evaluation, Watch()], max_epochs=2, num_sanity_val_steps=1)
    model = Model(videos)
    baseline = _means(_scores(videos, copied=True))["J&F"]
    before = _means(_scores(videos))["J&F"]
    trainer.fit(model, DataLoader(torch.ones(2, 1)), _loader(videos))
    after = _means(_scores(videos))["J&F"]
    assert before != after
    assert [metrics["val/J&F"] for metrics, _ in history] == pytest.approx([before, after], abs=1e-12)
    assert [m["val/J&F_copied_first_mask"] for m, _ in history] == pytest.approx([baseline] * 2, abs=1e-12)
    assert len(evaluation._baselines) == 1
    printed = capsys.readouterr().out
    assert "copied first mask" in printed
    assert f"{100 * after:.1f}" in printed

    logged = trainer.test(model, _loader(videos), verbose=False)[0]
    assert logged["test/J&F"] == pytest.approx(after, abs=1e-12)
    assert (tmp_path / "out" / "results" / "per-sequence_results-test.csv").exists()

    limited = _trainer(tmp_path, [evaluation], limit_val_batches=2)
    logged = limited.validate(model, _loader(videos), verbose=False)[0]
    assert logged["val/J&F"] == pytest.approx(_means(_scores(videos, scored=[0, 1]))["J&F"], abs=1e-12)
    expected = _means(_scores(videos, copied=True, scored=[0, 1]))["J&F"]
    assert logged["val/J&F_copied_first_mask"] == pytest.approx(expected, abs=1e-12)


def test_baseline_is_scored_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second validation scores predictions only, after an interrupted first one scored nothing for good."""
    import callbacks.davis_evaluation as module

    videos = Videos([5], [1])
    calls: list[int] = []
    measure = module.boundary_accuracy
    monkeypatch.setattr(module, "boundary_accuracy", lambda *masks: (calls.append(1), measure(*masks))[1])

    class Interrupt(FrameCallback):
        broken = True

        def on_frame_end(self, *args: Any) -> None:
            if self.broken and args[3] == 2:
                raise RuntimeError("interrupted")

    interrupt, evaluation = Interrupt(), DavisEvaluation(table=False)
    trainer, model = _trainer(tmp_path, [evaluation, interrupt]), Model(videos)
    with pytest.raises(RuntimeError, match="interrupted"):
        trainer.validate(model, _loader(videos), verbose=False)
    interrupt.broken = False
    counts, results = [], []
    for _ in range(2):
        calls.clear()
        results.append(trainer.validate(model, _loader(videos), verbose=False)[0])
        counts.append(len(calls))
    assert counts == [6, 3]
    assert results[0] == results[1]
    assert results[0]["val/J&F"] == pytest.approx(_means(_scores(videos))["J&F"], abs=1e-12)


def test_nothing_to_score(tmp_path: Path) -> None:
    """Without ground truth nothing is logged or written, and the masks still are, with the data set's own ids."""
    videos = Videos([3, 1], [2, 1])
    videos.target = lambda index, t: None  # type: ignore[method-assign]
    trainer = _trainer(tmp_path, [DavisEvaluation(save_masks=True)])
    assert trainer.validate(Model(videos), _loader(videos), verbose=False) == [{}]
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
    trainer = _trainer(tmp_path, [DavisEvaluation(save_masks=True, table=False)])
    trainer.validate(Model(videos), _loader(videos), verbose=False)
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
        _trainer(tmp_path, [DavisEvaluation()]).validate(Model(videos), _loader(videos), verbose=False)
    videos = Videos([5, 5], [1, 2])
    model = Model(videos)
    other = _Fixed(videos)
    other.names = ["other", "names"]
    with pytest.raises(ValueError, match="not number 0"):
        _trainer(tmp_path, [DavisEvaluation()]).validate(model, _loader(other), verbose=False)
    del other.names
    with pytest.raises(ValueError, match="_Fixed has no names"):
        _trainer(tmp_path, [DavisEvaluation()]).validate(model, _loader(other), verbose=False)
    loaders = [_loader(videos), _loader(videos)]
    with pytest.raises(ValueError, match="2 val dataloaders"):
        _trainer(tmp_path, [DavisEvaluation()]).validate(model, loaders, verbose=False)


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
    _trainer(tmp_path, [DavisEvaluation()]).validate(Model(videos), _loader(videos), verbose=False)
    printed = capsys.readouterr().out
    assert [i for i in range(41) if f"clip-{i} " in printed] == list(range(10))
    assert "10 worst" in printed


class _Clock:
    """Time passes only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class _Work(FrameCallback):
    """Lets time pass inside the clock, ``latency(video, t)``, and outside, though it is listed before FPSLogger."""

    def __init__(self, clock: _Clock) -> None:
        self.clock = clock

    def latency(self, index: int, t: int) -> float:
        return 0.010 * (index + 1) * (1 + t / 10)

    def on_frame_start(self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int) -> None:
        self.clock.now += self.latency(video.index, t)  # FPSLogger's hook has been called already

    def on_frame_end(self, *args: Any) -> None:
        self.clock.now += 5.0


@pytest.mark.parametrize(("warmup", "counted"), [(0, [0, 1, 2]), (1, [1, 2]), (2, [2]), (3, [0, 1, 2]), (9, [0, 1, 2])])
def test_fps_protocol(warmup: int, counted: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths, objects = [4, 1 + 30, 8], [1, 2, 3]
    videos = Videos(lengths, objects)
    clock = _Clock()
    monkeypatch.setattr("time.perf_counter", clock)
    work, fps = _Work(clock), FPSLogger(warmup)
    trainer = _trainer(tmp_path, [work, fps])
    for _ in range(2):  # nothing is left over from the first
        logged = trainer.validate(Model(videos), _loader(videos), verbose=False)[0]
    seconds = sorted(work.latency(index, t) for index in counted for t in range(1, lengths[index]))
    assert logged["val/FPS"] == pytest.approx(len(seconds) / sum(seconds), rel=1e-9)
    for share in (50, 95):
        expected = 1e3 * seconds[math.ceil(share / 100 * len(seconds)) - 1]
        assert logged[f"val/latency_p{share}_ms"] == pytest.approx(expected, rel=0.02)
    assert logged["val/objects_per_video"] == pytest.approx(np.mean([objects[i] for i in counted]))
    assert 10 < logged["val/peak_memory_MB"] < 1e6
    assert device_name("cpu") in fps.setting
    assert "32" in fps.setting
    assert trainer.callbacks[0] is fps  # type: ignore[attr-defined]


def test_fps_logs_nothing_when_nothing_was_measured(tmp_path: Path) -> None:
    videos = Videos([1, 1], [1, 1])
    logged = _trainer(tmp_path, [FPSLogger()]).validate(Model(videos), _loader(videos), verbose=False)
    assert logged == [{}]
    with pytest.raises(ValueError, match="warmup_videos=-1"):
        FPSLogger(-1)


def test_palette() -> None:
    """The first colours of PASCAL VOC, and its last."""
    first = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128)]
    assert [tuple(colour) for colour in PALETTE[:7].tolist()] == first
    assert tuple(PALETTE[255].tolist()) == (224, 224, 192)
    assert len({tuple(colour) for colour in PALETTE.tolist()}) == 256


def test_palette_png_round_trip(tmp_path: Path) -> None:
    labels = torch.randint(0, 256, (9, 14), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        save_palette_png(tmp_path / "a" / "b.png", labels)
    image = Image.open(tmp_path / "a" / "b.png")
    assert np.array_equal(np.array(image), labels.numpy())
    assert np.array_equal(np.array(image.convert("RGB")), PALETTE[labels.numpy()])
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.png"]


def test_overlay_pixels() -> None:
    """Half tint inside, own colour on the rim, white around, the rest untouched."""
    frame = torch.full((3, 12, 12), 100, dtype=torch.uint8)
    labels = torch.zeros(12, 12, dtype=torch.uint8)
    labels[3:9, 3:9] = 1
    picture = overlay(frame, labels)
    assert picture.dtype == torch.uint8
    assert picture[:, 5, 5].tolist() == [114, 50, 50]
    assert picture[:, 3, 5].tolist() == [128, 0, 0]
    assert picture[:, 2, 5].tolist() == [255, 255, 255]
    assert picture[:, 0, 0].tolist() == [100, 100, 100]
    assert overlay(frame[:, :6, :6], labels).shape == (3, 12, 12)
    assert torch.equal(overlay(frame, torch.zeros_like(labels)), frame)


class _Pictures(Logger):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[str, list[str], int | None]] = []

    name = "pictures"
    version = 0

    def log_metrics(self, *args: Any, **kwargs: Any) -> None: ...

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_image(self, key: str, images: list[str], step: int | None = None) -> None:
        self.sent.append((key, images, step))


def test_mask_images(tmp_path: Path) -> None:
    videos = Videos([9, 2, 5, 5], [2, 1, 1, 1])
    logger = _Pictures()
    trainer = _trainer(tmp_path, [MaskImages(videos=3, frames=3)], logger=logger)
    trainer.validate(Model(videos), _loader(videos), verbose=False)
    folder = tmp_path / "pictures"
    assert sorted(path.name for path in folder.iterdir()) == ["clip-0.png", "clip-1.png", "clip-2.png"]
    assert logger.sent == [(f"val/clip-{i}", [str(folder / f"clip-{i}.png")], 0) for i in range(3)]
    height, width = SIZE
    strip = torch.from_numpy(np.array(Image.open(folder / "clip-0.png"))).permute(2, 0, 1)
    assert strip.shape == (3, 2 * height + 4, 3 * width + 8)
    pictures, truth, found = videos.scenes[0]
    for column, t in enumerate((0, 4, 8)):
        x = column * (width + 4)
        assert torch.equal(strip[:, :height, x : x + width], overlay(pictures[t], found[t]))
        assert torch.equal(strip[:, height + 4 :, x : x + width], overlay(pictures[t], truth[t]))
    assert Image.open(folder / "clip-1.png").size == (2 * width + 4, 2 * height + 4)  # it has two frames only

    videos.target = lambda index, t: None  # type: ignore[method-assign]
    trainer.validate(Model(videos), _loader(videos), verbose=False)
    assert Image.open(folder / "clip-0.png").size == (3 * width + 8, height)
    with pytest.raises(ValueError, match="frames=0"):
        MaskImages(frames=0)


def test_pictures_come_at_the_step_of_the_figures(tmp_path: Path) -> None:
    """W&B drops what is logged at a step behind the last one: pictures must not run ahead of J&F."""
    videos = Videos([6, 5], [1, 1])
    logged: list[tuple[int | None, bool]] = []

    class Record(_Pictures):
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            logged.append((step, "val/J&F" in metrics))

        def log_image(self, key: str, images: list[str], step: int | None = None) -> None:
            logged.append((step, False))

    callbacks = [DavisEvaluation(table=False), MaskImages(videos=2)]
    trainer = _trainer(tmp_path, callbacks, logger=Record(), max_steps=4, val_check_interval=2, num_sanity_val_steps=0)
    trainer.fit(Model(videos), DataLoader(torch.ones(4, 1)), _loader(videos))
    assert logged == [(1, False), (1, False), (1, True), (3, False), (3, False), (3, True)]


def test_two_processes(tmp_path: Path) -> None:
    """Three videos over two ranks, one of them twice: results, files and speed as with one process."""
    videos = Videos([6, 5, 8], [1, 1, 2])
    one = _trainer(tmp_path / "one", [DavisEvaluation(table=False)])
    one.validate(Model(videos), _loader(videos), verbose=False)
    callbacks = [DavisEvaluation(table=False), FPSLogger(0), MaskImages(3, 2), _WriteMetrics(str(tmp_path))]
    two = _trainer(tmp_path / "two", callbacks, strategy="ddp_spawn", devices=2)
    sampler = _ByRank(videos, num_replicas=2, rank=0, shuffle=False)
    two.validate(Model(videos), _loader(videos, sampler=sampler), verbose=False)
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
