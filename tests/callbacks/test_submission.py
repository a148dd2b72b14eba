"""Zips for the evaluation servers: their layouts, and what the check refuses."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import small
from data_files import SIZE, block, picture, save, write_davis
from lightning import Trainer
from PIL import Image
from tiny_runs import EXPERIMENTS, commands, started, tiny

from callbacks import PALETTE
from callbacks.submission import faults
from datamodules.layouts import YouTubeVOSSet
from datamodules.sequences import EvaluationSet

SERVERS = sorted(path.stem for path in EXPERIMENTS.glob("submission/*.yaml"))
FRAMES = 4
IDS = {1: (2, 3), 7: (10, 20)}  # ids need not follow each other; object 7 starts on frame 2 where the layout allows it


def write_videos(base: Path, meta: bool, step: int = 1) -> None:
    """Two videos in the layout of YouTube-VOS, masks on the frames alone where objects start."""
    for name in ("bear", "cat"):
        stems = [f"{step * t:05d}" for t in range(FRAMES)]
        for t, stem in enumerate(stems):
            save(base / "JPEGImages" / name / f"{stem}.jpg", picture(t))
        save(base / "Annotations" / name / f"{stems[0]}.png", block({1: IDS[1]}), palette=True)
        save(base / "Annotations" / name / f"{stems[2]}.png", block({7: IDS[7]}), palette=True)
        if meta:
            objects = {"1": {"category": "x", "frames": stems}, "7": {"category": "x", "frames": stems[2:]}}
            found = json.loads((base / "meta.json").read_text()) if (base / "meta.json").exists() else {"videos": {}}
            found["videos"][name] = {"objects": objects}
            (base / "meta.json").write_text(json.dumps(found))


def write_set(server: str, root: Path) -> None:
    if server == "davis17-testdev":
        write_davis(root / "DAVIS/2017/test-dev", {"test-dev": ["bear", "cat"]}, frames=FRAMES, ids=tuple(IDS))
        for path in (root / "DAVIS").rglob("Annotations/480p/*/*.png"):
            if path.stem != "00000":
                path.unlink()
        return
    val = yaml.safe_load((EXPERIMENTS / "submission" / f"{server}.yaml").read_text())["data"]["init_args"]["val"]
    val = val["init_args"]
    write_videos(
        root / val["root"] / val["split"], meta=server == "youtube_vos", step=5 if server == "youtube_vos" else 1
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "last.ckpt"
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(small("REMN"))
    trainer.save_checkpoint(path, weights_only=True)
    return path


def submit(server: str, root: Path, out: Path, checkpoint: Path, *options: str) -> str:
    """What ``make submission`` would start, in this process."""
    (command,) = commands("submission", f"DATA={server}", "METHOD=remn", f"CKPT={checkpoint}")
    return started([*command, *tiny(root, out), *options])[1]


@pytest.mark.parametrize("server", SERVERS)
def test_layout_of_each_server(server: str, checkpoint: Path, tmp_path: Path) -> None:
    write_set(server, tmp_path / "data")
    out = tmp_path / "out"
    out.mkdir()
    (out / f"{server}.zip").write_text("of an earlier run")
    printed = submit(server, tmp_path / "data", out, checkpoint)
    assert f"checked   {out}/{server}.zip, 2 videos" in printed
    folder = "Annotations/" if server in ("youtube_vos", "lvos") else ""
    step = 5 if server == "youtube_vos" else 1
    with zipfile.ZipFile(out / f"{server}.zip") as file:
        assert sorted(file.namelist()) == [
            f"{folder}{name}/{step * t:05d}.png" for name in ("bear", "cat") for t in range(FRAMES)
        ]
        for entry in file.namelist():
            with Image.open(io.BytesIO(file.read(entry))) as mask:
                assert (mask.mode, mask.size) == ("P", SIZE[::-1])
                assert mask.getpalette() == PALETTE.ravel().tolist()
                assert set(np.unique(np.asarray(mask))) <= {0, *IDS}
        with Image.open(io.BytesIO(file.read(f"{folder}cat/00000.png"))) as first:
            starts = set(np.unique(np.asarray(first)))
        with Image.open(io.BytesIO(file.read(f"{folder}bear/{2 * step:05d}.png"))) as later:
            seen = np.asarray(later) == 7
    if server == "davis17-testdev":
        assert starts == {0, 1, 7}
    else:
        assert starts == {0, 1}
        assert np.array_equal(seen, block({7: IDS[7]}) == 7)  # as it was given
    assert not list(out.glob(".*"))


def test_frames_between_are_left_out(checkpoint: Path, tmp_path: Path) -> None:
    base = tmp_path / "data/YouTube"
    write_videos(base / "valid", meta=True, step=5)
    for name in ("bear", "cat"):
        for t in range(16):
            save(base / "valid_all_frames/JPEGImages" / name / f"{t:05d}.jpg", picture(t))
    options = ("--data.val.split=valid_all_frames", "--trainer.callbacks.every=5")
    submit("youtube_vos", tmp_path / "data", tmp_path, checkpoint, *options)
    with zipfile.ZipFile(tmp_path / "youtube_vos.zip") as file:
        assert sorted(Path(name).stem for name in file.namelist()) == sorted(2 * ["00000", "00005", "00010", "00015"])


def test_an_incomplete_submission_is_not_written(checkpoint: Path, tmp_path: Path) -> None:
    write_set("mose", tmp_path / "data")
    with pytest.raises(ValueError, match=r"mose.zip is not written, .*: cat/00000.png is missing; .* the masks are in"):
        submit("mose", tmp_path / "data", tmp_path / "out", checkpoint, "--trainer.limit_test_batches=1")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.yaml", "masks"}


# ---------------------------------------------------------------- the check


def write_masks(path: Path, change: Callable[[dict[str, Image.Image]], object]) -> None:
    """A zip as MOSE's server takes it, after ``change``."""
    masks = {}
    for name in ("bear", "cat"):
        for t in range(FRAMES):
            mask = Image.fromarray(block(IDS if t > 1 else {1: IDS[1]}))
            mask.putpalette(PALETTE.tobytes())
            masks[f"{name}/{t:05d}.png"] = mask
    change(masks)
    with zipfile.ZipFile(path, "w") as file:
        for entry, mask in masks.items():
            content = io.BytesIO()
            mask.save(content, format="PNG")
            whole = content.getvalue()
            file.writestr(entry, whole[: len(whole) // 2] if entry == "cat/00001.png" and "cut" in path.name else whole)


def painted(value: int) -> Image.Image:
    labels = block(IDS)
    labels[0, 0] = value
    mask = Image.fromarray(labels)
    mask.putpalette(PALETTE.tobytes())
    return mask


def recoloured() -> Image.Image:
    mask = Image.fromarray(block(IDS))
    mask.putpalette(PALETTE[::-1].tobytes())
    return mask


@pytest.mark.parametrize(
    ("change", "name", "fault"),
    [
        (lambda masks: None, "whole", None),
        (lambda masks: masks.pop("cat/00003.png"), "x", "cat/00003.png is missing"),
        (lambda masks: masks.update({"dog/00000.png": painted(0)}), "x", "dog/00000.png is not asked for"),
        (lambda masks: None, "cut", "cat/00001.png cannot be read"),
        (lambda masks: masks.update({"cat/00001.png": painted(0).convert("L")}), "x", "cat/00001.png is of mode L"),
        (lambda masks: masks.update({"cat/00001.png": painted(0).convert("RGB")}), "x", "cat/00001.png is of mode RGB"),
        (lambda masks: masks.update({"cat/00003.png": recoloured()}), "x", "cat/00003.png has other colours"),
        (
            lambda masks: masks.update({"cat/00003.png": painted(0).resize((30, 20))}),
            "x",
            "cat/00003.png is 20x30 instead of 24x36 (height x width)",
        ),
        (
            lambda masks: masks.update({"cat/00003.png": painted(2)}),
            "x",
            "cat/00003.png has ids [2], the objects are [1, 7]",
        ),
        (lambda masks: masks.update({"cat/00003.png": painted(255)}), "x", "cat/00003.png has ids [255]"),
        (lambda masks: masks.update({"cat/00000.png": moved_prompt()}), "x", "cat/00000.png differs from the mask"),
    ],
    ids=["whole", "missing", "extra", "cut", "grey", "rgb", "palette", "size", "id", "void", "prompt"],
)
def test_faults(
    change: Callable[[dict[str, Image.Image]], object], name: str, fault: str | None, tmp_path: Path
) -> None:
    write_set("mose", tmp_path)
    dataset = EvaluationSet(YouTubeVOSSet(root="MOSE", split="valid").videos(tmp_path))
    write_masks(tmp_path / f"{name}.zip", change)
    found = list(faults(tmp_path / f"{name}.zip", dataset))
    assert len(found) == (fault is not None)
    if fault is not None:
        assert found[0].startswith(fault)


def moved_prompt() -> Image.Image:
    """The first mask with its object moved by a pixel."""
    mask = Image.fromarray(np.roll(block({1: IDS[1]}), 1, axis=1))
    mask.putpalette(PALETTE.tobytes())
    return mask


def test_another_folder_is_refused(tmp_path: Path) -> None:
    write_set("mose", tmp_path)
    dataset = EvaluationSet(YouTubeVOSSet(root="MOSE", split="valid").videos(tmp_path))
    write_masks(tmp_path / "x.zip", lambda masks: None)
    found = list(faults(tmp_path / "x.zip", dataset, folder="Annotations"))
    assert len(found) == 4 * FRAMES  # 8 are missing, 8 are not asked for
    assert found[0] == "Annotations/bear/00000.png is missing"
    assert found[-1] == "cat/00003.png is not asked for"
