"""What this machine computes fastest with."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

PRECISIONS = ("bf16-mixed", "32-true", "16-mixed", "bf16-true", "16-true", "64-true")  # of Lightning's trainer


def default_precision() -> str:
    """``bf16-mixed`` where a GPU is, or the processor computes with bfloat16; else ``32-true``."""
    return "bf16-mixed" if _gpu() or _bfloat16_processor() else "32-true"


def job_precision(gpus: int) -> str:
    """Of a job, whose nodes this machine knows nothing of."""
    return "bf16-mixed" if gpus else "32-true"


def _gpu() -> bool:
    # nvidia-smi answers at once, where PyTorch would first have to be imported
    return (
        bool(shutil.which("nvidia-smi"))
        and not subprocess.run(
            ["nvidia-smi", "-L"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
        ).returncode
    )


def _bfloat16_processor() -> bool:
    try:
        return re.search("avx512_bf16|amx_bf16", Path("/proc/cpuinfo").read_text(encoding="utf-8")) is not None
    except OSError:
        return False
