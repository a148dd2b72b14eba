"""Whether a job is queued again: by its exit status, by what it has saved, and not for ever."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tiny_runs import EXPERIMENTS

LIFE = """
source {script}
SLURM_JOB_ID=7
for start in {starts}; do
    before=$(saved {folder})
    [ "${{start#*+}}" = "$start" ] || {{ touch {last}.new; mv {last}.new {last}; }}
    again "${{start%+}}" {folder} "$before" && echo AGAIN || echo END
done
"""


@pytest.mark.parametrize(
    ("starts", "said"),
    [
        ("0", "END"),
        ("0+ 2 1+", "END END END"),
        ("75+ 137+ 143+ 75+ 75+ 75+ 0+", "AGAIN AGAIN AGAIN AGAIN AGAIN AGAIN END"),
        ("138 138 138 138 138 138 0+", "AGAIN AGAIN AGAIN AGAIN AGAIN AGAIN END"),
        ("75 75 75 75", "AGAIN AGAIN AGAIN END"),
        ("137 143 75 139", "AGAIN AGAIN AGAIN END"),
        ("75 75 75 75+ 75 75 75 75", "AGAIN AGAIN AGAIN AGAIN AGAIN AGAIN AGAIN END"),
        ("75 2", "AGAIN END"),
    ],
    ids=str,
)
def test_starts(starts: str, said: str, tmp_path: Path) -> None:
    """``75+``: a start that ended with 75 after it had saved."""
    (tmp_path / "checkpoints").mkdir()
    last = tmp_path / "checkpoints/last.ckpt"
    life = LIFE.format(script=EXPERIMENTS / "slurm/job.sh", starts=starts, folder=tmp_path, last=last)
    done = subprocess.run(["bash", "-c", life], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line for line in lines if line in ("AGAIN", "END")] == said.split()
    assert sum(": queued again" in line for line in lines) == said.count("AGAIN")
    assert ("4 starts in a row have saved nothing: not queued again" in done.stdout) is (
        starts.endswith(("75 75 75 75", "139"))
    )
    assert not done.stderr
    assert not list(tmp_path.glob("starts-*"))
