"""What a user's mistakes look like: one line that names the place, the value and the way out."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import METHODS, ROOT, commands, small_model, started, tiny, training, write_tiny_demo
from torchvision.models import resnet18

from lightning_vos.cli import VOSCLI, last_message, run
from lightning_vos.passing import PassingFault

METHOD = "remn" if "remn" in METHODS else METHODS[0]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_demo(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def checkpoint(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the smallest network after one step of the static stage."""
    out = tmp_path_factory.mktemp("trained")
    started(arguments(demo, out, "--trainer.limit_val_batches=0"))
    return out / "checkpoints" / "last.ckpt"


def arguments(data: Path, out: Path, *options: str, stage: str = "static") -> list[str]:
    (command,) = commands(stage, f"METHOD={METHOD}", "DATA=demo")
    return [*command, *small_model(METHOD), *tiny(data, out), *training(), *options]


class Complain:
    """Runs the command line in this process and returns the one line it complains with."""

    def __init__(self, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], out: Path) -> None:
        self.patch, self.capsys, self.out = patch, capsys, out
        patch.chdir(ROOT)
        patch.delenv("VOS_TRACEBACK", raising=False)

    def __call__(self, args: list[str], trained: bool = False) -> str:
        self.patch.setattr("sys.argv", ["lightning_vos", *args])
        with pytest.raises(SystemExit) as stopped:
            run()
        assert stopped.value.code == 2
        captured = self.capsys.readouterr()
        assert "Traceback" not in captured.err
        lines = captured.err.splitlines()
        assert lines[-1] == "(VOS_TRACEBACK=1 shows where)"
        errors = [line for line in lines if line.startswith("error: ")]
        assert errors == [lines[-2]]
        assert ("step 1/" in captured.out) is trained  # what can be known before training is said before
        assert (self.out / "checkpoints").exists() is trained  # the state before the validation that failed
        return errors[0].removeprefix("error: ")


