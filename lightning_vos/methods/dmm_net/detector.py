"""DMM-Net's detector: a class-agnostic Mask R-CNN made of torchvision's modules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from lightning_vos.blocks.normalization import GroupNorm, Norm
from lightning_vos.functional import one_hot, tight_boxes, to_float
from lightning_vos.methods.dmm_net.detector_weights import load_detector
from lightning_vos.methods.dmm_net.feature_pyramid import FeaturePyramid
from lightning_vos.methods.dmm_net.proposals import CELLS, Proposals, filled, keep_best
from lightning_vos.settings import Checked

LEVELS = ["0", "1", "2", "3"]  # of the pyramid, strides 4 to 32: boxes are pooled from these
LONG_SIDE = 1333  # bound of the longer side of the input, pixels; goes before the shorter side


@dataclass(frozen=True)
class DetectorSettings(Checked):
    """The detector.

    Args:
        trunk: of the pyramid (ResNeXt-101 32x8d in the paper's code).
        weights: ``coco`` for torchvision's ``maskrcnn_resnet50_fpn``, the path of a state dict of such a network with
            any number of classes (what depends on the classes starts afresh), or null.
        pyramid_dim: channels of the pyramid and of the mask head.
        box_dim: width of the box head.
        mask_layers: convolutions of the mask head.
        anchor_sizes: side of the anchors at strides 4, 8, 16, 32 and 64, pixels of the resized frame.
        short_side: frames are resized so that the shorter side has as many pixels; null takes them as they are.
        candidates: boxes that the first stage looks through on each level, and boxes that it hands on.
        rois: boxes of a picture that the second stage trains on.
        detections: boxes of a frame that get a mask, of which the proposals are chosen; null: twice as many.
        samples: readings of a RoIAlign bin along each axis.
        count: m, proposals of a frame: those with the highest scores.
        overlap: IoU of the tight boxes of two proposals above which the one with the lower score goes: 0.4 in the
            paper's code. Objects that cross each other need more.
    """

    trunk: str = "resnet50"
    weights: str | None = None
    pyramid_dim: int = 256
    box_dim: int = 1024
    mask_layers: int = 4
    anchor_sizes: tuple[int, int, int, int, int] = (32, 64, 128, 256, 512)
    short_side: int | None = 800
    candidates: int = 1000
    rois: int = 512
    detections: int | None = None
    samples: int = 2
    count: int = 50
    overlap: float = 0.4

    def __post_init__(self) -> None:
        """Refuse numbers that leave nothing to choose from."""
        super().__post_init__()
        for name in ("count", "samples"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"detector.{name}={value}: must be at least 1")
        if self.detections is not None and self.detections < self.count:
            raise ValueError(f"detector.detections={self.detections}: must be at least detector.count={self.count}")
        if not 0 <= self.overlap <= 1:
            raise ValueError(f"detector.overlap={self.overlap}: must be from 0 to 1")


class Detector(nn.Module):
    """Mask R-CNN (He et al., ICCV 2017) with the one class "object", on a feature pyramid.

    Args:
        settings: see there.
        norm: of the trunk.
        backbone_weights: of the trunk alone; see :func:`~lightning_vos.blocks.backbone.build_backbone`.
        new_norm: with ``group``, pyramid and mask head are normalised, as training from scratch needs it (He et al.,
            "Rethinking ImageNet Pre-training", 2019); ``None``: as ``norm``.

    Raises:
        ValueError: weights that do not fit or cannot be had.
    """

    def __init__(
        self,
        settings: DetectorSettings = DetectorSettings(),
        norm: Norm = "frozen_batch",
        backbone_weights: str | None = None,
        new_norm: Norm | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        inner_norm = partial(GroupNorm, 8) if (new_norm or norm) == "group" else None
        dim, candidates = settings.pyramid_dim, settings.candidates
        self.net = MaskRCNN(
            FeaturePyramid(settings.trunk, norm, backbone_weights, dim, inner_norm),
            rpn_anchor_generator=AnchorGenerator(
                tuple((size,) for size in settings.anchor_sizes), ((0.5, 1.0, 2.0),) * 5
            ),
            rpn_pre_nms_top_n_train=candidates,
            rpn_pre_nms_top_n_test=candidates,
            rpn_post_nms_top_n_train=candidates,
            rpn_post_nms_top_n_test=candidates,
            box_roi_pool=MultiScaleRoIAlign(LEVELS, 7, settings.samples),
            box_head=TwoMLPHead(dim * 7**2, settings.box_dim),
            box_predictor=FastRCNNPredictor(settings.box_dim, 2),
            box_batch_size_per_image=settings.rois,
            box_score_thresh=0.0,
            box_detections_per_img=2 * settings.count if settings.detections is None else settings.detections,
            mask_roi_pool=MultiScaleRoIAlign(LEVELS, CELLS // 2, settings.samples),
            mask_head=MaskRCNNHeads(dim, [dim] * settings.mask_layers, 1, norm_layer=inner_norm),
            mask_predictor=MaskRCNNPredictor(dim, dim, 2),
        )
        if settings.weights is not None:
            load_detector(self.net, settings.weights)

    def losses(self, image: Tensor, labels: Tensor, seeds: Sequence[int]) -> dict[str, Tensor]:
        """The five losses of Mask R-CNN, each the mean over the pictures of its value for one picture.

        Args:
            image: ``(B, 3, H, W)`` normalised.
            labels: ``(B, H, W)`` uint8: 0 background, 1..K objects.
            seeds: B seeds of the draw of training boxes, so that it depends neither on the device nor on a restart.
        """
        resized = self.resize(image)
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
        resized = self.resize(image)
        size = (resized.shape[-2], resized.shape[-1])
        features = self._features(resized)
        boxes, _ = self.net.rpn(ImageList(resized, [size] * len(image)), features)
        found, _ = self.net.roi_heads(features, boxes, [size] * len(image))
        scale = image.new_tensor([image.shape[-1] / size[1], image.shape[-2] / size[0]]).repeat(2)
        frame, count, overlap = (image.shape[-2], image.shape[-1]), self.settings.count, self.settings.overlap
        kept = [
            keep_best(to_float(one["boxes"]) * scale, one["masks"][:, 0], one["scores"], frame, count, overlap)
            for one in found
        ]
        return Proposals(*(torch.stack([filled(rows, count) for rows in part]) for part in zip(*kept, strict=True)))

    def resize(self, image: Tensor) -> Tensor:
        """``(B, 3, H, W)`` to the size at which the detector looks at it."""
        if self.settings.short_side is None:
            return image
        height, width = image.shape[-2:]
        scale = min(self.settings.short_side / min(height, width), LONG_SIDE / max(height, width))
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        return F.interpolate(image, size=size, mode="bilinear", align_corners=False)

    def _features(self, image: Tensor) -> dict[str, Tensor]:
        # The anchors take the type of the features, and half precision cannot tell pixel 257 from 258.
        return {level: to_float(feature) for level, feature in self.net.backbone(image).items()}


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
