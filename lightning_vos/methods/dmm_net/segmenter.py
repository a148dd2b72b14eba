"""DMM-Net's network: a frame is a bag of mask proposals; templates are matched to them, what matches is refined.

Zeng et al., "DMM-Net: Differentiable Mask-Matching Network for Video Object Segmentation", ICCV 2019 (arXiv
1909.12471). ``docs/dmm_net.md`` says which number comes from where.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_vos.blocks.backbone import Stride
from lightning_vos.blocks.normalization import Norm
from lightning_vos.functional import intersection_over_union, merge_by_maximum, tight_boxes, to_float, without_autocast
from lightning_vos.methods.dmm_net.boxes import paste_masks, pool, pool_masks
from lightning_vos.methods.dmm_net.decoder import Decoder, DecoderSettings
from lightning_vos.methods.dmm_net.detector import Detector, DetectorSettings
from lightning_vos.methods.dmm_net.encoder import Encoder
from lightning_vos.methods.dmm_net.match_state import Match, MatchState
from lightning_vos.methods.dmm_net.matcher import Matcher, MatchingSettings
from lightning_vos.methods.dmm_net.official import official_state, official_trunk, read_official
from lightning_vos.segmenter import Segmenter
from lightning_vos.settings import build, overlaid

CERTAIN = 0.02  # a matched mask is never surer than that where the decoder may correct it


class Features(NamedTuple):
    """Of a frame: skips and matching maps at strides 32, 16, 8 and 4, and the fields of its ``Proposals``."""

    skip32: Tensor
    skip16: Tensor
    skip8: Tensor
    skip4: Tensor
    map32: Tensor
    map16: Tensor
    map8: Tensor
    map4: Tensor
    boxes: Tensor
    masks: Tensor
    tight: Tensor
    scores: Tensor
    valid: Tensor


class FrameQuery(NamedTuple):
    """Of the frame that is being segmented.

    Attributes:
        skips: strides 32 to 4, for the decoder.
        maps: strides 4 to 32, to pool templates from.
        pooled: ``(B, m, D)`` features of the proposals.
        proposals: ``(B, m, H, W)`` their masks, probabilities.
        scores: ``(B, m)`` of the detector, in [0, 1].
        valid: ``(B, m)`` bool.
    """

    skips: tuple[Tensor, ...]
    maps: tuple[Tensor, ...]
    pooled: Tensor
    proposals: Tensor
    scores: Tensor
    valid: Tensor


class DMMNetSegmenter(Segmenter):
    """Detector, encoder, matcher and decoder of DMM-Net.

    Args:
        trunk: of the encoder (ResNet-101 in the paper's main results); see
            :func:`~lightning_vos.blocks.backbone.build_backbone`.
        norm: ``frozen_batch`` with pretrained weights, ``group`` from scratch; of all networks.
        backbone_weights: ``imagenet``, the path of a state dict of the trunk, or null for a random start; with
            ``imagenet`` the detector's trunk starts so too, unless ``detector.weights`` are given.
        scratch_norm: of what is behind pretrained trunks and starts from scratch; null: as the trunks.
        trunk_stride: of the encoder's deepest features of its own, 16 or 32; the detector's are always 32. See
            :class:`~lightning_vos.methods.dmm_net.encoder.Encoder`.
        dim: width of skips and decoder at strides 32 and 16.
        matching_dim: channels that each of the four levels contributes to the feature of a proposal.
        detector: where the proposals come from.
        matching: how templates find their proposals.
        decoder: how the matched masks are refined.
        **kwargs: see :class:`~lightning_vos.segmenter.Segmenter`.
    """

    stride = 32
    folds_norms = True

    def __init__(
        self,
        trunk: str = "resnet50",
        norm: Norm = "frozen_batch",
        backbone_weights: str | None = None,
        scratch_norm: Norm | None = None,
        trunk_stride: Stride = 32,
        dim: int = 128,
        matching_dim: int = 128,
        detector: DetectorSettings = DetectorSettings(),
        matching: MatchingSettings = MatchingSettings(),
        decoder: DecoderSettings = DecoderSettings(),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.matching = matching
        self.refinement = decoder.refinement
        self.residual = decoder.residual
        self.decoder_masks = decoder.masks

        imagenet = backbone_weights == "imagenet" and detector.weights is None
        self.detector = Detector(detector, norm, "imagenet" if imagenet else None, scratch_norm)
        self.encoder = Encoder(trunk, norm, backbone_weights, dim, matching_dim, scratch_norm, trunk_stride)
        self.matcher: nn.Module = Matcher(matching)
        self.decoder = Decoder(dim, decoder)
        self.state = MatchState()
        self.train()  # of the detector, whatever it was built in

    def train(self, mode: bool = True) -> Self:
        """Training mode, but not of the detector: proposals are only read, and torchvision's would expect targets."""
        super().train(mode)
        self.detector.eval()
        return self

    # ---------------------------------------------------------------- the contract

    def encode(self, image: Tensor) -> Features:
        """Encoder and detector on all frames at once: ``(B, 3, H, W)``."""
        skips, maps = self.encoder(image)
        with torch.no_grad():
            found = self.detector(image)
        return Features._make([*skips, *maps, *found])

    def query(self, features: Features) -> FrameQuery:
        """Paste the proposals of the frame and pool their features."""
        skips = (features.skip32, features.skip16, features.skip8, features.skip4)
        maps = (features.map4, features.map8, features.map16, features.map32)
        height, width = features.skip4.shape[-2:]
        pasted = paste_masks(features.masks, features.boxes, (4 * height, 4 * width))
        pooled = self._pool(maps, pasted, features.tight)
        return FrameQuery(skips, maps, pooled, pasted, features.scores, features.valid)

    def segment(self, query: FrameQuery) -> Tensor:
        """Follow the templates: ``(B, K', H, W)`` probabilities."""
        started = self.tracks.started
        new = torch.tensor(self.tracks.new[:started], device=query.valid.device)
        return self.follow(query, self.tracks.present[:, :started] & ~new)

    def memorize(self, query: FrameQuery, probs: Tensor, merged: Tensor, given: Tensor | None) -> None:
        """Keep the masks; make templates of the objects that start here."""
        self.state.previous = to_float(probs)
        if given is None:
            return
        is_first = len(self.state) == 0
        pooled = self._pool(query.maps, given, tight_boxes(given > 0.5)[0].to(given.dtype))
        hidden = [(dim, *skip.shape[-2:]) for dim, skip in zip(self.decoder.dims, query.skips, strict=True)]
        self.state.grow(pooled, to_float(given), hidden, self.tracks.new)
        if is_first:  # the decoder's hidden states start from the given masks
            self.follow(query, self.tracks.present)

    def merge(self, probs: Tensor) -> Tensor:
        """Background is what no object claims."""
        return merge_by_maximum(probs)

    # ---------------------------------------------------------------- one frame

    def follow(self, query: FrameQuery, followed: Tensor) -> Tensor:
        """Match, then refine.

        Args:
            query: of the frame.
            followed: ``(B, K)`` bool, templates that take part.

        Returns:
            ``(B, K, H, W)`` probabilities.
        """
        match = self.match(query, followed)
        probs = self.refine(query.skips, self.shown(match), followed) if self.refinement else match.masks.clamp(0, 1)
        if self.training:
            self.state.clip.append((match, probs))
        return probs

    def match(self, query: FrameQuery, followed: Tensor) -> Match:
        """Compare templates with proposals by features, overlap and score, and blend what matches."""
        state, proposals = self.state, query.proposals
        state.proposals = proposals
        with without_autocast(query.pooled):  # which is best may hang on the third digit
            features = F.normalize(to_float(query.pooled), dim=2)
            cosine = F.normalize(to_float(state.features), dim=2) @ features.transpose(1, 2)
            overlap = intersection_over_union(state.previous > 0.5, proposals > 0.5).to(cosine.dtype)
            similarity = torch.lerp(cosine, overlap, self.matching.overlap_weight)
            similarity = similarity + self.matching.score_weight * query.scores.unsqueeze(1)
            weights = self.matcher(similarity, followed, query.valid)
        return Match(followed, cosine, weights, proposals, query.valid, blend(weights, proposals))

    def shown(self, match: Match) -> Tensor:
        """``(B, K, H, W)`` what the decoder sees as the matched masks."""
        return match.masks

    def refine(self, skips: Sequence[Tensor], matched: Tensor, followed: Tensor) -> Tensor:
        """Decode the masks of all objects ``(B, K, H, W)`` into their probabilities."""
        masks = {"previous": self.state.previous, "first": self.state.first, "matched": matched}
        stacked = torch.stack([masks[name] for name in self.decoder_masks], dim=2)
        logits, self.state.hidden = self.decoder(skips, stacked, self.state.hidden, followed)
        if self.residual:
            logits = logits + torch.logit(matched.clamp(CERTAIN, 1 - CERTAIN))
        return torch.sigmoid(to_float(logits))

    def _pool(self, maps: Sequence[Tensor], masks: Tensor, boxes: Tensor) -> Tensor:
        """``(B, n, D)`` features of masks ``(B, n, H, W)`` whose boxes are ``(B, n, 4)``."""
        return pool_masks(maps, masks) if self.matching.pooling == "mask" else pool(maps, boxes)

    # ---------------------------------------------------------------- the released weights

    @classmethod
    def from_official(cls, *paths: str, **settings: Any) -> Self:
        """The network with the authors' released weights, in evaluation mode; the files say which trunk.

        Args:
            paths: one file with entries ``encoder.*`` and ``decoder.*``, or encoder and decoder without these prefixes
                in two files, in any order.
            **settings: of the constructor; of a part also as a dict of what is to differ, such as
                ``detector={"weights": "coco"}``: the released files hold no detector. The matcher is by default what
                the weights were trained with.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file is something else or damaged, entries are missing, unexpected or of other shapes, or a
                setting that there is not.
        """
        released = read_official(*paths)
        fitting = {"trunk": official_trunk(released), "matching": {"matcher": "official"}}
        model = build(cls, overlaid(fitting, settings))
        state = model.state_dict()
        model.load_state_dict({**state, **official_state(released, state, " and ".join(paths))})
        if model.detector.settings.weights is None:
            warnings.warn(
                "the released files hold no detector, so the proposals are random: give --model.detector.weights=coco "
                "(or a file), or train them with lightning_vos.DMMNetProposals",
                stacklevel=2,
            )
        return model.eval()


def blend(weights: Tensor, proposals: Tensor) -> Tensor:
    """Weights ``(B, K, m)`` of masks ``(B, m, H, W)`` to their sums ``(B, K, H, W)``."""
    return (weights @ proposals.flatten(2)).unflatten(2, proposals.shape[2:])
