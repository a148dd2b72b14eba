"""What PyTorch and Lightning say to developers, left unsaid."""

from __future__ import annotations

import logging
import warnings


def quieten() -> None:
    """Drop notices to developers, and advertisements; a user can act on nothing of it."""
    for message in (
        ".*does not have many workers.*",  # two are plenty for clips of this size, and a video decodes its own frames
        ".*exists and is not empty.*",  # that is how a run is continued
        ".*The dirpath has changed from.*",  # an evaluation has a folder of its own
        ".*LightningCLI's args parameter is intended.*",
        ".*there is no last checkpoint available.*",  # that is how a run begins
        ".*`isinstance.treespec, LeafSpec.`.*",
        ".*callbacks used to create the checkpoint need.*",  # they save checkpoints, and a prediction saves none
        ".*predict returned None.*",  # masks are written, not gathered
        r".*module\(s\) in eval mode at the start of training.*",  # statistics and detectors that are frozen on purpose
        ".*`srun` command is available on your system but is not used.*",  # a login node; see check_tasks
    ):
        warnings.filterwarnings("ignore", message=message)
    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.rank_zero",
        "lightning.pytorch.trainer.connectors.signal_connector",
    ):
        logging.getLogger(name).addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    # Lightning's requeue gives way to that of LastCheckpoint.
    old = ("\N{ELECTRIC LIGHT BULB} Tip", "TPU available", "HPU available", "SLURM auto-requeueing enabled")
    return not record.getMessage().startswith(old)
