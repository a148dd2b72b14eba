"""Weights & Biases without surprises: offline by itself where there is no key or no network."""

from __future__ import annotations

import netrc
import os
import secrets
import shlex
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import wandb
from lightning.fabric.utilities.rank_zero import rank_zero_info, rank_zero_only
from lightning.pytorch.loggers import WandbLogger

from lightning_vos.atomic import unfinished


class AutoWandbLogger(WandbLogger):
    """WandbLogger that chooses offline mode by itself and says how to upload later.

    Offline when ``WANDB_MODE`` says so or, if that is not set, when no API key is known or the server does not answer
    within 3 seconds. Nothing is lost offline: the files lie in ``<save_dir>/wandb``.

    A folder is one W&B run, however often it is stopped and continued: its id lies in ``<save_dir>/wandb/run_id.txt``.
    ``WANDB_RUN_ID``, which the agent of a sweep sets, goes first.

    Args:
        save_dir: folder of the run.
        project: project at W&B; the environment variable ``WANDB_PROJECT`` goes first.
        name: name of the run.
        **kwargs: anything else that ``wandb.init`` takes.
    """

    def __init__(
        self, save_dir: str = ".", project: str = "lightning-vos", name: str | None = None, **kwargs: Any
    ) -> None:
        os.makedirs(save_dir, exist_ok=True)
        reason = offline_reason()
        if "WANDB_RUN_ID" not in os.environ and not kwargs.get("version"):
            kwargs["id"] = kwargs.get("id") or run_id(Path(save_dir))  # the command line hands over id=None
        super().__init__(
            save_dir=save_dir,
            project=os.environ.get("WANDB_PROJECT", project),
            name=name,
            offline=reason is not None,
            settings=wandb.Settings(silent=True, console="off"),
            **kwargs,
        )
        self._wandb_init.pop("anonymous", None)  # wandb warns of it, Lightning still passes it
        if reason is not None:
            rank_zero_info(f"W&B is offline ({reason}); upload later with: {upload_command(save_dir)}")

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log at the optimiser step ``step``, W&B's own step too: so the parts of a continued run fit together."""
        if step is None:
            super().log_metrics(metrics)
            return
        start = f"{self._prefix}{self.LOGGER_JOIN_CHAR}" if self._prefix else ""
        named = {f"{start}{name}": value for name, value in metrics.items()}
        self.experiment.log({**named, "trainer/global_step": step}, step=step)


def upload_command(save_dir: str) -> str:
    """What uploads a run that was logged offline, also in several parts: ``resume`` lets them become one run."""
    return f"WANDB_RESUME=allow wandb sync {shlex.quote(str(Path(save_dir, 'wandb')))}/offline-run-*"


@rank_zero_only
def run_id(save_dir: Path) -> str:
    """The W&B id of the run in a folder: the one that lies there, or a new one that is put there."""
    path = save_dir / "wandb" / "run_id.txt"
    if not path.exists():
        with unfinished(path) as beside:
            beside.write_text(f"{secrets.token_hex(4)}\n")
    return path.read_text().strip()


@rank_zero_only
def offline_reason() -> str | None:
    """Why this run cannot log online, or ``None`` when it can."""
    mode = os.environ.get("WANDB_MODE")
    if mode is not None:
        return f"WANDB_MODE={mode}" if mode in {"offline", "disabled", "dryrun"} else None
    settings = wandb.Settings()
    host = urlparse(settings.base_url).hostname or "api.wandb.ai"
    if not (settings.api_key or os.environ.get("WANDB_API_KEY") or _has_netrc_entry(host)):
        return "no API key, see `wandb login`"
    try:
        socket.create_connection((host, 443), timeout=3).close()
    except OSError as error:
        return f"{host} does not answer: {error}"
    return None


def _has_netrc_entry(host: str) -> bool:
    """Whether `wandb login` has stored a key for the server."""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False
