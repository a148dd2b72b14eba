"""W&B: what is logged offline in parts becomes one run; whom a run asks whether it can log online; odd ids."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import wandb
from tiny_runs import ROOT
from wandb_server import wandb_server

from callbacks import AutoWandbLogger
from callbacks.wandb import offline_reason, run_id


@pytest.mark.slow
@pytest.mark.parametrize("how", ["make sync", "what the run said"])
def test_parts_become_one_run(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("callbacks.wandb.rank_zero_info", said.append)
    runs = tmp_path / ("runs" if how == "make sync" else "my runs")
    folder = runs / "mine" / "video"
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    parts = ([1, 2, 3, 4], [3, 4, 5])  # the second goes on from a checkpoint after step 2
    for number, steps in enumerate(parts):
        time.sleep(1.1 * number)  # the folder of a part is named by the second in which it starts
        logger = AutoWandbLogger(save_dir=str(folder))
        for step in steps:
            logger.log_metrics({"train/loss": 1 / step}, step)
        wandb.finish()
    identity = (folder / "wandb" / "run_id.txt").read_text().strip()
    assert len(list((folder / "wandb").glob(f"offline-run-*-{identity}"))) == len(parts)

    upload = said[0].partition("upload later with: ")[2]
    with wandb_server() as server:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "MAKE"))}
        environment |= {
            "WANDB_BASE_URL": server.url,
            "WANDB_API_KEY": 40 * "a",
            "HOME": str(tmp_path),
            "WANDB_DIR": str(tmp_path),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        command = ["make", "sync", f"RUNS={runs}"] if how == "make sync" else ["bash", "-c", upload]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        assert set(server.history) == {identity}, done.stderr
        lines = [server.history[identity][number] for number in sorted(server.history[identity])]
    # W&B numbers the lines of a continued run on; the axis of its curves is the optimiser step.
    assert [line["trainer/global_step"] for line in lines] == [step for steps in parts for step in steps]
    assert [line["train/loss"] for line in lines] == [1 / step for steps in parts for step in steps]


@pytest.fixture
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    wandb.teardown()  # what an earlier test of this process has left open would be gone on with
    monkeypatch.setenv("HOME", str(tmp_path))  # with no .netrc and no settings of W&B
    monkeypatch.setattr("socket.getaddrinfo", lambda host, port, *args: [_address(host, port)])


def _address(host: str, port: int) -> tuple[object, ...]:
    """Every name is known, and is this machine."""
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({}, "no API key, see `wandb login`"),
        ({"WANDB_MODE": "offline"}, "WANDB_MODE=offline"),
        ({"WANDB_MODE": "disabled"}, None),
        ({"WANDB_MODE": "online"}, None),
        ({"WANDB_API_KEY": "k", "WANDB_BASE_URL": "http://wandb.lab:OPEN"}, None),
        ({"WANDB_API_KEY": "k", "WANDB_BASE_URL": "http://wandb.lab:SHUT"}, "wandb.lab does not answer: "),
        ({"WANDB_API_KEY": "k", "WANDB_BASE_URL": "https://a.b", "HTTPS_PROXY": "http://me:pw@proxy:OPEN"}, None),
        ({"WANDB_API_KEY": "k", "WANDB_BASE_URL": "https://a.b", "https_proxy": "proxy:OPEN"}, None),
        (
            {"WANDB_API_KEY": "k", "WANDB_BASE_URL": "https://a.b:OPEN", "HTTPS_PROXY": "http://me:pw@proxy:SHUT"},
            "proxy, the proxy for a.b, does not answer: ",
        ),
        (
            {
                "WANDB_API_KEY": "k",
                "WANDB_BASE_URL": "https://a.b:OPEN",
                "HTTPS_PROXY": "proxy:SHUT",
                "NO_PROXY": "a.b",
            },
            None,
        ),
        ({"WANDB_API_KEY": "k", "WANDB_BASE_URL": "http://a.b:OPEN", "HTTPS_PROXY": "proxy:SHUT"}, None),
    ],
)
def test_whom_it_asks(variables: dict[str, str], reason: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as shut:
        shut.bind(("127.0.0.1", 0))  # a port where nobody answers
        ports = {"OPEN": server.getsockname()[1], "SHUT": shut.getsockname()[1]}
        for name, value in variables.items():
            monkeypatch.setenv(name, re.sub("OPEN|SHUT", lambda match: str(ports[match[0]]), value))
        said = offline_reason()
    assert said is None if reason is None else str(said).startswith(reason)
    assert "pw" not in str(said)


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("WANDB_MODE", "of fline", "WANDB_MODE: Input should be 'online', .*; correct it, or unset it"),
        ("WANDB_BASE_URL", "my server", "WANDB_BASE_URL: Input should be a valid URL.*; correct it, or unset it"),
        ("WANDB_RUN_ID", "a/b", "W&B refuses its settings: Run ID cannot contain .*; correct .*"),
    ],
)
def test_variables_that_are_wrong(name: str, value: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"^{line}$"):
        offline_reason()


@pytest.mark.usefixtures("clean")
def test_disabled_logs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("callbacks.wandb.rank_zero_info", said.append)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    logger = AutoWandbLogger(save_dir=str(tmp_path / "run"))
    logger.log_metrics({"train/loss": 1.0}, 3)
    assert logger.experiment.disabled
    wandb.finish()
    assert said == []
    assert [*(tmp_path / "run").iterdir()] == []


@pytest.mark.parametrize(
    ("there", "kept"),
    [(b"abc-1_2\n", True), (b"", False), (b"a\nb\n", False), (b"my run\n", False), (b"../x", False), (b"\xff", False)],
)
def test_odd_ids(there: bytes, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("callbacks.wandb.rank_zero_info", said.append)
    path = tmp_path / "wandb" / "run_id.txt"
    path.parent.mkdir()
    path.write_bytes(there)
    chosen = run_id(tmp_path)
    assert (chosen == "abc-1_2") is kept
    assert re.fullmatch(r"[\w-]+", chosen)
    assert run_id(tmp_path) == chosen
    line = f"{path}: holds no W&B id; logging goes on as a new run, {chosen}"
    assert said == ([] if kept else [line])
