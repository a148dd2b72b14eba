"""A process that has imported what a prediction needs, waits for its command line, and runs it.

The command line is one line of JSON on standard input. When standard input ends, so does the process: whoever has
started it is gone. A prediction that is ended goes on at its last snapshot.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

import callbacks  # noqa: F401  named in the configuration
import datamodules  # noqa: F401
from lightning_vos.cli import main, run


def _wait_for_the_end() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _main() -> None:
    line = sys.stdin.readline()
    if line:
        threading.Thread(target=_wait_for_the_end, name="parent", daemon=True).start()
        run(lambda: main(json.loads(line)))


if __name__ == "__main__":
    _main()
