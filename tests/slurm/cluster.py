"""A Slurm of one node in a temporary folder: munged, slurmctld and slurmd of the Debian packages, no systemd."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
SEARCH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
PATIENCE = float(os.environ.get("VOS_TEST_PATIENCE", "600"))  # seconds; a busy machine needs more

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=5
MinJobAge=86400
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """Programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=SEARCH) is None]


class Cluster:
    """Commands to a running cluster.

    Attributes:
        folder: where all of it lies.
        environment: what a process needs to find it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "MAKE"))},
            "PATH": SEARCH,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "MASTER_ADDR": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
        }

    def call(self, *words: str, **settings: Any) -> str:
        """Standard output of a command; it must succeed."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, **settings)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout.strip()

    def field(self, job: str, name: str) -> str:
        """What ``scontrol show job`` says of a job."""
        words = self.call("scontrol", "--oneliner", "show", "job", job).split()
        return next(word.partition("=")[2] for word in words if word.startswith(f"{name}="))

    def limit(self, job: str, minutes: int) -> None:
        """Let a job that runs, or waits to run again, end in so many minutes."""
        *days, clock = self.field(job, "RunTime").split("-")
        hours, so_far, _ = (int(part) for part in clock.split(":"))
        passed = 60 * (24 * sum(map(int, days)) + hours) + so_far
        self.call("scontrol", "update", f"JobId={job}", f"TimeLimit={passed + minutes}")

    def until(self, happened: Callable[[], Any], what: str) -> None:
        """Wait; say what was waited for when it does not come."""
        until(happened, what, self.folder)

    def finished(self, job: str) -> str:
        """Wait for the end of a job, however often it is queued again; its last state."""
        ends = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}
        self.until(lambda: self.field(job, "JobState") in ends, f"job {job} to end")
        return self.field(job, "JobState")


def until(happened: Callable[[], Any], what: str, folder: Path) -> None:
    """Wait for ``happened()``; after too long, fail with the ends of the logs."""
    end = time.monotonic() + PATIENCE
    while not happened():
        if time.monotonic() > end:
            logs = "\n".join(f"--- {path}\n{path.read_text()[-2000:]}" for path in sorted(folder.glob("*.log")))
            raise TimeoutError(f"waited {PATIENCE:.0f} s for {what}\n{logs}")
        time.sleep(0.2)


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """Start everything, stop everything; nothing is left but what the kernel forgets by itself."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short: a socket's path has 108 characters at most
    folder.chmod(0o755)
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    ports = _free_ports()
    config = CONFIG.format(
        folder=folder,
        host=socket.gethostname().partition(".")[0],
        user=getpass.getuser(),
        controller_port=ports[0],
        node_port=ports[1],
    )
    (folder / "slurm.conf").write_text(config)
    running = Cluster(folder)
    daemons: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> None:
        with (folder / f"{words[0]}.out.log").open("wb") as log:
            environment = running.environment
            daemons.append(subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True))

    try:
        files = [f"--{name}={folder}/munge.{name[:4]}" for name in ("socket", "pid-file", "log-file", "seed-file")]
        files[0] = f"--socket={folder}/munge.sock"
        start("munged", "--foreground", "--force", f"--key-file={folder}/munge.key", *files)
        until((folder / "munge.sock").exists, "munged", folder)
        start("slurmctld", "-D")
        start("slurmd", "-D", "-N", socket.gethostname().partition(".")[0])
        until(lambda: "idle" in _sinfo(running), "the node", folder)
        yield running
    finally:
        subprocess.run(["scancel", "--user", getpass.getuser()], env=running.environment, check=False)
        with contextlib.suppress(TimeoutError):
            until(lambda: not _squeue(running), "all jobs to end", folder)
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(timeout=30)
            except subprocess.TimeoutExpired:
                daemon.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _sinfo(running: Cluster) -> str:
    return subprocess.run(
        ["sinfo", "--noheader", "--format=%t"], env=running.environment, capture_output=True, text=True
    ).stdout


def _squeue(running: Cluster) -> str:
    return subprocess.run(["squeue", "--noheader"], env=running.environment, capture_output=True, text=True).stdout


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
