"""Pretrained weights of a Mask R-CNN with any classes, for one that knows only "object"."""

from __future__ import annotations

from torch import nn
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from lightning_vos.blocks.resnet import read_pretrained
from lightning_vos.checkpoint import check_fits

OF_CLASSES = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits.")
"""What depends on the classes, and starts afresh."""


def load_detector(net: nn.Module, source: str) -> None:
    """Load all but what depends on the classes.

    Args:
        net: torchvision's ``MaskRCNN``.
        source: ``coco`` (downloaded once by torchvision) or the path of a state dict.

    Raises:
        ValueError: weights that cannot be had, or entries that are missing, unexpected or of another shape.
    """
    released = MaskRCNN_ResNet50_FPN_Weights.DEFAULT if source == "coco" else None
    given = read_pretrained("detector.weights", "coco", source, released)
    # torchvision's detectors have a batch norm without counter; a counter that never counts is no loss.
    own = {name: value for name, value in net.state_dict().items() if not _is_left_out(name)}
    given = {_own_name(name): value for name, value in given.items() if not _is_left_out(name)}
    advice = "a Mask R-CNN of torchvision with the trunk and widths of the detector is needed, with norm=frozen_batch"
    check_fits(own, given, f"detector.weights={source}", advice)
    net.load_state_dict(given, strict=False)


def _is_left_out(name: str) -> bool:
    return name.startswith(OF_CLASSES) or name.endswith("num_batches_tracked")


def _own_name(name: str) -> str:
    """Torchvision's name of an entry to ours: a trunk has its first layers in a stem."""
    for theirs, ours in (("backbone.body.conv1.", "stem.0."), ("backbone.body.bn1.", "stem.1.")):
        if name.startswith(theirs):
            return f"backbone.body.{ours}{name.removeprefix(theirs)}"
    return name
