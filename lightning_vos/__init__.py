"""Lightning VOS: semi-supervised video object segmentation with PyTorch Lightning."""

from lightning_vos.methods.dmm_net import DMMNet
from lightning_vos.methods.hmmn import HMMN
from lightning_vos.methods.remn import REMN
from lightning_vos.methods.siam_dyn import SiamDyn
from lightning_vos.module import VOSModule

__all__ = ["HMMN", "REMN", "DMMNet", "SiamDyn", "VOSModule"]
