"""HMMN: hierarchical memory matching network."""

from lightning_vos.discovery import lazily

__all__ = ["HMMN", "HMMNSegmenter"]
__getattr__ = lazily(__name__, HMMN="module", HMMNSegmenter="segmenter")
