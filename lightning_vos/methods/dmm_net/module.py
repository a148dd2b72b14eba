"""DMM-Net: differentiable mask-matching network.

Zeng et al., "DMM-Net: Differentiable Mask-Matching Network for Video Object Segmentation", ICCV 2019 (arXiv
1909.12471). ``docs/dmm_net.md`` says which number comes from where.
"""

from __future__ import annotations

import random
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_vos.blocks.backbone import Norm, Trunk
from lightning_vos.functional import (
    EPSILON,
    intersection_over_union,
    merge_by_maximum,
    pad_to_stride,
    tight_boxes,
    to_float,
)
from lightning_vos.losses import bootstrap_fraction, bootstrapped_cross_entropy, mean_over_objects
from lightning_vos.methods.dmm_net.boxes import paste, pool, pool_masks
from lightning_vos.methods.dmm_net.losses import match_loss, soft_iou_loss
from lightning_vos.methods.dmm_net.matching import add_dummies, hungarian, relaxed_assignment
from lightning_vos.methods.dmm_net.network import Decoder, Encoder
from lightning_vos.methods.dmm_net.official import load_official, official_trunk
from lightning_vos.methods.dmm_net.proposals import ProposalNetwork
from lightning_vos.methods.dmm_net.templates import Matched, Templates
from lightning_vos.module import VOSModule
from lightning_vos.types import ClipBatch

Matcher = Literal["paper", "official", "exact", "hungarian"]
Pooling = Literal["box", "mask"]
DecoderMask = Literal["previous", "first", "matched"]
GATE = 0.01  # in training, smaller weights do not reach the matched mask
CERTAIN = 0.02  # a matched mask is never surer than that where the decoder may correct it
TRAINING_STEPS = 10  # N_grad; 40 at test time


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


class Query(NamedTuple):
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


