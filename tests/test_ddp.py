"""What several processes compute is what one computes: the gradient of a step and the score of an evaluation."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from omegaconf import OmegaConf
from tiny_runs import METHODS, ROOT, commands, small_model, started, tiny, training, write_tiny_demo
from torch import Tensor

pytestmark = pytest.mark.slow

CLIPS = 8


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_demo(tmp_path_factory.mktemp("data"))


class Gradients(Callback):
    """Writes the gradient of a step, averaged over devices and before it is clipped, to ``gradients.pt``."""

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if trainer.is_global_zero:
            gradients = {name: p.grad for name, p in pl_module.named_parameters() if p.requires_grad}
            torch.save(gradients, Path(trainer.default_root_dir) / "gradients.pt")


def gradients(method: str, stage: str, demo: Path, out: Path, *options: str) -> dict[str, Tensor]:
    """Of the first step, in float64."""
    (command,) = commands(stage, f"METHOD={method}", "DATA=demo")
    args = [*command, *small_model(method), *tiny(demo, out), *training(CLIPS, stage), "--trainer.limit_val_batches=0"]
    started([*args, "--trainer.precision=64-true", "--trainer.callbacks=[test_ddp.Gradients]", *options])
    return torch.load(out / "gradients.pt", weights_only=True)


@pytest.mark.parametrize("stage", ["static", "video"])
@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_of_a_step_is_the_same_on_any_number_of_devices(
    method: str, stage: str, demo: Path, tmp_path: Path
) -> None:
    alone = gradients(method, stage, demo, tmp_path / "alone")
    total = torch.stack([value.norm() for value in alone.values()]).norm()
    assert len(alone) > 10
    assert total > 0
    for devices, passes in ((2, 1), (4, 1), (1, 2)):
        options = [f"--trainer.devices={devices}", f"--trainer.accumulate_grad_batches={passes}"]
        # Forks of this process: that spares them the imports.
        options += ["--trainer.strategy=ddp_fork"] if devices > 1 else []
        split = gradients(method, stage, demo, tmp_path / f"{devices}-{passes}", *options)
        assert split.keys() == alone.keys()
        for name, value in alone.items():
            # A bias before a softmax has no gradient but rounding; that is measured against the whole.
            error = (split[name] - value).norm() / torch.maximum(value.norm(), 1e-9 * total)
            assert error < 1e-6, f"{name}, {devices} devices, {passes} passes: {error:.2g}"


class Scores(Callback):
    """Writes what a validation has logged, to the last bit, to ``scores.txt``."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            names = ("J&F", "J", "F", "J_recall", "J_decay", "F_recall", "F_decay", "J&F_copied_first_mask")
            scores = [f"{name} {float(trainer.callback_metrics[f'val/{name}']).hex()}\n" for name in names]
            (Path(trainer.default_root_dir) / "scores.txt").write_text("".join(scores))


@pytest.mark.parametrize("method", METHODS)
def test_scores_are_the_same_on_any_number_of_devices(method: str, demo: Path, tmp_path: Path) -> None:
    """Three videos on 1, 2, 3 and 4 devices: shared evenly or not, one each, one device too many."""
    (command,) = commands("video", f"METHOD={method}", "DATA=demo")
    trained = [*command, *small_model(method), *tiny(demo, tmp_path / "trained"), *training()]
    started([*trained, "--trainer.limit_val_batches=0"])
    (command,) = commands("eval", f"METHOD={method}", "DATA=demo", f"CKPT={tmp_path}/trained/checkpoints/last.ckpt")
    found = []
    for devices in (1, 2, 3, 4):
        out = tmp_path / f"{devices}"
        options = ["--trainer.strategy=ddp_fork"] if devices > 1 else []
        started(
            [
                *command,
                *tiny(demo, out),
                "--trainer.callbacks+=test_ddp.Scores",
                f"--trainer.devices={devices}",
                *options,
            ]
        )
        files = sorted((out / "results").glob("*.csv"))
        found.append([(out / "scores.txt").read_text(), *(file.read_text() for file in files)])
        assert len(found[-1]) == 3
    assert found[1:] == [found[0]] * 3


# ---------------------------------------------------------------- how many processes


@pytest.mark.parametrize(
    ("cores", "gpu", "slurm", "expected"),
    [(8, False, False, 2), (1, False, False, 1), (8, True, False, 1), (8, False, True, 1)],
)
def test_processes_share_the_cores(
    cores: int, gpu: bool, slurm: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    if slurm:
        monkeypatch.setenv("SLURM_NTASKS", "1")
    assert OmegaConf.create({"devices": "${processes:2}"}).devices == expected


# ---------------------------------------------------------------- a rank that fails


class Failure(Callback):
    """Raises on the rank that ``VOS_TEST_FAIL`` names, after step 2, while the others wait for it."""

    def on_train_batch_end(self, trainer: Trainer, *args: object, **kwargs: object) -> None:
        if trainer.global_step == 2 and trainer.global_rank == int(os.environ["VOS_TEST_FAIL"]):
            raise RuntimeError("the lights went out")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_fails_ends_the_run(rank: int, demo: Path, tmp_path: Path) -> None:
    (command,) = commands("video", f"METHOD={METHODS[-1]}", "DATA=demo")
    args = [*command, *small_model(METHODS[-1]), *tiny(demo, tmp_path, 4), *training(2)]
    args += ["--trainer.devices=2", "--trainer.callbacks+=test_ddp.Failure", "--trainer.limit_val_batches=0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "VOS_TEST_FAIL": str(rank)}
    environment["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests'}"
    process = subprocess.Popen(
        [sys.executable, "-m", "lightning_vos", *args],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    printed, failed = [], 0.0
    for line in process.stderr:  # ends when the last process has closed it
        printed.append(line)
        if "the lights went out" in line and not failed:
            failed = time.monotonic()
    status = process.wait(timeout=60)
    assert failed, "".join(printed)
    assert time.monotonic() - failed < 60
    assert status != 0
    assert re.search(rf"^rank {rank} failed: RuntimeError: the lights went out$", "".join(printed), re.MULTILINE)