@pytest.fixture
def complain(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Complain:
    return Complain(monkeypatch, capsys, tmp_path / "run")


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("--model.lrr=3", "--model.lrr=3: lightning_vos.REMN has no such option; did you mean lr?"),
        ("--model.lr=fast", "--model.lr=fast: expected float"),
        (
            "--model.key_trunk=resnet11",
            "trunk=resnet11: there is none of that name; use resnet10, resnet18, resnet34, resnet50, resnet101, "
            "resnext101_32x8d, efficientnet_lite0, efficientnet_lite1, efficientnet_lite2 or timm/<name>",
        ),
        ("--model.capacity=many", "--model.capacity=many: expected int or null"),
        (
            "--model.class_path=lightning_vos.NONE",
            r"--model.class_path=lightning_vos.NONE: there is no NONE in lightning_vos; choose from .*REMN.*",
        ),
        ("--data.crop=large", "--data.crop=large: expected int"),
        ("--data.val.years=2017", "--data.val.years=2017: datamodules.DavisSet has no such option; .* year?"),
        ("--data.val.year=2018", "--data.val.year=2018: expected one of '2016', '2017'"),
        ("--data.crop=0", "data.crop=0 must be at least 1"),
        ("--trainer.max_step=3", "--trainer.max_step=3: no such option; did you mean --trainer.max_steps?"),
        ("--trainer.max_steps=all", "--trainer.max_steps=all: expected int"),
        ("--tariner.max_steps=1", "--tariner.max_steps=1: no such option; did you mean --trainer.max_steps?"),
        ("--trainer.max_steps=-1", "trainer.max_steps=-1: .* such as 100000"),
        ("--trainer.accumulate_grad_batches=3", "data.batch_size=2 cannot be split over .* use a multiple of 3"),
        ("--config=nowhere.yaml", "--config=nowhere.yaml: .*not exist.*"),
        ("--model.weights=nowhere.ckpt", "--model.weights=nowhere.ckpt: no such file; give a checkpoint .*"),
        ("--ckpt_path=nowhere.ckpt", "--ckpt_path=nowhere.ckpt: no such file; .* last to continue .*"),
        ("--data.root=nowhere", "data.root=nowhere: no such folder; set --data.root .*"),
        (
            "--data.val.split=dev",
            r".*ImageSets/2017/dev.txt: no such list; lists for year 2017: train, val; correct .*",
        ),
        ("--data.images=[]", "data.images is empty: .* name at least one set"),
    ],
)
def test_options(option: str, line: str, complain: Complain, demo: Path) -> None:
    assert re.fullmatch(_pattern(line), complain(arguments(demo, complain.out, option)))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("model:\n  init_args:\n    lrr: 3\n", "FILE: model.lrr: lightning_vos.REMN has no such option; .* lr?"),
        ("modle:\n  lr: 3\n", "FILE: modle: no such option; did you mean model?"),
        ("trainer:\n  max_step: 3\n", "FILE: trainer.max_step: no such option; did you mean trainer.max_steps?"),
        ("data:\n  init_args:\n    crop: large\n", "FILE: data.crop: got large, expected int"),
        (
            "data:\n  init_args:\n    videos:\n      - class_path: datamodules.DavisSet\n"
            "        init_args: {root: demo, year: 2017}\n",
            "FILE: data.videos.year: got 2017, expected one of '2016', '2017'; write it in quotes, '2017'",
        ),
        (
            "data:\n  init_args:\n    max_skip: [[0.0, 3]]\n",
            "FILE: data.max_skip: datamodules.StaticDataModule has no such option; choose from root, .*images.*",
        ),
        (
            "trainer:\n  callbacks:\n    - {class_path: callbacks.FPSLogger, init_args: {warmup: 2}}\n",
            "FILE: trainer.callbacks.warmup: callbacks.FPSLogger has no such option; did you mean warmup_videos?",
        ),
        (
            "trainer:\n  callbacks:\n    - class_path: callbacks.FPS\n",
            "FILE: trainer.callbacks: there is no FPS in callbacks; choose from .*FPSLogger.*",
        ),
        ("data: [root,\n  crop: {\n", "FILE, line [23]: not valid YAML: .*"),
    ],
)
def test_files(text: str, line: str, complain: Complain, demo: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    (command,) = commands("static", f"METHOD={METHOD}", "DATA=demo")  # options would go over what the file says
    args = [*command, f"--config={file}", f"--data.root={demo}", "--data.demo=false"]
    assert re.fullmatch(_pattern(line).replace("FILE", re.escape(str(file))), complain(args))


def test_a_set_without_a_class(complain: Complain, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("data:\n  init_args:\n    val: {root: demo}\n")
    files = ["experiments/base.yaml", "experiments/video.yaml", str(file), f"experiments/{METHOD}/model.yaml"]
    line = complain(["fit", *(f"--config={name}" for name in files)])
    assert line == f"{file}: data.val: name a subclass of datamodules.SequenceSet by class_path"


def test_what_a_data_module_fixes_is_no_option(complain: Complain) -> None:
    option = "--data.clip_length=3"
    line = complain([*commands("static", "METHOD=dmm_net", "DATA=demo")[0], option])
    assert line.startswith(f"{option}: datamodules.PictureDataModule has no such option; choose from root, batch_size")
    assert "clip_length" not in line.removeprefix(option)


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["segment"], "segment: no such command; use one of fit, validate, test, predict"),
        (["--trainer.max_steps=3"], "no command given; start with one of fit, .*, predict, then the options"),
        ([], "no command given; .*"),
    ],
)
def test_commands(args: list[str], line: str, complain: Complain) -> None:
    assert re.fullmatch(line, complain(args))


def _pattern(line: str) -> str:
    """Question marks, dots of names and brackets are meant as they are; ``.*`` is not."""
    return ".*".join(re.escape(part) for part in line.split(".*")).replace(r"\[23\]", "[23]")


