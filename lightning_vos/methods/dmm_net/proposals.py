"""Mask proposals: a class-agnostic Mask R-CNN made of torchvision's modules, and what becomes of its detections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign, nms

from lightning_vos.blocks.backbone import GroupNorm, Norm, Trunk, build_resnet
from lightning_vos.functional import one_hot, tight_boxes, to_float
from lightning_vos.methods.dmm_net.boxes import paste
from lightning_vos.methods.dmm_net.detector_weights import load_detector

FOREGROUND = 0.4  # probability above which a pixel counts for the tight box
CELLS = 28  # side of a mask
LEVELS = ["0", "1", "2", "3"]  # of the pyramid, strides 4 to 32: boxes are pooled from these


class Proposals(NamedTuple):
    """What may be an object in a frame. Slots without a proposal hold zeros.

    Attributes:
        boxes: ``(B, m, 4)`` x0, y0, x1, y1 of the detector, pixels.
        masks: ``(B, m, 28, 28)`` probabilities on the box.
        tight: ``(B, m, 4)`` first and last column and row of the pasted mask above 0.4: x0, y0, x1, y1.
        scores: ``(B, m)`` in [0, 1], falling.
        valid: ``(B, m)`` bool, which slots hold a proposal.
    """

    boxes: Tensor
    masks: Tensor
    tight: Tensor
    scores: Tensor
    valid: Tensor


class ProposalNetwork(nn.Module):
    """Mask R-CNN (He et al., ICCV 2017) with the one class "object", on a feature pyramid.

    Args:
        trunk: ResNet of the pyramid (ResNeXt-101 32x8d in the paper's code).
        norm: of the trunk; with ``group``, pyramid and mask head are normalised too, as training from scratch needs it
            (He et al., "Rethinking ImageNet Pre-training", 2019).
        weights: ``coco`` for torchvision's ``maskrcnn_resnet50_fpn``, the path of a state dict of such a network with
            any number of classes (what depends on the classes starts afresh), or ``None``.
        backbone_weights: of the trunk alone; see :func:`~lightning_vos.blocks.backbone.build_resnet`.
        pyramid_dim: channels of the pyramid and of the mask head.
        box_dim: width of the box head.
        mask_layers: convolutions of the mask head.
        anchor_sizes: side of the anchors at strides 4, 8, 16, 32 and 64, pixels of the resized frame.
        short_side: frames are resized so that the shorter side has as many pixels; ``None`` takes them as they are.
        long_side: bound of the longer side, which goes before ``short_side``.
        candidates: boxes of each level that the first stage looks through, and boxes that it hands on.
        rois: boxes of a picture that the second stage trains on.
        detections: boxes of a frame that get a mask.
        samples: readings of a RoIAlign bin along each axis.
        count: m, proposals of a frame: those with the highest scores.
        overlap: IoU of the tight boxes of two proposals above which the one with the lower score goes.
        score_threshold: detections below it are dropped.

    Raises:
        ValueError: weights that do not fit or cannot be had.
    """

    def __init__(
        self,
        trunk: Trunk = "resnet50",
        norm: Norm = "frozen_batch",
        weights: str | None = None,
        backbone_weights: str | None = None,
        pyramid_dim: int = 256,
        box_dim: int = 1024,
        mask_layers: int = 4,
        anchor_sizes: Sequence[int] = (32, 64, 128, 256, 512),
        short_side: int | None = 800,
        long_side: int = 1333,
        candidates: int = 1000,
        rois: int = 512,
        detections: int = 100,
        samples: int = 2,
        count: int = 50,
        overlap: float = 0.4,
        score_threshold: float = 0.0,
    ) -> None:
        super().__init__()
        resnet = build_resnet(trunk, norm, backbone_weights)
        widths = [resnet.fc.in_features // factor for factor in (8, 4, 2, 1)]
        levels = {f"layer{level + 1}": str(level) for level in range(4)}
        inner_norm = partial(GroupNorm, 8) if norm == "group" else None
        self.net = MaskRCNN(
            BackboneWithFPN(resnet, levels, widths, pyramid_dim, norm_layer=inner_norm),
            rpn_anchor_generator=AnchorGenerator(tuple((size,) for size in anchor_sizes), ((0.5, 1.0, 2.0),) * 5),
            rpn_pre_nms_top_n_train=candidates,
            rpn_pre_nms_top_n_test=candidates,
            rpn_post_nms_top_n_train=candidates,
            rpn_post_nms_top_n_test=candidates,
            box_roi_pool=MultiScaleRoIAlign(LEVELS, 7, samples),
            box_head=TwoMLPHead(pyramid_dim * 7**2, box_dim),
            box_predictor=FastRCNNPredictor(box_dim, 2),
            box_batch_size_per_image=rois,
            box_score_thresh=score_threshold,
            box_detections_per_img=detections,
            mask_roi_pool=MultiScaleRoIAlign(LEVELS, CELLS // 2, samples),
            mask_head=MaskRCNNHeads(pyramid_dim, [pyramid_dim] * mask_layers, 1, norm_layer=inner_norm),
            mask_predictor=MaskRCNNPredictor(pyramid_dim, pyramid_dim, 2),
        )
        if weights is not None:
            load_detector(self.net, weights)
        self.short_side = short_side
        self.long_side = long_side
        self.count = count
        self.overlap = overlap

    def losses(self, image: Tensor, labels: Tensor, seeds: Sequence[int]) -> dict[str, Tensor]:
        """The five losses of Mask R-CNN, each the mean over the pictures of its value for one picture.

        Args:
            image: ``(B, 3, H, W)`` normalised.
            labels: ``(B, H, W)`` uint8: 0 background, 1..K objects.
            seeds: B seeds of the draw of training boxes, so that it depends neither on the device nor on a restart.
        """
        resized = self._resize(image)
        scale = resized.shape[-1] / image.shape[-1], resized.shape[-2] / image.shape[-2]
        features = self._features(resized)
        size = (resized.shape[-2], resized.shape[-1])
        total: dict[str, list[Tensor]] = {}
        for b, seed in enumerate(seeds):
            alone = {level: feature[b : b + 1] for level, feature in features.items()}
            with _seeded(seed, image.device):
                losses = self._picture(resized[b : b + 1], alone, size, _targets(labels[b], size, scale))
            for name, value in losses.items():
                total.setdefault(name.removeprefix("loss_"), []).append(value)
        return {name: torch.stack(values).mean() for name, values in total.items()}

    def _picture(
        self, image: Tensor, features: dict[str, Tensor], size: tuple[int, int], target: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        boxes, first = self.net.rpn(ImageList(image, [size]), features, [target])
        _, second = self.net.roi_heads(features, boxes, [size], [target])
        return {**first, **second}

    def forward(self, image: Tensor) -> Proposals:
        """Proposals of frames ``(B, 3, H, W)``, normalised; the network must be in evaluation mode."""
        resized = self._resize(image)
        size = (resized.shape[-2], resized.shape[-1])
        features = self._features(resized)
        boxes, _ = self.net.rpn(ImageList(resized, [size] * len(image)), features)
        found, _ = self.net.roi_heads(features, boxes, [size] * len(image))
        scale = image.new_tensor([image.shape[-1] / size[1], image.shape[-2] / size[0]]).repeat(2)
        frame = (image.shape[-2], image.shape[-1])
        kept = [
            keep_best(
                to_float(one["boxes"]) * scale,
                to_float(one["masks"])[:, 0],
                one["scores"],
                frame,
                self.count,
                self.overlap,
            )
            for one in found
        ]
        # A blank with m slots makes every frame as long, whatever was found in it.
        columns = zip(_blank(self.count, image), *kept, strict=True)
        return Proposals(*(pad_sequence(list(column), batch_first=True)[1:] for column in columns))

    def _resize(self, image: Tensor) -> Tensor:
        if self.short_side is None:
            return image
        height, width = image.shape[-2:]
        scale = min(self.short_side / min(height, width), self.long_side / max(height, width))
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        return F.interpolate(image, size=size, mode="bilinear", align_corners=False)

    def _features(self, image: Tensor) -> dict[str, Tensor]:
        # The anchors take the type of the features, and half precision cannot tell pixel 257 from 258.
        return {level: to_float(feature) for level, feature in self.net.backbone(image).items()}


def keep_best(
    boxes: Tensor, masks: Tensor, scores: Tensor, size: tuple[int, int], count: int, overlap: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Suppress duplicates of one frame by their tight boxes, and keep the best.

    Args:
        boxes: ``(N, 4)``.
        masks: ``(N, 28, 28)``.
        scores: ``(N,)``.
        size: ``(H, W)`` of the frame.
        count: most proposals to keep.
        overlap: IoU of tight boxes above which the lower score goes.

    Returns:
        boxes, masks, tight boxes, scores and validity of at most ``count`` proposals; those whose mask is nowhere above
        0.4 are gone.
    """
    tight, seen = tight_boxes(paste(masks, boxes, size) > FOREGROUND)
    scores = to_float(scores)
    boxes, masks, tight, scores = boxes[seen], masks[seen], tight[seen], scores[seen]
    # Areas count both end pixels.
    kept = nms(tight + tight.new_tensor([0, 0, 1, 1]), scores.to(tight.dtype), overlap)[:count]
    return boxes[kept], masks[kept], tight[kept], scores[kept], torch.ones_like(kept, dtype=torch.bool)


def _blank(count: int, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Slots without a proposal, for shapes and types: as :func:`keep_best`."""
    zeros = torch.zeros(count, 4, dtype=to_float(image[:0]).dtype, device=image.device)
    none = torch.zeros(count, dtype=torch.bool, device=image.device)
    return zeros, zeros.new_zeros(count, CELLS, CELLS), zeros.float(), zeros[:, 0], none


def _targets(labels: Tensor, size: tuple[int, int], scale: tuple[float, float]) -> dict[str, Tensor]:
    """What torchvision's detectors train on: the objects of one picture ``(H, W)``, at the size of the input."""
    masks = one_hot(labels, int(labels.max()))
    boxes, seen = tight_boxes(masks > 0)
    boxes, masks = boxes[seen] + boxes.new_tensor([0, 0, 1, 1]), masks[seen]
    if masks.shape[-2:] != size and len(masks):
        masks = F.interpolate(masks.unsqueeze(1), size=size, mode="nearest-exact")[:, 0]
    return {
        "boxes": boxes * boxes.new_tensor([*scale, *scale]),
        "labels": torch.ones(len(boxes), dtype=torch.int64, device=labels.device),
        "masks": masks.to(torch.uint8),
    }


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's global generators at a seed, and back to where they were: torchvision draws from nothing else."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
