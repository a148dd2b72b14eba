"""Lightning VOS: semi-supervised video object segmentation with PyTorch Lightning."""

from pathlib import Path
from typing import Any

from lightning_vos.checkpoint import read_checkpoint
from lightning_vos.methods.dmm_net import DMMNet
from lightning_vos.methods.hmmn import HMMN
from lightning_vos.methods.remn import REMN
from lightning_vos.methods.siam_dyn import SiamDyn
from lightning_vos.module import VOSModule

__all__ = ["HMMN", "REMN", "DMMNet", "SiamDyn", "VOSModule", "load"]


def load(path: str, **settings: Any) -> VOSModule:
    """The network of a checkpoint, whichever method it belongs to: on the CPU, in evaluation mode.

    Args:
        path: a checkpoint that training, the import of released weights, or an average has written.
        **settings: arguments of the method that are to differ from those it was trained with, such as ``capacity=30``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is something else, or damaged, or of a method that is not there.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; give a checkpoint (.ckpt)")
    methods: dict[str, type[VOSModule]] = {"DMMNet": DMMNet, "HMMN": HMMN, "REMN": REMN, "SiamDyn": SiamDyn}
    method = read_checkpoint(path)["method"]
    if method not in methods:
        raise ValueError(f"{path} belongs to {method}, which is none of {', '.join(methods)}")
    return methods[method].load_from_checkpoint(path, map_location="cpu", **settings).eval()
