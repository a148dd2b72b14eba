"""DMM-Net: differentiable mask-matching network."""

from lightning_vos.discovery import lazily

__all__ = ["DMMNet", "DMMNetProposals", "DMMNetSegmenter"]
__getattr__ = lazily(
    __name__,
    DMMNet="module",
    DMMNetProposals="detector_training",
    DMMNetSegmenter="segmenter",
    PerfectMatcher="perfect_matcher",
)
