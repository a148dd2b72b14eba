"""``python -m experiments.annotate``: serves the page of one video on this machine, until Ctrl-C."""

from __future__ import annotations

import argparse
import secrets
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import uvicorn

from datamodules.first_mask import read_given
from datamodules.listing import video_name
from datamodules.movies import open_movie
from experiments.annotate.propagation import Propagation
from experiments.annotate.server import application
from experiments.annotate.session import DIRECTIONS, Session
from lightning_vos.cli import run
from lightning_vos.lease import Lease
from lightning_vos.leaving import leave


def main(words: Sequence[str] | None = None) -> None:
    """Parse the command line, open the video, serve.

    Raises:
        FolderInUse: the folder is another process's.
        FileNotFoundError, ValueError: video or masks cannot be used.
    """
    args, predict = _parse(sys.argv[1:] if words is None else words)
    out, path = Path(args.out), Path(args.video)
    movie = open_movie(path, 24.0)
    with Lease(out, "annotation"), _listening(args.port) as sock:
        session = Session(movie, video_name(path), out, Propagation(predict), args.propagate, args.direction)
        try:
            begin(session, args.mask, predict)
            port, token = sock.getsockname()[1], secrets.token_urlsafe(16)
            print(f"http://127.0.0.1:{port}/{token}/  (masks go to {out}; Ctrl-C ends)", flush=True)
            config = uvicorn.Config(application(session, token, port), log_level="warning", access_log=False)
            signal.signal(signal.SIGTERM, leave)  # uvicorn closes first, and then sends itself the signal again
            with suppress(KeyboardInterrupt):
                uvicorn.Server(config).run(sockets=[sock])
        finally:
            session.close()


def begin(session: Session, mask: str, predict: Sequence[str]) -> None:
    """Give what the user has given on the command line, unless there are given masks already.

    Args:
        session: of the page.
        mask: file, folder or box; empty: nothing.
        predict: words of the prediction, which may say of which frame (``--data.frame``) or frames (``--data.masks``).
    """
    if not mask:
        return
    if session.given.ids:
        print(f"{session.given.folder}: has masks already, {mask} is not read", flush=True)
        return
    said = {word.partition("=")[0]: word.partition("=")[2] for word in predict}
    frame, masks = said.get("--data.frame"), said.get("--data.masks")
    given = read_given(Path(mask), session.movie, session.direction, frame, masks)
    for t, labels in given.items():
        session.give(t, labels)
    print(given.words, flush=True)


def _listening(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(("127.0.0.1", port))  # of this machine alone
    except (OSError, OverflowError) as error:
        raise ValueError(f"PORT={port}: {error}; give another one, or 0 for any that is free") from error
    return sock


def _parse(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser("python -m experiments.annotate", description=__doc__, allow_abbrev=False)
    parser.add_argument("--video", required=True, help="movie file or folder of frames")
    parser.add_argument("--out", required=True, help="folder of the masks")
    parser.add_argument("--mask", default="", help="given mask, folder of masks, or box=x0,y0,x1,y1 (rough)")
    parser.add_argument("--direction", default="forward", choices=DIRECTIONS)
    parser.add_argument("--propagate", required=True, metavar="YAML", help="settings over those of the prediction")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    words = [*words]
    end = words.index("--") if "--" in words else len(words)
    return parser.parse_args(words[:end]), words[end + 1 :]


if __name__ == "__main__":
    run(main)
