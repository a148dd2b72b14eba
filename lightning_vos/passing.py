"""Faults that pass: a file server that is away, a process that the kernel has ended, a rank that is gone.

They are no mistake of the user, and the same run started again goes on from what it has saved last.
"""

from __future__ import annotations

import errno

AGAIN = 75  # exit status of a run that is worth another start: EX_TEMPFAIL
PASSING = {errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.EREMOTEIO, errno.ENOTCONN, errno.EHOSTDOWN, errno.ECONNRESET}
_WORKER = ("exited unexpectedly", "killed by signal: Killed", "killed by signal: Bus error")
_RANK = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")


class PassingFault(OSError):
    """A file could not be read, for a reason that may be gone the next time; with nothing but a message.

    From a loader's process an error arrives as its class and its message: the number of an ``OSError`` is lost.
    """


def passes(error: BaseException) -> bool:
    """Whether the same run, started again, may get past this error."""
    if isinstance(error, OSError):
        return isinstance(error, PassingFault) or error.errno in PASSING
    if not isinstance(error, RuntimeError):
        return False
    said = str(error)
    if said.startswith("DataLoader worker"):
        return any(words in said for words in _WORKER)
    distributed = type(error).__name__ in ("DistBackendError", "DistNetworkError") or "gloo" in said
    return distributed and any(words in said for words in _RANK)
