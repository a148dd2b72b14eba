"""Lightning VOS: semi-supervised video object segmentation with PyTorch Lightning.

Methods are imported when they are asked for: ``lightning_vos.REMN``. The networks need torch alone; what trains them
needs Lightning.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_vos.module import VOSModule
    from lightning_vos.segmenter import Segmenter

__all__ = ["Segmenter", "VOSModule", "load"]


def __getattr__(name: str) -> Any:
    """A class of an installed method, or one of the two bases."""
    if name == "Segmenter":
        from lightning_vos.segmenter import Segmenter

        return Segmenter
    if name == "VOSModule":
        from lightning_vos.module import VOSModule

        return VOSModule
    if name[:1].isupper():  # a class; what is written small is a module, which the import system finds
        from lightning_vos.discovery import installed

        offers = installed()
        if name in offers:
            return offers[name]()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(path: str, **settings: Any) -> Segmenter:
    """The network of a checkpoint, whichever method it belongs to: on the CPU, in evaluation mode.

    Args:
        path: a checkpoint that training, the import of released weights, or an average has written.
        **settings: settings of the network that are to differ from those it was trained with, such as ``capacity=30``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is something else, or damaged, or of a method that is not installed.
    """
    from lightning_vos.checkpoint import read_checkpoint, restore

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; give a checkpoint (.ckpt)")
    checkpoint = read_checkpoint(path)
    return restore(checkpoint, path, checkpoint["network"], settings)
