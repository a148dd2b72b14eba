"""Kills runs at random moments, again and again, and looks whether they end as if undisturbed.

Run by hand: ``PYTHONPATH=tests python -m tests.random_kills --kills 100``. All methods, one process and two (gloo,
started as Slurm starts them), a loader's process for each, a tiny network: SIGKILL, SIGTERM and SIGUSR1 in turn, to one
process or to all, while it starts, trains, saves or validates; then the same command again. In the end weights and
optimiser are those of an undisturbed run to the last bit, and every step has seen the clips that it sees there.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import sys
import tempfile
import time
import traceback
from argparse import ArgumentParser
from collections import Counter
from pathlib import Path

import torch
import yaml
from interruption import differences
from tiny_runs import METHODS, ROOT, commands, small_model, started, tiny, training, write_tiny_demo

from lightning_vos.checkpoint import read_checkpoint

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1)
STOPPED = 75
PATIENCE = 600  # seconds after which a life hangs
PARTS = ("state_dict", "optimizer_states", "lr_schedulers", "global_step")


class Run:
    """A run of a few tiny steps, saved after every second: the file is being written for much of the time.

    Args:
        method: what is trained.
        demo: the data.
        out: folder of the run.
        steps: its length; validated after every twentieth.
        processes: that share a batch.
        workers: of the loader of each process.
    """

    def __init__(self, method: str, demo: Path, out: Path, steps: int, processes: int = 1, workers: int = 0) -> None:
        self.out, self.steps, self.processes, self.every = out, steps, processes, 2
        (command,) = commands("video", f"METHOD={method}", "DATA=demo")
        callbacks = yaml.safe_load((ROOT / "experiments/base.yaml").read_text())["trainer"]["callbacks"]
        for callback in callbacks:
            if callback["class_path"] == "callbacks.LastCheckpoint":
                callback["init_args"]["every_n_train_steps"] = self.every
        callbacks.append({"class_path": "interruption.Interruption"})
        out.mkdir(parents=True, exist_ok=True)
        (out / "mine.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
        options = [*small_model(method), *tiny(demo, out, steps), *training(processes), f"--config={out}/mine.yaml"]
        options += [f"--data.num_workers={workers}", f"--trainer.devices={processes}"]
        self.arguments = [*command, *options, "--trainer.val_check_interval=20"]

    @property
    def saved(self) -> int:
        """Step of the newest state; it can be read in any case."""
        path = self.out / "checkpoints" / "last.ckpt"
        return int(read_checkpoint(str(path))["global_step"]) if path.exists() else 0

    def begun(self, rank: int = 0) -> list[tuple[int, str]]:
        """Steps that were begun, in order, over all starts, each with a checksum of its clips."""
        path = self.out / (f"clips-{rank}.txt" if rank else "clips.txt")
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(step), checksum) for step, checksum in map(str.split, lines)]

    def life(self, number: signal.Signals | None = None, rng: random.Random | None = None) -> list[int]:
        """Start the run, or go on with it, and send a signal at a random moment; the statuses of its processes."""
        processes = Processes(self)
        if number is not None and rng is not None:
            self._wait(processes, rng)
            ranks = range(self.processes) if rng.random() < 0.5 else [rng.randrange(self.processes)]
            for rank in ranks:
                processes.send(rank, number)
        return processes.wait()

    def _wait(self, processes: Processes, rng: random.Random) -> None:
        if rng.random() < 0.2:  # on the way to the first step
            time.sleep(rng.uniform(0, 0.5))
            return
        end, target = time.monotonic() + PATIENCE, len(self.begun()) + rng.randint(1, 5)
        while processes.alive and len(self.begun()) < target and time.monotonic() < end:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.15))

    def faults_of(self, statuses: list[int], sent: signal.Signals) -> list[str]:
        """What is wrong after a life that a signal has ended."""
        faults = [f"status {s} after {sent.name}" for s in statuses if s not in (0, STOPPED, -sent, -signal.SIGKILL)]
        last = self.begun()[-1][0] if self.begun() else 0
        if STOPPED in statuses and self.saved != last:
            faults.append(f"stopped after step {last}, but saved step {self.saved}")
        if last - 1 - self.saved > self.every:  # whether the last step was done is not known
            faults.append(f"killed in step {last}, but saved step {self.saved}")
        return faults

    def faults_beside(self, whole: Run) -> list[str]:
        """Where the finished run is not the undisturbed one."""
        one, other = (torch.load(run.out / "checkpoints/last.ckpt", weights_only=True) for run in (whole, self))
        faults = [line for part in PARTS for line in differences(one[part], other[part], part)]
        for rank in range(self.processes):
            clips = whole.begun(rank)
            if [step for step, _ in clips] != list(range(1, self.steps + 1)):
                faults.append(f"rank {rank}: the undisturbed run has begun other steps than 1 to {self.steps}")
            if set(clips) != set(self.begun(rank)):  # a step that was begun again has seen the same clips again
                faults.append(f"rank {rank}: other clips")
        left = [path.name for path in (self.out / "checkpoints").glob(".*")]
        return faults + [f"left over: {name}" for name in left]


class Processes:
    """The processes of a run: forks of this one, which spares the imports, supervised as ``srun`` does."""

    def __init__(self, run: Run) -> None:
        self.statuses: dict[int, int] = {}
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        ranks = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"} if run.processes > 1 else {}
        self.children = [
            _fork(run.arguments, run.out / f"log-{rank}.txt", {**ranks, "LOCAL_RANK": str(rank)} if ranks else {})
            for rank in range(run.processes)
        ]

    @property
    def alive(self) -> bool:
        """Whether none has ended."""
        for child in self.children:
            if child not in self.statuses and (found := os.waitpid(child, os.WNOHANG))[0]:
                self.statuses[child] = os.waitstatus_to_exitcode(found[1])
        return not self.statuses

    def send(self, rank: int, number: signal.Signals) -> None:
        """A signal to one of them, unless it has ended."""
        if self.alive or self.children[rank] not in self.statuses:
            os.kill(self.children[rank], number)

    def wait(self) -> list[int]:
        """Their statuses; when one has failed the others are killed, and at the end what they had started."""
        end = time.monotonic() + PATIENCE
        while len(self.statuses) < len(self.children):
            time.sleep(0.005)
            failed = not self.alive and any(status not in (0, STOPPED) for status in self.statuses.values())
            if failed or time.monotonic() > end:
                for child in set(self.children) - set(self.statuses):
                    os.kill(child, signal.SIGKILL)
                    self.statuses[child] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for child in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # loaders
        if time.monotonic() > end:
            raise TimeoutError(f"still running after {PATIENCE} s")
        return [self.statuses[child] for child in self.children]


def _fork(arguments: list[str], log: Path, environment: dict[str, str]) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setpgid(0, 0)
        os.environ |= environment
        with log.open("a") as file:
            os.dup2(file.fileno(), 2)
        started(arguments)
        status = 0
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def disturb(whole: Run, run: Run, kills: int, rng: random.Random) -> tuple[Counter[str], list[str]]:
    """Kill ``run`` so often, let it end, and compare it with ``whole``; how its lives ended, and faults."""
    ends: Counter[str] = Counter()
    faults = []
    if not whole.begun():
        faults += [f"undisturbed: status {status}" for status in whole.life() if status]
    for kill in range(kills):
        sent = SIGNALS[kill % len(SIGNALS)]
        statuses = run.life(sent, rng)
        faults += [f"kill {kill + 1}: {fault}" for fault in run.faults_of(statuses, sent)]
        ends[f"{sent.name} {statuses}"] += 1
    faults += [f"to the end: status {status}" for status in run.life() if status]
    return ends, faults + run.faults_beside(whole)


def main() -> int:
    """Spread the kills over methods and numbers of processes; 1 if anything was not as it should be."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    os.environ |= {"WANDB_MODE": "disabled", "NO_ALBUMENTATIONS_UPDATE": "1", "OMP_NUM_THREADS": "1"}
    kinds = [(method, processes) for method in given.methods for processes in (1, 2)]
    lost = 0
    with tempfile.TemporaryDirectory() as folder:
        demo = write_tiny_demo(Path(folder) / "data")
        for number, (method, processes) in enumerate(kinds):
            kills = given.kills * (number + 1) // len(kinds) - given.kills * number // len(kinds)
            runs = [
                Run(method, demo, Path(folder) / f"{method}-{processes}-{name}", given.steps, processes, workers=1)
                for name in ("whole", "killed")
            ]
            begin = time.monotonic()
            ends, faults = disturb(*runs, kills, random.Random(f"{given.seed} {method} {processes}"))
            begun = len(runs[1].begun())
            print(
                f"{method}, {processes} processes: {kills} kills, {begun} steps begun for {given.steps}, "
                f"{time.monotonic() - begin:.0f} s; {'; '.join(faults) or 'equal to the last bit'}",
                *(f"    {count} x {end}" for end, count in sorted(ends.items())),
                sep="\n",
                flush=True,
            )
            if faults:
                for rank in range(processes):
                    print((runs[1].out / f"log-{rank}.txt").read_text()[-3000:])
            lost += len(faults)
    print(f"{given.kills} kills: {lost or 'no'} faults")
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main())
