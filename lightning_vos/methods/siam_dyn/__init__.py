"""SiamDyn: Siamese dynamic mask estimation network."""

from lightning_vos.methods.siam_dyn.module import SiamDyn

__all__ = ["SiamDyn"]
