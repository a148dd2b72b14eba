"""REMN: robust and efficient memory network."""

from lightning_vos.discovery import lazily

__all__ = ["REMN", "REMNSegmenter"]
__getattr__ = lazily(__name__, REMN="module", REMNSegmenter="segmenter")
