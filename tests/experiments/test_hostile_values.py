"""No value of a variable ever runs as code: not in make, not in a batch file, not in a trial's script."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from test_makefile import make
from tiny_runs import ROOT

from callbacks.wandb import upload_command
from experiments.__main__ import main
from experiments.slurm import jobs

pytestmark = pytest.mark.slow

VARIABLES = re.findall(r"\w+", re.search(r"VARIABLES := ((?:.*\\\n)*.*)", (ROOT / "Makefile").read_text())[1])
# each of them would make a file, could it run
CODES = {
    "code": "a `touch PROOF` $(touch PROOF) $$(touch PROOF) $(shell touch PROOF);touch PROOF&touch PROOF|b #",
    "quotes": "a\\';touch PROOF;'\";touch PROOF;\"b\\",
    "line break": "a\ntouch PROOF\nb",
}
OF_A_JOB = [name for name in VARIABLES if name not in ("VIDEO", "MASK", "OUT", "DIRECTION", "CKPT", "CKPTS")]
OF_A_SWEEP = ("SWEEP", "COUNT", "AGENT")
STUBS = {
    "srun": 'printf "%s\\0" "$@" > "$SAID"; exit 3',
    "scontrol": "",
    "env": 'printf "%s\\0" "$@" > "$SAID"; exit 3',
}


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    return tmp_path / "proof"


def said(script: str, folder: Path) -> list[str]:
    """Run a batch file where ``srun`` only notes what it is given; that."""
    for name, does in STUBS.items():
        (folder / name).write_text(f"#!/bin/sh\n{does}\n")
        (folder / name).chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "SAID": f"{folder}/said", "SLURM_JOB_ID": "7"}
    subprocess.run(["/bin/bash"], input=script.encode(errors="surrogateescape"), env=environment, capture_output=True)
    return (folder / "said").read_bytes().decode(errors="surrogateescape").split("\0")[:-1]


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("origin", ["words", "environment"])
def test_make(origin: str, code: str, proof: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All variables at once: what make itself would run, it runs while it reads its file."""
    values = {name: CODES[code].replace("PROOF", str(proof)) for name in VARIABLES}
    if origin == "environment":
        for name, value in values.items():
            monkeypatch.setenv(name, value)
    done = make("-s", "train", *(f"{name}={value}" for name, value in values.items() if origin == "words"), check=False)
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*\nmake: .*\n", done.stderr), done.stderr
    assert not proof.exists()


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("name", OF_A_JOB)
def test_batch_files(
    name: str, code: str, proof: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Those that are refused are refused in a line; the others arrive as they are."""
    value = CODES[code].replace("PROOF", str(proof))
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("SWEEP", "me/mine/abc")
    monkeypatch.setenv("STAGE", "video")
    monkeypatch.setenv("RUNS", str(proof.parent / "runs"))
    monkeypatch.setenv(name, value)
    monkeypatch.chdir(ROOT)
    status = main(["agents" if name in OF_A_SWEEP else "slurm", "--print"])
    printed = capfd.readouterr()
    if status:
        assert status == 2
        assert re.fullmatch(r"error: .+\n", printed.err), printed.err
        return
    header = [line for line in printed.out.splitlines() if line.startswith("#SBATCH")]
    assert all(re.match('#SBATCH "?--', line) for line in header) or name == "SBATCH"
    words = said(printed.out, proof.parent)
    assert not proof.exists()
    assert any(value in word for word in words) or name not in ("DATA_ROOT", "WEIGHTS", "PRECISION", "RUN", "RUNS")


@pytest.mark.parametrize("code", CODES)
def test_a_trial(code: str, proof: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value = CODES[code].replace("PROOF", str(proof))
    script = proof.parent / "trial.sh"
    for name, text in {
        "DATA_ROOT": value if code != "line break" else "data",
        "RUNS": str(proof.parent / "runs"),
        "WANDB_SWEEP_ID": "abc",
        "WANDB_RUN_ID": "def",
        "WANDB_NOTES": value,
        "TRIAL": str(script),
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NNODES": "1",
    }.items():
        monkeypatch.setenv(name, text)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(jobs, "become", lambda command: None)
    main(["trial", "remn", "--model.lr=1e-4"])
    words = said(script.read_text(), proof.parent)
    assert f"--data.root={value}" in words or code == "line break"
    assert not proof.exists()


@pytest.mark.parametrize("name", ["WANDB_SWEEP_ID", "WANDB_RUN_ID"])
def test_a_trial_stays_in_its_folder(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for variable in ("WANDB_SWEEP_ID", "WANDB_RUN_ID"):
        monkeypatch.setenv(variable, "../../x" if variable == name else "abc")
    assert main(["trial", "remn"]) == 2
    assert capfd.readouterr().err.startswith(f"error: {name}: the name '../../x' cannot be that of a folder")


@pytest.mark.parametrize("code", CODES)
def test_the_command_that_uploads(code: str, proof: Path) -> None:
    folder = f"{proof.parent}/{CODES[code].replace('PROOF', proof.name)}"
    subprocess.run(["bash", "-c", upload_command(folder).replace("wandb sync", "true")], cwd=proof.parent, check=True)
    assert shlex.split(upload_command(folder))[3] == f"{folder}/wandb/offline-run-*"
    assert not proof.exists()


def test_quotes_that_are_not_closed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ARGS", "--data.root='my sets")
    assert main(["static", "--print"]) == 2
    assert capfd.readouterr().err == (
        'error: ARGS="--data.root=\'my sets": no closing quotation; put quotes around what belongs together\n'
    )
