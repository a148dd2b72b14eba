"""DMM-Net: differentiable mask-matching network."""

from lightning_vos.discovery import lazily

__all__ = ["DMMNet", "DMMNetSegmenter"]
__getattr__ = lazily(__name__, DMMNet="module", DMMNetSegmenter="segmenter")
