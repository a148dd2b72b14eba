"""Released networks, ``<name>.safetensors`` with a model card ``<name>.md`` beside each, and where a checkpoint is.

Wherever a checkpoint is asked for, :func:`locate` says what may be given: a name or a path. Spelling alone tells one
from the other, so that what lies in the working directory never changes what is meant.
"""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent
ENDING = ".safetensors"


def released() -> dict[str, Path]:
    """The files of the released networks by their names, which are those of the methods' folders (``dmm_net``)."""
    return {path.stem: path for path in sorted(FOLDER.glob(f"*{ENDING}"))}


def is_name(given: str) -> bool:
    """Whether this is a name: a path has a slash or a dot in it (``./remn``, ``remn.ckpt``)."""
    return bool(given) and os.sep not in given and "." not in given


def locate(given: str, option: str = "", advice: str = "give a checkpoint (.ckpt, .safetensors)") -> str:
    """The file that is meant by the name of a released network, or by a path.

    Args:
        given: a name, or a path; see :func:`is_name`.
        option: what stands before it on the command line, such as ``--ckpt_path=``, for the message.
        advice: what to do where there is no such file, likewise.

    Raises:
        FileNotFoundError: no released network has this name, naming those there are; or there is no such file.
    """
    if is_name(given):
        found = released()
        if given not in found:
            path = f"; the file of this name here is ./{given}" if Path(given).is_file() else ""
            raise FileNotFoundError(
                f"{option}{given}: no released network of this name; released are: {', '.join(found) or 'none'}{path}"
            )
        return str(found[given])
    if not Path(given).is_file():
        raise FileNotFoundError(f"{option}{given}: no such file; {advice}")
    return given
