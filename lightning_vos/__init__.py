"""Lightning VOS: semi-supervised video object segmentation with PyTorch Lightning.

Methods are imported when they are asked for: ``lightning_vos.REMN``. The networks need torch alone; what trains them
needs Lightning.
"""

from __future__ import annotations

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
    """The network of a checkpoint, whichever method it belongs to: on the CPU, in evaluation mode, in float32.

    Args:
        path: the name of a released network, such as ``remn``; or a file: that of a network (``.safetensors``), or a
            checkpoint that training, the import of released weights, or an average has written. A path has a slash or
            a dot in it (``./remn``), a name has none.
        **settings: settings of the network that are to differ from those it was trained with, such as ``capacity=30``.

    Raises:
        FileNotFoundError: no such file, or no released network of this name.
        ValueError: the file is something else, or damaged, or of a method that is not installed.
    """
    from lightning_vos.checkpoint import read_checkpoint, restore
    from lightning_vos.networks import locate

    file = locate(path)
    checkpoint = read_checkpoint(file)
    return restore(checkpoint, file, checkpoint["network"], settings)
