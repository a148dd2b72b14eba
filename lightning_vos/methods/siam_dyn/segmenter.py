"""SiamDyn's network: a search in windows around the targets, and a predicted kernel for the mask of each."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_vos.blocks.normalization import Norm
from lightning_vos.functional import merge_by_maximum, to_float
from lightning_vos.methods.siam_dyn.cells import cell_positions
from lightning_vos.methods.siam_dyn.correlation import Template
from lightning_vos.methods.siam_dyn.crop import crop_frames, crop_masks, crop_templates, paste_windows
from lightning_vos.methods.siam_dyn.dynamic_head import DynamicHead, HeadSettings, upsample_masks
from lightning_vos.methods.siam_dyn.network import Prediction, SiameseNetwork
from lightning_vos.methods.siam_dyn.target import Target, target_of
from lightning_vos.methods.siam_dyn.track_state import TrackState
from lightning_vos.methods.siam_dyn.tracking import Choice, TrackingSettings, choose, follow
from lightning_vos.segmenter import Segmenter


class Features(NamedTuple):
    """Of a frame: the normalised image alone, as the trunk runs on windows around the targets."""

    image: Tensor


class Search(NamedTuple):
    """What is found of the ``B * K`` objects that have a template.

    Attributes:
        windows: ``(B * K, m, m)`` probabilities in the search windows.
        choice: the cells believed.
    """

    windows: Tensor
    choice: Choice


class Query(NamedTuple):
    """Of the frame that is being segmented: the image ``(B, 3, H, W)``, and the search; ``None`` without a template."""

    image: Tensor
    search: Search | None


class SiamDynSegmenter(Segmenter):
    """A target is searched only in a window around its last place; there its own small network makes its mask.

    From template and window a kernel is predicted, and convolved with features of the window. The cost of a frame grows
    with the number of its objects, not with its size.

    Args:
        trunk: ours: ResNet-50, its last stage dilated; see :func:`~lightning_vos.blocks.backbone.build_backbone`.
        norm: ``frozen_batch`` with pretrained weights, ``group`` from scratch.
        backbone_weights: ``imagenet``, the path of a state dict of the trunk, or null for a random start.
        scratch_norm: of what is behind a pretrained trunk and starts from scratch; null: as the trunk.
        dim: width of correlation and towers.
        template_size: side of a template window, crop pixels, 1 mod 16. A target's window side maps to one less, so
            that a square target is about half as large.
        search_size: side of a search window, likewise; twice the template's shows as much again on every side.
        masked_template: hide what is not the target in its template.
        mask_input: give the trunk a mask as a fourth channel (ours): in a template the target's, in a search window
            what was found of the target in the frame before.
        head: how a target's mask is made.
        tracking: which cell is believed, and where the target is thought to be next.
        **kwargs: see :class:`~lightning_vos.segmenter.Segmenter`.

    Raises:
        ValueError: windows without a cell in their centre.
    """

    stride = 1

    def __init__(
        self,
        trunk: str = "resnet50",
        norm: Norm = "frozen_batch",
        backbone_weights: str | None = None,
        scratch_norm: Norm | None = None,
        dim: int = 256,
        template_size: int = 129,
        search_size: int = 257,
        masked_template: bool = False,
        mask_input: bool = False,
        head: HeadSettings = HeadSettings(),
        tracking: TrackingSettings = TrackingSettings(),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, size in (("template_size", template_size), ("search_size", search_size)):
            if size % 16 != 1 or size < 65:
                raise ValueError(f"{name}={size}: must be 1 mod 16 and at least 65, so that a cell lies in the centre")
        self.unit = template_size - 1
        self.search_size = search_size
        self.masked_template = masked_template
        self.mask_input = mask_input
        self.tracking = tracking

        self.head = DynamicHead(head, reach=self.unit // 2)
        channels = 4 if mask_input else 3
        self.network = SiameseNetwork(trunk, norm, backbone_weights, dim, self.head, channels, scratch_norm)
        self.state = TrackState()

    @property
    def lost_targets(self) -> Tensor | None:
        """``(B, K)`` bool, objects that the last frame did not show; ``None`` before there is a template."""
        return self.state.lost

    def encode(self, image: Tensor) -> Features:
        """Nothing to do for the whole frame."""
        return Features(image)

    def query(self, features: Features) -> Query:
        """Search all objects that have a template."""
        image, state = features.image, self.state
        return Query(image, self.search(image, state.target, state.template, state.found) if len(state) else None)

    def search(self, image: Tensor, target: Target, template: Template, found: Tensor | None) -> Search:
        """All objects in one batch: one window and one kernel each.

        Args:
            image: ``(B, 3, H, W)`` normalised.
            target: ``(B, K)``.
            template: ``(B, K)``.
            found: ``(B, K, m, m)``, see :class:`TrackState`; only with ``mask_input``.
        """
        windows = crop_frames(image, target, self.unit, self.search_size)
        if found is not None:
            windows = torch.cat([windows, found.flatten(0, 1).unsqueeze(1)], dim=1)
        prediction = self.network(self.as_input(windows), template.flattened())
        target = target.flattened()
        choice = choose(prediction, target.size * (self.unit / target.side).unsqueeze(-1), self.tracking)
        logits = self.decode(prediction, choice.cell.unsqueeze(1), factor=4).squeeze(1)
        return Search(torch.sigmoid(to_float(logits)), choice)

    def segment(self, query: Query) -> Tensor:
        """Paste the windows: ``(B, K', H, W)`` probabilities, 0 outside of them."""
        assert query.search is not None  # from the second frame on there are templates
        windows = query.search.windows.unflatten(0, (-1, len(self.state)))
        return paste_windows(windows, self.state.target, self.unit, _size(query.image))

    def memorize(self, query: Query, probs: Tensor, merged: Tensor, given: Tensor | None) -> None:
        """Move the states; make templates of the objects that start here."""
        if query.search is not None:
            self._follow(query.search, merged)
        if given is not None:
            self._start(query.image, given)
        if self.mask_input:
            self.state.found = self.found(merged, self.state.target)

    def merge(self, probs: Tensor) -> Tensor:
        """Background is what no object claims."""
        return merge_by_maximum(probs)

    def decode(self, prediction: Prediction, cells: Tensor, factor: int) -> Tensor:
        """Masks that the kernels on chosen cells make.

        Args:
            prediction: of n windows.
            cells: ``(n, k)`` index of the cells.
            factor: of the up-sampling from stride 4.

        Returns:
            ``(n, k, m, m)`` logits.
        """
        count = cells.shape[1]
        theta = prediction.theta.flatten(2).gather(2, cells.unsqueeze(1).expand(-1, self.head.numbers, -1))
        positions = cell_positions(prediction.cls.shape[-1], to_float(prediction.box))[cells]
        features = prediction.features.repeat_interleave(count, dim=0)
        logits = self.head(features, theta.transpose(1, 2).flatten(0, 1), positions.flatten(0, 1))
        return upsample_masks(logits, factor).unflatten(0, (-1, count))

    def as_input(self, windows: Tensor) -> Tensor:
        """Windows as the trunk takes them: in its type and memory format."""
        windows = windows.to(self.mean.dtype)
        return windows.contiguous(memory_format=torch.channels_last) if self.channels_last else windows

    def _follow(self, search: Search, merged: Tensor) -> None:
        """Move the states of the objects that have one."""
        state = self.state
        shape = state.lost.shape
        target, won = state.target.flattened(), None
        if self.tracking.compete and shape[1] > 1:
            won = self.in_windows(largest(merged)[:, : shape[1]], target)
        frame = _size(merged)
        moved, lost = follow(target, search.choice, search.windows, self.unit, frame, self.tracking, won)
        state.target = moved.unflattened(shape)
        state.lost = lost.view(shape) & self.tracks.present[:, : shape[1]]

    def _start(self, image: Tensor, given: Tensor) -> None:
        """Make templates of the objects whose mask is given here first; move older ones to what is given of them."""
        target, seen, windows = self.template_windows(image, given)
        template = self.network.template(windows).unflattened(seen.shape)
        self.state.start(template, target, self.tracks.new)
        self.state.target = target.where(seen, self.state.target)  # also where an older object is corrected

    def template_windows(self, image: Tensor, given: Tensor) -> tuple[Target, Tensor, Tensor]:
        """Of masks ``(B, K, H, W)``: targets ``(B, K)``, whether there is any pixel, and windows ``(B * K, ...)``."""
        target, seen = target_of(given > 0.5)
        target = target.to(to_float(image).dtype).clamped(_size(image))
        windows = crop_templates(image, given, target, self.unit, masked=self.masked_template, marked=self.mask_input)
        return target, seen, self.as_input(windows)

    def found(self, merged: Tensor, target: Target) -> Tensor:
        """Where objects ``(B, K, H, W)`` are the most probable, in the windows around targets: ``(B, K, m, m)``."""
        found = largest(merged) & (merged > 1 - merged.sum(dim=1, keepdim=True))
        windows = self.in_windows(found, target.flattened())
        return windows.unflatten(0, found.shape[:2]).to(merged.dtype)

    def in_windows(self, masks: Tensor, target: Target) -> Tensor:
        """Masks ``(B, K, H, W)`` bool of the frame in the search windows of targets ``(B * K,)``: ``(B * K, m, m)``."""
        maps = masks.flatten(0, 1).to(target.centre.dtype)
        return crop_masks(maps, target.one_each(), self.unit, self.search_size).squeeze(1) > 0.5


def largest(probs: Tensor) -> Tensor:
    """Where no other object is more probable: ``(B, K, H, W)`` to bool."""
    return probs >= probs.amax(dim=1, keepdim=True)


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]