# ---------------------------------------------------------------- data


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def halve(path: Path) -> None:
    with Image.open(path) as image:
        small = image.resize((image.width // 2, image.height // 2), Image.Resampling.NEAREST)
    small.save(path)


def paint(path: Path) -> None:
    with Image.open(path) as image:
        labels = np.array(image)
    labels[:5, :5] = 9
    Image.fromarray(labels).save(path)


VAL = "demo/Annotations/480p/val-00-crossing"


@pytest.mark.parametrize(
    ("path", "change", "line", "trained"),
    [
        ("demo/static/images/*.jpg", truncate, r".*/\d{5}.jpg: not a readable image .* replace the file", False),
        (
            "demo/static/masks/00001.png",
            halve,
            r".*00001.jpg is 64x64 but .*00001.png is 32x32 .* make them equal",
            False,
        ),
        ("demo/static/masks/00001.png", Path.unlink, r".* 1 of 8 pictures have no mask .*first: 00001.* add .*", False),
        (f"{VAL}/00002.png", halve, r".*00002.* 24x32 .*", False),
        (
            f"{VAL}/00002.png",
            paint,
            r".*00002.png: labels \[9\] of video 'val-00-crossing', frame 00002.* correct .*",
            True,
        ),
        (f"{VAL}/00000.png", Path.unlink, r".*val-00-crossing: 4 masks for 5 frames .*00000.* add .*", False),
        ("demo/ImageSets/2017/val.txt", lambda path: path.write_text(""), r".*'val' is empty; check .*", False),
        ("demo/static/images/*.jpg", Path.unlink, r".*", False),
    ],
    ids=["truncated", "size", "no-mask", "video-size", "stray-label", "no-first-mask", "empty-list", "no-pictures"],
)
def test_data(
    path: str, change: Callable[[Path], Any], line: str, trained: bool, complain: Complain, demo: Path, tmp_path: Path
) -> None:
    shutil.copytree(demo, tmp_path / "data")
    for file in sorted((tmp_path / "data").glob(path)):
        change(file)
    assert re.fullmatch(line, complain(arguments(tmp_path / "data", complain.out), trained=trained))


def test_image_that_breaks_off_in_a_loader_process(complain: Complain, demo: Path, tmp_path: Path) -> None:
    # The header is whole, so only reading it tells; in a process of its own that happens far from here.
    shutil.copytree(demo, tmp_path / "data")
    for file in (tmp_path / "data").glob("demo/static/images/*.jpg"):
        file.write_bytes(file.read_bytes()[:-400])
    line = complain(arguments(tmp_path / "data", complain.out, "--data.num_workers=1"))
    assert re.fullmatch(r"/\S+/\d{5}\.jpg: not a readable image \(.*truncated.*\); replace the file", line)


# ---------------------------------------------------------------- checkpoints and weights


def test_typo_beside_a_checkpoint(complain: Complain, checkpoint: Path, demo: Path, tmp_path: Path) -> None:
    (command,) = commands("eval", f"METHOD={METHOD}", "DATA=demo")
    words = [*command, *tiny(demo, tmp_path / "run"), f"--ckpt_path={checkpoint}", "--model.lrr=3"]
    assert complain(words) == "--model.lrr=3: lightning_vos.REMN has no such option; did you mean lr?"


def test_checkpoint_of_another_method(complain: Complain, checkpoint: Path, demo: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.ckpt"
    torch.save({**torch.load(checkpoint, weights_only=True), "method": "HMMN"}, other)
    (command,) = commands("eval", f"METHOD={METHOD}", "DATA=demo", f"CKPT={other}")
    assert re.fullmatch(
        f"--ckpt_path={other}: a checkpoint of HMMN, but .*model.yaml asks for .*REMN; .* --config or --ckpt_path .*",
        complain([*command, *tiny(demo, complain.out)]),
    )
    assert re.fullmatch(
        f"--model.weights={other} belongs to HMMN, not to REMN: choose --model .*",
        complain(arguments(demo, complain.out, f"--model.weights={other}", stage="video")),
    )
    assert re.fullmatch(
        f"{other} belongs to HMMN, not to REMN: choose --model .*",
        complain(arguments(demo, complain.out, f"--ckpt_path={other}")),
    )


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"half a file", b"hello", None], ids=["empty", "text", "word", "truncated"])
def test_damaged_checkpoint(
    content: bytes | None, complain: Complain, checkpoint: Path, demo: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(checkpoint.read_bytes()[:100_000] if content is None else content)
    (command,) = commands("eval", f"METHOD={METHOD}", "DATA=demo", f"CKPT={damaged}")
    for args in (
        [*command, *tiny(demo, complain.out)],
        arguments(demo, complain.out, f"--model.weights={damaged}", stage="video"),
        arguments(demo, complain.out, f"--ckpt_path={damaged}"),
    ):
        assert re.fullmatch(
            rf"{damaged}: cannot be read as a checkpoint \([A-Za-z ]+.*\); it is damaged .*", complain(args)
        )


def test_file_that_is_no_checkpoint(complain: Complain, demo: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "x.ckpt")
    (command,) = commands("eval", f"METHOD={METHOD}", "DATA=demo", f"CKPT={tmp_path}/x.ckpt")
    line = complain([*command, *tiny(demo, complain.out)])
    assert re.fullmatch(
        r".*/x.ckpt: not a checkpoint of this project, hyper_parameters, method, network not in it", line
    )


def test_other_widths(complain: Complain, checkpoint: Path, demo: Path) -> None:
    args = arguments(demo, complain.out, f"--model.weights={checkpoint}", "--model.value_dim=48")
    assert re.fullmatch(
        rf"--model.weights={checkpoint}: \d+ entries do not fit .* same model settings .*", complain(args)
    )
    args = arguments(demo, complain.out, f"--ckpt_path={checkpoint}", "--model.value_dim=48")
    line = (
        rf"{checkpoint}: does not fit .* trained with value_dim=32 instead of 48; .* another --trainer.default_root_dir"
    )
    assert re.fullmatch(line, complain(args))


def test_missing_checkpoint(complain: Complain, demo: Path) -> None:
    (command,) = commands("eval", f"METHOD={METHOD}", "DATA=demo", "CKPT=none.ckpt")
    line = complain([*command, *tiny(demo, complain.out)])
    assert line == "--ckpt_path=none.ckpt: no such file; train first, or give another checkpoint"


def test_imagenet_weights_that_cannot_be_had(complain: Complain, demo: Path, tmp_path: Path) -> None:
    complain.patch.setenv("TORCH_HOME", str(tmp_path))  # nothing downloaded earlier
    complain.patch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens: no network at once, on any machine
    options = ("--model.key_trunk=resnet18", "--model.norm=frozen_batch", "--model.backbone_weights=imagenet")
    line = complain(arguments(demo, complain.out, *options))
    assert re.fullmatch(r"backbone_weights=imagenet: https://\S+\.pth cannot be had .* copy that file here .*", line)


@pytest.mark.slow
def test_backbone_weights_of_a_file(complain: Complain, demo: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    state = resnet18().state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    options = ["--model.key_trunk=resnet18", "--model.norm=frozen_batch", "--model.lr=0"]
    weights = f"--model.backbone_weights={tmp_path}/resnet18.pth"
    cli, _ = started(arguments(demo, tmp_path / "good", *options, weights, "--trainer.limit_val_batches=0"))
    trunk = cli.model.key_encoder.state_dict()
    for theirs, ours in (("conv1.weight", "stem.0.weight"), ("layer3.1.bn2.bias", "layer3.1.bn2.bias")):
        assert torch.equal(trunk[ours], state[theirs])

    options[0] = "--model.key_trunk=resnet34"
    line = complain(arguments(demo, complain.out, *options, weights))
    assert re.fullmatch(r"backbone_weights=\S+resnet18.pth: not a resnet34 of torchvision, .*", line)
    (tmp_path / "text.pth").write_text("no weights")
    line = complain(arguments(demo, complain.out, *options, f"--model.backbone_weights={tmp_path}/text.pth"))
    assert re.fullmatch(r"backbone_weights=\S+text.pth: not a state dict .*", line)
    line = complain(arguments(demo, complain.out, *options, "--model.backbone_weights=none.pth"))
    assert re.fullmatch(r"backbone_weights=none.pth: no such file; give imagenet, .*", line)


# ---------------------------------------------------------------- from outside


@pytest.mark.slow
def test_a_process_ends_with_one_line(tmp_path: Path) -> None:
    (command,) = commands("static", f"METHOD={METHOD}", "DATA=demo")
    args = [sys.executable, "-m", "lightning_vos", *command, "--data.demo=false", f"--data.root={tmp_path}/none"]
    args += [f"--trainer.default_root_dir={tmp_path}/run", "--trainer.logger=false", "--trainer.accelerator=cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
    done = subprocess.run(args, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert re.search(r"^error: data.root=\S+/none: no such folder; .*\n\(VOS_TRACEBACK=1 .*\)\n\Z", done.stderr, re.M)
    assert not any(word in done.stderr + done.stdout for word in ("Warning", "Tip", "litlogger", "TPU"))


def test_folder_that_is_a_file(complain: Complain, demo: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = complain(arguments(demo, tmp_path / "file" / "run"))
    folder = f"trainer.default_root_dir={tmp_path}/file/run"
    assert line == f"{folder}: {tmp_path}/file is a file, not a folder; choose another folder"


def test_what_the_operating_system_says_in_one_line() -> None:
    with pytest.raises(OSError, match="Errno") as caught:
        Path("/dev/null/x").mkdir()
    assert last_message(caught.value) == "/dev/null/x: Not a directory"


def test_traceback_on_demand(monkeypatch: pytest.MonkeyPatch, demo: Path, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("VOS_TRACEBACK", "1")
    monkeypatch.setattr("sys.argv", ["lightning_vos", *arguments(demo, tmp_path, "--data.crop=0")])
    with pytest.raises(ValueError, match=r"data\.crop=0"):
        run()


@pytest.mark.parametrize(("second", "status"), [(ValueError("torn"), 1), (PassingFault("b: it does not answer"), 75)])
def test_status_of_a_folder_of_videos(second: Exception, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    data = SimpleNamespace(problems={"a": ValueError("no mask"), "b": second}, videos=3)
    with pytest.raises(SystemExit) as left:
        run(lambda: VOSCLI.after_predict(SimpleNamespace(datamodule=data)))
    assert left.value.code == status
    assert capsys.readouterr().err == f"error: 2 of 3 videos were not segmented: a (no mask); b ({second})\n"
