"""Two processes never write to one folder, what was saved is read as it was written, and a full disk spoils nothing."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import pickle
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import small
from lightning import Trainer
from lightning.pytorch.loggers import Logger
from movie_files import moving_square, predict, write_frames, write_mask, written
from PIL import Image
from test_lease import HOLDER
from tiny_runs import commands, small_model, started, tiny, training, write_tiny_demo

from callbacks import BestCheckpoint, LastCheckpoint, Submission, save_palette_png
from callbacks.davis_evaluation import _write_csv
from callbacks.prediction_record import PredictionRecord
from datamodules import patient_file
from datamodules.images import read_image
from lightning_vos import VOSModule, checksum
from lightning_vos.atomic import unfinished
from lightning_vos.checkpoint import read_checkpoint
from lightning_vos.compare.__main__ import compare
from lightning_vos.frame_callback import FrameCallback
from lightning_vos.lease import FolderInUse, Lease
from lightning_vos.ownership import written as folders_of
from lightning_vos.passing import PassingFault, passes
from lightning_vos.resume import AtomicCheckpointIO

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model() -> VOSModule:
    return small("REMN")


@contextlib.contextmanager
def held(folder: Path) -> Iterator[str]:
    """Another process owns the folder; its number."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield str(process.pid)
    finally:
        process.kill()
        process.wait()


def take_over(folder: Path) -> None:
    owner = {"token": "another", "pid": 7, "host": "node2", "purpose": "training"}
    (folder / ".owner.json").write_text(json.dumps(owner))


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- one run, one owner


class TakenOver(FrameCallback):
    """Another process takes over a folder amid the run."""

    def __init__(self, folder: str, after: int) -> None:
        self.folder, self.after, self.seen = folder, after, 0

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self._count()

    def on_frame_end(self, *args: Any, **kwargs: Any) -> None:
        self._count()

    def _count(self) -> None:
        self.seen += 1
        if self.seen == self.after:
            take_over(Path(self.folder))


def logger_that_is_not_built() -> Logger:
    raise AssertionError("it would speak before the run is refused")


def test_a_run_has_one_owner(tmp_path: Path) -> None:
    demo, out = write_tiny_demo(tmp_path / "data"), tmp_path / "run"
    (command,) = commands("video", "METHOD=remn", "DATA=demo")
    args = [*command, *small_model("remn"), *tiny(demo, out, 2), *training(), "--trainer.limit_val_batches=0"]
    with held(out) as pid:
        with pytest.raises(FolderInUse, match=rf"run: in use by process {pid} on .* \(training\)"):
            started([*args, "--trainer.logger=test_owners.logger_that_is_not_built"])
        assert files(out) == {".owner.json"}

    # Taken over amid the run: what was saved before stands. The killed process locks nobody out.
    args += ["--trainer.callbacks+=test_owners.TakenOver", f"--trainer.callbacks.folder={out}"]
    with pytest.raises(FolderInUse, match=r"run: taken over by process 7 on node2 \(training\), as this process was"):
        started([*args, "--trainer.callbacks.after=1"])
    assert not (out / "checkpoints/last.ckpt").exists()
    (out / ".owner.json").unlink()
    started([*args, "--trainer.callbacks.after=9"])
    assert read_checkpoint(str(out / "checkpoints/last.ckpt"))["global_step"] == 2
    assert not list(out.rglob(".*"))


def test_what_a_run_writes_to(tmp_path: Path) -> None:
    callbacks = [
        LastCheckpoint(str(tmp_path / "run/checkpoints")),
        BestCheckpoint(str(tmp_path / "elsewhere")),
        Submission("a", output_dir=str(tmp_path / "zips")),
        Submission("b", output_dir=str(tmp_path / "zips/deeper")),
    ]
    trainer = Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path / "run", callbacks=callbacks)
    assert set(folders_of(trainer)) == {tmp_path / "run", tmp_path / "zips", tmp_path / "elsewhere"}


def test_a_comparison_has_one_owner(tmp_path: Path) -> None:
    with held(tmp_path / "out") as pid, pytest.raises(FolderInUse, match=f"process {pid} "):
        compare({}, tmp_path / "out", [])
    assert files(tmp_path / "out") == {".owner.json"}


def clips(folder: Path, *names: str) -> dict[str, Any]:
    frames, labels = moving_square(6)
    for name in names:
        write_frames(folder / "v" / name, frames)
        write_mask(folder / "m" / f"{name}.png", labels[0])
    return {"video": folder / "v", "mask": folder / "m"}


def test_a_predicted_video_has_one_owner(model: VOSModule, tmp_path: Path) -> None:
    data, out = clips(tmp_path, "a", "b"), tmp_path / "out"
    with held(out / "masks/a") as pid:
        module = predict(model, out, **data)
        assert list(module.problems) == ["a"]
        assert f"a: in use by process {pid} on " in str(module.problems["a"])
        assert files(out / "masks/a") == {".owner.json"}
        assert len(written(out, "b")) == 6
        alone = {"video": data["video"] / "a", "mask": data["mask"] / "a.png"}
        with pytest.raises(FolderInUse, match=f"process {pid} "):
            predict(model, out, **alone)
    assert predict(model, out, **data).problems == {}
    assert files(out / "masks") == {f"{name}/{t:05d}.png" for name in "ab" for t in range(6)}


def test_a_prediction_that_was_taken_over_stops(model: VOSModule, tmp_path: Path) -> None:
    data, out = clips(tmp_path, "a", "b"), tmp_path / "out"
    module = predict(model, out, TakenOver(str(out / "masks/a"), 3), **data)
    assert "a: taken over by process 7 on node2" in str(module.problems["a"])
    assert files(out / "masks/a") == {".owner.json", *(f"{t:05d}.png" for t in range(3))}
    assert len(written(out, "b")) == 6