class DMMNet(VOSModule):
    """Every frame is a bag of mask proposals; templates are matched to them, and the matched masks are refined.

    The two stages train different parts: ``trains: proposals`` (static stage) the class-agnostic detector on pictures
    with all their objects, ``trains: matching`` (video stage) encoder and decoder through the unrolled matching, with
    the detector frozen.

    Args:
        trains: see above.
        trunk: ResNet of the encoder (ResNet-101 in the paper's main results).
        norm: ``frozen_batch`` with pretrained weights, ``group`` from scratch; of all networks.
        backbone_weights: ``imagenet``, the path of a state dict of the trunk, or null for a random start; with
            ``imagenet`` the detector's trunk starts so too, unless ``proposal_weights`` are given.
        dim: width of skips and decoder at strides 32 and 16.
        matching_dim: channels that each of the four levels contributes to the feature of a proposal.
        overlap_weight: lambda, share of the IoU with the previous mask in the similarity; the rest is the cosine of the
            features.
        score_weight: what the detector's score of a proposal counts beside the similarity; nothing in the paper. Of two
            proposals of one object, the better one mostly has the higher score, and both are alike to the template.
        matcher: how templates are matched at test time: ``paper`` (40 steps of unrolled descent, last iterate),
            ``exact`` (until the optimum is clear), ``hungarian`` (the optimum, by scipy, on the host), or ``official``
            (what the released weights were trained with: the mean over unprojected iterates, whose value scales the
            mask; also in training).
        pooling: ``box``: the feature of a proposal is the mean over its box (the paper's); ``mask``: under its mask.
        absent_similarity: tau: a template whose similarities, scores included, are all below may stay unmatched. Null:
            every template gets a proposal, as in the paper.
        refinement: decode the matched masks; else they are the result.
        residual: let the decoder correct the matched mask, whose log-odds are added to its own, instead of drawing it
            anew as in the paper: from scratch, it learns to draw much later than it learns to match.
        decoder_masks: what the decoder sees of an object: its ``previous`` mask, its ``first`` one, the ``matched``
            one; in the paper all three. One filter serves them all, so it cannot tell them apart: where things move
            far, the first mask is noise.
        straight_through: show the decoder in training, too, the one proposal that weighs most, as at test time, instead
            of the blend of several; gradients are those of the blend. The paper's decoder learns on blends.
        trunk_from_detector: start the encoder's trunk as a copy of the detector's where ``weights`` come from a stage
            that trained the detector; both must be the same ResNet.
        across_objects: let the decoder's state pass from object to object, as in the paper. The order of the objects
            then matters.
        own_masks: (start, probability): from this share of the run on, the previous mask of a training frame is the
            network's own with this probability, the ground truth otherwise.
        match_weight: weight of the match loss.
        match_balanced: see :func:`~lightning_vos.methods.dmm_net.losses.match_loss`.
        matched_weight: weight of the soft IoU of the matched mask.
        entropy_weight: weight of the bootstrapped cross entropy of the result, which the other methods train on; none
            in the paper. It cares for boundaries, soft IoU for areas.
        pretrained_lr: factor of the learning rate of the encoder's trunk.
        proposal_trunk: ResNet of the detector (ResNeXt-101 32x8d in the paper's code); this and the following: see
            :class:`~lightning_vos.methods.dmm_net.proposals.ProposalNetwork`.
        proposal_weights: ``coco`` (with ResNet-50), the path of a state dict, or null.
        proposal_dim: channels of the detector's pyramid and mask head.
        proposal_box_dim: width of its box head.
        proposal_mask_layers: convolutions of its mask head.
        anchor_sizes: side of the anchors at strides 4 to 64, pixels.
        proposal_short_side: shorter side of the detector's input, pixels; null: that of the frame.
        proposal_candidates: boxes that its first stage looks through on each level, and hands on.
        proposal_rois: boxes of a picture that its second stage trains on.
        proposal_detections: boxes of a frame that get a mask, of which the proposals are chosen; null: twice as many.
        proposal_samples: readings of a RoIAlign bin along each axis, 2 in torchvision's Mask R-CNN.
        proposals: m, proposals of a frame.
        proposal_overlap: IoU of two proposals' boxes above which the one with the lower score goes: 0.4 in the paper's
            code. Objects that cross each other need more.
        score_threshold: proposals below it are dropped.
        **kwargs: see :class:`~lightning_vos.module.VOSModule`.
    """

    stride = 32
    pretrained = ("backbone_weights", "proposal_weights")

    def __init__(
        self,
        trains: Literal["proposals", "matching"] = "matching",
        trunk: Trunk = "resnet50",
        norm: Norm = "frozen_batch",
        backbone_weights: str | None = None,
        dim: int = 128,
        matching_dim: int = 128,
        overlap_weight: float = 0.3,
        score_weight: float = 0.0,
        matcher: Matcher = "paper",
        pooling: Pooling = "box",
        absent_similarity: float | None = None,
        refinement: bool = True,
        residual: bool = False,
        decoder_masks: tuple[DecoderMask, ...] = get_args(DecoderMask),
        straight_through: bool = False,
        trunk_from_detector: bool = False,
        across_objects: bool = True,
        own_masks: tuple[float, float] = (0.25, 0.5),
        match_weight: float = 1.0,
        match_balanced: bool = False,
        matched_weight: float = 1.0,
        entropy_weight: float = 0.0,
        pretrained_lr: float = 0.1,
        proposal_trunk: Trunk = "resnet50",
        proposal_weights: str | None = None,
        proposal_dim: int = 256,
        proposal_box_dim: int = 1024,
        proposal_mask_layers: int = 4,
        anchor_sizes: tuple[int, int, int, int, int] = (32, 64, 128, 256, 512),
        proposal_short_side: int | None = 800,
        proposal_candidates: int = 1000,
        proposal_rois: int = 512,
        proposal_detections: int | None = None,
        proposal_samples: int = 2,
        proposals: int = 50,
        proposal_overlap: float = 0.4,
        score_threshold: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.save_hyperparameters(ignore=["weights"])
        for name, value, choices in (
            ("matcher", matcher, get_args(Matcher)),
            ("trains", trains, ("proposals", "matching")),
            ("pooling", pooling, get_args(Pooling)),
        ):
            if value not in choices:
                raise ValueError(f"{name}={value}: choose from {', '.join(choices)}")
        if not decoder_masks or set(decoder_masks) - set(get_args(DecoderMask)):
            raise ValueError(f"decoder_masks={list(decoder_masks)}: choose from {', '.join(get_args(DecoderMask))}")
        if proposals < 1:
            raise ValueError(f"proposals={proposals}: must be at least 1")
        proposal_detections = 2 * proposals if proposal_detections is None else proposal_detections
        if proposal_detections < proposals:
            raise ValueError(f"proposal_detections={proposal_detections}: must be at least {proposals=}")
        if proposal_samples < 1:
            raise ValueError(f"proposal_samples={proposal_samples}: must be at least 1")
        for name, share in (("overlap_weight", overlap_weight), ("proposal_overlap", proposal_overlap)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name}={share}: must be from 0 to 1")
        if score_weight < 0:
            raise ValueError(f"score_weight={score_weight}: must be at least 0")
        if trunk_from_detector and trunk != proposal_trunk:
            raise ValueError(
                f"trunk_from_detector: {trunk=} is not {proposal_trunk=}; make them equal or switch it off"
            )
        self.trains = trains
        self.overlap_weight = overlap_weight
        self.score_weight = score_weight
        self.matcher = matcher
        self.pooling = pooling
        self.absent_similarity = absent_similarity
        self.refinement = refinement
        self.residual = residual
        self.decoder_masks = tuple(decoder_masks)
        self.straight_through = straight_through
        self.trunk_from_detector = trunk_from_detector
        self.own_masks = own_masks
        self.match_weight = match_weight
        self.match_balanced = match_balanced
        self.matched_weight = matched_weight
        self.entropy_weight = entropy_weight
        self.pretrained_lr = pretrained_lr

        self.detector = ProposalNetwork(
            proposal_trunk,
            norm,
            proposal_weights,
            "imagenet" if backbone_weights == "imagenet" and proposal_weights is None else None,
            proposal_dim,
            proposal_box_dim,
            proposal_mask_layers,
            anchor_sizes,
            proposal_short_side,
            candidates=proposal_candidates,
            rois=proposal_rois,
            detections=proposal_detections,
            samples=proposal_samples,
            count=proposals,
            overlap=proposal_overlap,
            score_threshold=score_threshold,
        )
        self.encoder = Encoder(trunk, norm, backbone_weights, dim, matching_dim)
        self.decoder = Decoder(dim, across_objects)
        if residual:  # no correction until one is learned
            nn.init.zeros_(self.decoder.predict.weight)
            nn.init.zeros_(self.decoder.predict.get_parameter("bias"))
        self.templates = Templates()
        self.train()  # Lightning calls it only after a validation
        self.detector.requires_grad_(trains == "proposals")
        self.encoder.requires_grad_(trains == "matching")
        self.decoder.requires_grad_(trains == "matching" and refinement)

    def train(self, mode: bool = True) -> DMMNet:
        """Training mode, except for a frozen detector: torchvision's would expect targets."""
        super().train(mode)
        self.detector.train(mode and self.trains == "proposals")
        return self

    def take_over(self, settings: dict[str, Any]) -> None:
        """The encoder may start from the detector, unless that run has trained an encoder."""
        if self.trunk_from_detector and self.trains == "matching" and settings.get("trains") == "proposals":
            ours, theirs = self.encoder.trunk, self.detector.net.backbone.body
            pairs = [(ours.stem[0], theirs["conv1"]), (ours.stem[1], theirs["bn1"])]
            pairs += [(ours.get_submodule(name), theirs[name]) for name in ("layer1", "layer2", "layer3", "layer4")]
            for layer, trained in pairs:
                layer.load_state_dict(trained.state_dict())

    def parameter_groups(self) -> list[tuple[list[nn.Parameter], float]]:
        """The encoder's trunk learns more slowly than what is new."""
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                factor = self.pretrained_lr if name.startswith("encoder.trunk.") else 1.0
                groups.setdefault(factor, []).append(parameter)
        return [(parameters, factor) for factor, parameters in groups.items()]

    # ---------------------------------------------------------------- stage one

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """Stage one: the detector on single pictures; stage two: see the base class."""
        if self.trains == "matching":
            return super().training_step(batch, batch_idx)
        frames = pad_to_stride(batch.frames.flatten(0, 1), self.stride)[0]
        labels = pad_to_stride(batch.masks.flatten(0, 1), self.stride)[0]
        places = self.places(len(frames), batch_idx)
        seeds = [hash((torch.initial_seed(), self.steps_done, place)) % 2**62 for place in places]
        losses = self.detector.losses(self.normalize(frames), labels, seeds)
        return self.log_losses(losses, len(frames))

    # ---------------------------------------------------------------- the recursion

    @property
    def proposal_masks(self) -> Tensor | None:
        """``(B, m, H, W)`` proposals of the last frame, padded; ``None`` outside a sequence."""
        return self.templates.proposals

    def reveal(self, truth: Tensor | None) -> None:
        """Match the next frame by its ground truth ``(B, K, H, W)``, padded: what a perfect matcher would do."""
        self.templates.truth = truth

    def encode(self, image: Tensor) -> Features:
        """Encoder and detector on all frames at once: ``(B, 3, H, W)``."""
        skips, maps = self.encoder(image)
        with torch.no_grad():
            found = self.detector(image)
        return Features._make([*skips, *maps, *found])

    def query(self, features: Features) -> Query:
        """Paste the proposals of the frame and pool their features."""
        height, width = features.skip4.shape[-2:]
        pasted = paste(features.masks, features.boxes, (4 * height, 4 * width))
        maps = features[7:3:-1]
        pooled = pool_masks(maps, pasted) if self.pooling == "mask" else pool(maps, features.tight)
        return Query(features[:4], maps, pooled, pasted, features.scores, features.valid)

    def segment(self, query: Query) -> Tensor:
        """Match and refine: ``(B, K, H, W)`` logits."""
        started = len(self.templates)
        logits = self._follow(query, started)
        # Objects given on this very frame have no template yet; the given mask goes over whatever stands here.
        return F.pad(logits, (0, 0, 0, 0, 0, len(self.tracks.births) - started))

    def memorize(self, query: Query, probs: Tensor, given: Tensor | None) -> None:
        """Keep the masks; make templates of the objects that start here."""
        templates, first = self.templates, len(self.templates) == 0
        # Back from the softmax over merged objects to each one's own probability: p_k / (1 + sum p - max p) was seen.
        templates.previous = to_float(probs / (1 - probs.sum(dim=1, keepdim=True) + probs.amax(dim=1, keepdim=True)))
        if given is None:
            return
        hidden = [(dim, *skip.shape[-2:]) for dim, skip in zip(self.decoder.dims, query.skips, strict=True)]
        if self.pooling == "mask":
            pooled = pool_masks(query.maps, given)
        else:
            pooled = pool(query.maps, tight_boxes(given > 0.5)[0].to(given.dtype))
        new = torch.tensor([birth == self.tracks.t for birth in self.tracks.births], device=given.device)
        templates.grow(pooled, to_float(given), hidden, new)
        if first:  # the decoder's hidden states start from the given masks
            self._follow(query, len(templates))

    def merge(self, probs: Tensor) -> Tensor:
        """Background is what no object claims."""
        return merge_by_maximum(probs)

    def _follow(self, query: Query, objects: int) -> Tensor:
        """One frame for the first ``objects`` objects: their logits ``(B, K, H, W)``."""
        templates = self.templates
        earlier = [birth < self.tracks.t or self.tracks.t == 0 for birth in self.tracks.births[:objects]]
        rows = self.tracks.present[:, :objects] & torch.tensor(earlier, device=query.valid.device)
        previous = templates.previous[:, :objects]
        templates.proposals = query.proposals
        with torch.autocast(query.pooled.device.type, enabled=False):  # which is best may hang on the third digit
            features = F.normalize(to_float(query.pooled), dim=2)
            cosine = F.normalize(to_float(templates.features), dim=2) @ features.transpose(1, 2)
            overlap = intersection_over_union(previous > 0.5, query.proposals > 0.5).to(cosine.dtype)
            similarity = torch.lerp(cosine, overlap, self.overlap_weight)
            similarity = similarity + self.score_weight * query.scores.unsqueeze(1)
            weights = self.assign(similarity, rows, query.valid)
            flat, size = query.proposals.flatten(2), query.proposals.shape[2:]
            matched = (weights @ flat).unflatten(2, size)
            shown = matched
            if self.training and self.straight_through:
                one = torch.zeros_like(weights).scatter(2, weights.argmax(dim=2, keepdim=True), 1) * rows.unsqueeze(2)
                shown = ((weights + (one - weights).detach()) @ flat).unflatten(2, size)
        if self.refinement:
            masks = {"previous": previous, "first": templates.first, "matched": shown}
            stacked = torch.stack([masks[name] for name in self.decoder_masks], dim=2)
            logits, templates.hidden = self.decoder(query.skips, stacked, templates.hidden, rows)
            if self.residual:
                logits = logits + torch.logit(shown.clamp(CERTAIN, 1 - CERTAIN))
        else:
            logits = torch.logit(matched.clamp(EPSILON, 1 - EPSILON))
        if self.training:
            templates.clip.append(Matched(cosine, query.proposals, query.valid, matched, to_float(logits)))
        return logits

    def assign(self, similarity: Tensor, rows: Tensor, valid: Tensor) -> Tensor:
        """Weights of the proposals in every matched mask.

        Args:
            similarity: ``(B, K, m)``, larger is better.
            rows: ``(B, K)`` bool, templates that are followed.
            valid: ``(B, m)`` bool, proposals that exist.

        Returns:
            ``(B, K, m)``: in training all weights above 0.01 of the relaxed assignment, with a gradient; at test time
            one-hot (with ``official`` the entry's own value), or all zero for a template that stays unmatched.
        """
        truth, self.templates.truth = self.templates.truth, None  # of this frame only
        if truth is not None and not self.training:
            similarity = intersection_over_union(truth[:, : rows.shape[1]] > 0.5, self.templates.proposals > 0.5)
            best = similarity.masked_fill(~valid.unsqueeze(1), 0).max(dim=2, keepdim=True)
            found = (best.values > 0) & rows.unsqueeze(2)
            return torch.zeros_like(similarity).scatter(2, best.indices, found.to(similarity.dtype))
        count, cost = similarity.shape[2], -similarity
        if self.absent_similarity is not None:
            # As many ways to be absent as templates, so that none compete; of the clip, not of the batch.
            cost = F.pad(cost, (0, cost.shape[1]), value=-self.absent_similarity)
            valid = torch.cat([valid, rows], dim=1)
        cost, columns = add_dummies(cost, rows, valid)
        columns = F.pad(columns, (0, cost.shape[2] - columns.shape[1]))
        if self.training:
            mode: Literal["paper", "official"] = "official" if self.matcher == "official" else "paper"
            x = relaxed_assignment(cost, rows, columns, mode=mode, steps=TRAINING_STEPS)[..., :count]
            return x * (x.detach() > GATE)
        if self.matcher == "hungarian":
            return hungarian(cost, rows, columns)[..., :count].to(similarity.dtype)
        official = self.matcher == "official"
        x = relaxed_assignment(cost, rows, columns, mode=self.matcher, average=official)
        chosen = torch.zeros_like(x).scatter(2, x.argmax(dim=2, keepdim=True), 1) * rows.unsqueeze(2)
        return ((chosen * x) if official else chosen)[..., :count]

    # ---------------------------------------------------------------- stage two

    def frame_losses(self, logits: Tensor, labels: Tensor, masks: Tensor, present: Tensor) -> dict[str, Tensor]:
        """Cross entropy, if it is wanted; all other losses need the matching, see :meth:`auxiliary_losses`."""
        if self.entropy_weight == 0:
            return {}
        fraction = bootstrap_fraction(self.progress, *self.bootstrap)
        return {"cross_entropy": self.entropy_weight * bootstrapped_cross_entropy(logits, labels, fraction)}

    def auxiliary_losses(self, labels: Tensor) -> dict[str, Tensor]:
        """Match loss, soft IoU of the matched and of the refined masks, over all frames of the clip."""
        present = self.tracks.present
        losses = {"match": labels.new_zeros((), dtype=self.mean.dtype)}
        losses["matched"] = losses["refined"] = losses["match"]
        ids = torch.arange(1, present.shape[1] + 1, device=labels.device).view(1, -1, 1, 1)
        for t, frame in enumerate(self.templates.clip):
            masks = (labels[:, t].unsqueeze(1) == ids).to(self.mean.dtype)
            match = match_loss(frame.cosine, frame.proposals, frame.valid, masks, present, self.match_balanced)
            matched = mean_over_objects(soft_iou_loss(frame.matched, masks), present)
            refined = mean_over_objects(soft_iou_loss(torch.sigmoid(frame.refined), masks), present)
            losses["match"] = losses["match"] + self.match_weight * match
            losses["matched"] = losses["matched"] + self.matched_weight * matched
            losses["refined"] = losses["refined"] + self.refinement * refined
        return losses

    def teacher(self, truth: Tensor) -> Tensor | None:
        """Ground truth instead of the network's own previous mask: a draw for each frame, see ``own_masks``."""
        start, probability = self.own_masks
        draw = random.Random(f"{torch.initial_seed()} {self.steps_done} {self.tracks.t}").random()
        return None if self.progress >= start and draw < probability else truth

    @classmethod
    def from_official(cls, *paths: str, matcher: Matcher = "official", **init: Any) -> DMMNet:
        """The network with the authors' released weights; the files say which trunk.

        Args:
            paths: the released checkpoint, or its encoder and its decoder in two files; see
                :func:`~lightning_vos.methods.dmm_net.official.load_official`.
            matcher: what the weights were trained with, or another one.
            **init: further arguments of the constructor, such as ``proposal_weights="coco"``: the released files hold
                no detector.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file is something else or damaged, or entries are missing, unexpected or of other shapes.
        """
        return load_official(cls(trunk=official_trunk(*paths), matcher=matcher, **init), *paths)
