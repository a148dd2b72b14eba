"""REMN: robust and efficient memory network."""

from lightning_vos.methods.remn.module import REMN

__all__ = ["REMN"]