def test_a_folder_made_for_nothing_goes_again(tmp_path: Path) -> None:
    with Lease(tmp_path / "a/b", "training"):
        assert files(tmp_path) == {"a/b/.owner.json"}
    assert not (tmp_path / "a/b").exists()


# ---------------------------------------------------------------- read as written


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "last.ckpt"
    state = {f"w{i}": torch.randn(20, 20) for i in range(40)}
    content = {"method": "REMN", "network": "REMNSegmenter", "state_dict": state, "hyper_parameters": {}}
    AtomicCheckpointIO().save_checkpoint(content, path)
    return path


@pytest.mark.parametrize("how", ["scattered", "together", "shorter", "longer"])
def test_bytes_that_changed_are_refused(how: str, checkpoint: Path, tmp_path: Path) -> None:
    whole, rng, path = checkpoint.read_bytes(), random.Random(0), tmp_path / "last.ckpt"
    starts = [0, 1, 40, len(whole) - 64, len(whole) - 100, *(rng.randrange(len(whole) - 64) for _ in range(60))]
    for start in starts:
        content = bytearray(whole)
        places = rng.sample(range(len(whole)), 64) if how == "scattered" else range(start, start + 64)
        for place in places if how in ("scattered", "together") else ():
            content[place] ^= 0xFF
        path.write_bytes(content[:start] if how == "shorter" else content + whole[:start] * (how == "longer"))
        if how == "longer" and start == 0:
            continue
        with pytest.raises(ValueError, match=r"last\.ckpt: cannot be read as a checkpoint \(.*damaged"):
            read_checkpoint(str(path))
        with pytest.raises((ValueError, RuntimeError, EOFError, pickle.UnpicklingError)):
            AtomicCheckpointIO().load_checkpoint(path, weights_only=True)


def test_what_is_whole_is_read(checkpoint: Path, tmp_path: Path) -> None:
    state = read_checkpoint(str(checkpoint))["state_dict"]
    foreign = tmp_path / "foreign.ckpt"
    torch.save(torch.load(checkpoint, weights_only=True), foreign)
    assert all(torch.equal(value, state[name]) for name, value in read_checkpoint(str(foreign))["state_dict"].items())
    content = bytearray(foreign.read_bytes())
    place = content.index(state["w7"].numpy().tobytes())
    content[place + 100] ^= 1  # torch.load would not say a word
    foreign.write_bytes(content)
    assert torch.load(foreign, weights_only=True)
    with pytest.raises(ValueError, match="its checksum is not that of its content"):
        read_checkpoint(str(foreign))


def test_a_snapshot_that_changed_is_not_gone_on_from(tmp_path: Path) -> None:
    record = PredictionRecord(tmp_path, "clip", lambda place: "x")
    record.begin()
    record.save((0, 4), {"state": torch.zeros(1000)})
    assert record.load("cpu") is not None
    ((snapshot, place),) = record.snapshots()
    assert place == (0, 4)
    content = bytearray(snapshot.read_bytes())
    content[content.index(bytes(4000)) + 17] ^= 1
    snapshot.write_bytes(content)
    assert record.load("cpu") is None


# ---------------------------------------------------------------- a full disk


def _save_checkpoint(path: Path) -> None:
    AtomicCheckpointIO().save_checkpoint({"w": torch.randn(100_000)}, path)


def _save_mask(path: Path) -> None:
    save_palette_png(path, torch.randint(0, 255, (300, 300), dtype=torch.uint8))


def _add_mask(path: Path) -> None:
    PredictionRecord(path.parent, "clip", lambda place: "x").add(path, bytes(100_000))


def _save_table(path: Path) -> None:
    _write_csv(path, ("a", "b"), [("1", "2")] * 50_000)


def _save_snapshot(path: Path) -> None:
    with unfinished(path) as beside:
        checksum.save(torch.randn(100_000), beside)


@pytest.mark.parametrize("save", [_save_checkpoint, _save_mask, _add_mask, _save_table, _save_snapshot])
def test_a_full_disk_leaves_the_old_file(save: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "file.png"
    path.write_bytes(b"old")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="not written, the file is too large; make room") as caught:
            save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert caught.value.filename == str(path)
    assert "\n" not in str(caught.value)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"file.png": b"old"}


# ---------------------------------------------------------------- faults that pass


class Failing(io.FileIO):
    """Fails to read as often as it is told to, then reads."""

    left, number = 0, errno.ESTALE

    def readinto(self, buffer: Any) -> int:
        if Failing.left > 0:
            Failing.left -= 1
            raise OSError(Failing.number, "Stale file handle")
        return super().readinto(buffer)


@pytest.mark.parametrize(
    ("times", "number", "kind"),
    [(3, errno.ESTALE, None), (2, errno.EIO, None), (9, errno.EIO, PassingFault), (1, errno.EACCES, PermissionError)],
)
def test_pictures_are_read_again(
    times: int, number: int, kind: type[Exception] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patient_file, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(io, "FileIO", Failing)
    path = tmp_path / "a.png"
    picture = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(picture).save(path)
    monkeypatch.setattr(Failing, "left", times)
    monkeypatch.setattr(Failing, "number", number)
    if kind is None:
        assert np.array_equal(read_image(path), picture)
    else:
        with pytest.raises(kind, match=r"a\.png") as caught:
            read_image(path)
        assert passes(caught.value) is (kind is PassingFault)


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), True),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), True),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Segmentation fault. "), False),
        (RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:5] Connection closed by peer [::1]:7"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (FileNotFoundError("a: no such file"), False),
        (ValueError("a: damaged"), False),
    ],
)
def test_which_faults_pass(error: Exception, passing: bool) -> None:
    assert passes(error) is passing
