"""DMM-Net: differentiable mask-matching network."""

from lightning_vos.methods.dmm_net.module import DMMNet

__all__ = ["DMMNet"]
