"""HMMN: hierarchical memory matching network."""

from lightning_vos.methods.hmmn.module import HMMN

__all__ = ["HMMN"]
