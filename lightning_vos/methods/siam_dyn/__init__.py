"""SiamDyn: Siamese dynamic mask estimation network."""

from lightning_vos.discovery import lazily

__all__ = ["SiamDyn", "SiamDynSegmenter"]
__getattr__ = lazily(__name__, SiamDyn="module", SiamDynSegmenter="segmenter")
