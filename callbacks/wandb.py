"""Weights & Biases without surprises: offline by itself where there is no key or no network."""

from __future__ import annotations

import netrc
import os
import re
import secrets
import shlex
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import wandb
from lightning.fabric.utilities.rank_zero import rank_zero_info, rank_zero_only
from lightning.pytorch.loggers import WandbLogger
from pydantic import ValidationError
from wandb.errors import UsageError

from lightning_vos.atomic import unfinished


class AutoWandbLogger(WandbLogger):
    """WandbLogger that chooses offline mode by itself and says how to upload later.

    Offline when ``WANDB_MODE`` says so or, if that is not set, when no API key is known or the server (that of
    ``WANDB_BASE_URL``), or the proxy on the way to it, does not answer within 3 seconds. Nothing is lost offline: the
    files lie in ``<save_dir>/wandb``. With ``WANDB_MODE=disabled`` nothing is logged at all.

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
        mode = settings().mode
        reason = offline_reason()
        if mode != "disabled" and "WANDB_RUN_ID" not in os.environ and not kwargs.get("version"):
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
    there = path.read_text(encoding="utf-8", errors="replace").strip() if path.exists() else None
    if there is not None and re.fullmatch(r"[\w-]{1,64}", there, re.ASCII):
        return there
    new = secrets.token_hex(4)
    if there is not None:
        rank_zero_info(f"{path}: holds no W&B id; logging goes on as a new run, {new}")
    with unfinished(path) as beside:
        beside.write_text(f"{new}\n", encoding="utf-8")
    return new


def settings() -> wandb.Settings:
    """W&B's settings as it will read them itself: its file, then ``WANDB_...`` of the environment.

    Raises:
        ValueError: W&B does not understand them.
    """
    folder = Path(os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb")).expanduser()
    found = wandb.Settings(settings_system=str(folder / "settings"), silent=True)
    try:
        found.update_from_system_settings()
        found.update_from_env_vars(dict(os.environ))
    except ValidationError as error:
        wrong = error.errors()[0]  # without the value, which may be a secret
        variable = f"WANDB_{wrong['loc'][0]}".upper()
        raise ValueError(f"{variable}: {wrong['msg']}; correct it, or unset it") from None
    except UsageError as error:
        raise ValueError(f"W&B refuses its settings: {error}; correct the variable WANDB_..., or unset it") from None
    return found


@rank_zero_only
def offline_reason() -> str | None:
    """Why this run cannot log online, or ``None`` when it can, or is not to log at all."""
    chosen = settings()
    if chosen.mode in ("offline", "dryrun"):
        return f"WANDB_MODE={chosen.mode}"
    if chosen.mode == "disabled" or "WANDB_MODE" in os.environ:
        return None
    server = urlsplit(str(chosen.base_url))
    if not (chosen.api_key or _has_netrc_entry(server.netloc)):
        return "no API key, see `wandb login`"
    proxies: dict[str, str | None] = {"http": chosen.http_proxy, "https": chosen.https_proxy}
    proxy = proxies.get(server.scheme) or getproxies().get(server.scheme)
    direct = not proxy or proxy_bypass(server.netloc)
    asked = server if direct else urlsplit(f"{'' if '//' in str(proxy) else 'http://'}{proxy}")
    try:
        port = asked.port or (443 if asked.scheme == "https" else 80)
        socket.create_connection((asked.hostname or "", port), timeout=3).close()
    except (OSError, ValueError) as error:  # the latter: a port or a name that cannot be one
        way = "" if direct else f", the proxy for {server.hostname},"
        return f"{asked.hostname}{way} does not answer: {error}"
    return None


def _has_netrc_entry(server: str) -> bool:
    """Whether `wandb login` has stored a key for the server."""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(server) is not None
    except (OSError, netrc.NetrcParseError):
        return False
