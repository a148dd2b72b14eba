"""SiamDyn: Siamese dynamic mask estimation network.

Hong et al., "Siamese Dynamic Mask Estimation Network for Fast Video Object Segmentation", ICPR 2020. No code is known,
and of the paper only the abstract and the poster could be had: the design here honours their description, and fills
the gaps from SiamMask, SiamCAR, FCOS and CondInst.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_vos.blocks.backbone import Norm, Trunk
from lightning_vos.functional import EPSILON, merge_by_maximum, to_float
from lightning_vos.losses import mean_over_objects
from lightning_vos.methods.siam_dyn.crop import Target, crop_frames, crop_masks, crop_templates, paste, target_of
from lightning_vos.methods.siam_dyn.dynamic_head import DynamicHead, upsample
from lightning_vos.methods.siam_dyn.losses import best_positives, detection_losses, mask_losses
from lightning_vos.methods.siam_dyn.network import Kernel, Prediction, SiameseNetwork, cell_positions
from lightning_vos.methods.siam_dyn.pairs import Pairs, draw, make_pairs, previous_masks
from lightning_vos.methods.siam_dyn.templates import Templates
from lightning_vos.methods.siam_dyn.tracking import Choice, choose, follow
from lightning_vos.module import VOSModule
from lightning_vos.types import ClipBatch

DICE_WEIGHT = 3.0  # SOLO's; all other losses count once


class Features(NamedTuple):
    """Of a frame: the normalised image alone, as the trunk runs on windows around the targets."""

    image: Tensor


class Query(NamedTuple):
    """Of the frame that is being segmented: the image, and what is found of the objects that have a template.

    Attributes:
        image: ``(B, 3, H, W)``.
        windows: ``(B * K, m, m)`` probabilities in the search windows.
        choice: the cells believed, of ``B * K`` windows; ``None`` while there is no template.
    """

    image: Tensor
    windows: Tensor
    choice: Choice | None


class SiamDyn(VOSModule):
    """A target is searched only in a window around its last place; there its own small network makes its mask.

    From template and window a kernel is predicted, and convolved with features of the window. The cost of a frame grows
    with the number of its objects, not with its size.

    Args:
        trunk: ResNet (ours: ResNet-50; layer3 is dilated).
        norm: ``frozen_batch`` with pretrained weights, ``group`` from scratch.
        backbone_weights: ``imagenet``, the path of a state dict of the trunk, or null for a random start.
        dim: width of correlation and towers.
        mask_dim: width of the mask branch.
        mask_channels: mask features: 8, or 256 in the form of SOLOv2.
        template_size: side of a template window, crop pixels, 1 mod 16. A target's window side maps to one less, so
            that a square target is about half as large.
        search_size: side of a search window, likewise; twice the template's shows as much again on every side.
        kernel: ``dynamic``, or ``static``: one learned kernel for all targets.
        kernel_layers: layers of the predicted network: 3 (CondInst), or 1 (SOLOv2).
        kernel_dim: width of its layers.
        average_kernels: use the mean kernel of the 3x3 cells around the best one; it should make no difference.
        masked_template: hide what is not the target in its template.
        mask_input: give the trunk a mask as a fourth channel (ours): in a template the target's, in a search window
            what was found of the target in the frame before.
        coordinates: whether it sees where the pixel lies relative to the cell (CondInst), or not (SOLOv2).
        negatives: share of training pairs whose template is of another target.
        jitter: factor of shift and scale of the training windows.
        frozen_until: share of the run for which a pretrained trunk stays as it is. Then its layers 2 and 3 learn, while
            what is before them never does. From scratch everything learns from the start.
        pretrained_lr: factor of the learning rate of a pretrained trunk.
        penalty: how much a change of size or aspect counts against a cell.
        window: how much nearness to the last place counts, in [0, 1].
        lost_score: a target with a smaller score is lost: its state stays.
        lost_area: so is one with fewer pixels, unless its score is good: then its box decides.
        threshold: probability from which a pixel belongs to an object, in (0, 1).
        state_from: ``mask``, or ``box``: the state always follows the regressed box.
        compete: a state follows only what no other object claims more (ours); else what its own window shows.
        **kwargs: see :class:`~lightning_vos.module.VOSModule`.
    """

    stride = 1

    def __init__(
        self,
        trunk: Trunk = "resnet50",
        norm: Norm = "frozen_batch",
        backbone_weights: str | None = None,
        dim: int = 256,
        mask_dim: int = 128,
        mask_channels: int = 8,
        template_size: int = 129,
        search_size: int = 257,
        kernel: Kernel = "dynamic",
        kernel_layers: int = 3,
        kernel_dim: int = 8,
        average_kernels: bool = False,
        masked_template: bool = False,
        mask_input: bool = False,
        coordinates: bool = True,
        negatives: float = 0.2,
        jitter: float = 1.0,
        frozen_until: float = 0.5,
        pretrained_lr: float = 0.1,
        penalty: float = 0.04,
        window: float = 0.4,
        lost_score: float = 0.1,
        lost_area: float = 100.0,
        threshold: float = 0.5,
        state_from: Literal["mask", "box"] = "mask",
        compete: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.save_hyperparameters(ignore=["weights"])
        for name, value, choices in (("kernel", kernel, get_args(Kernel)), ("state_from", state_from, ("mask", "box"))):
            if value not in choices:
                raise ValueError(f"{name}={value}: choose from {', '.join(choices)}")
        for name, size in (("template_size", template_size), ("search_size", search_size)):
            if size % 16 != 1 or size < 65:
                raise ValueError(f"{name}={size}: must be 1 mod 16 and at least 65, so that a cell lies in the centre")
        if kernel_layers < 1:
            raise ValueError(f"kernel_layers={kernel_layers}: must be at least 1")
        for name, share in (("negatives", negatives), ("window", window), ("frozen_until", frozen_until)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name}={share}: must be from 0 to 1")
        if not 0 < threshold < 1:
            raise ValueError(f"threshold={threshold}: must be between 0 and 1")
        self.unit = template_size - 1
        self.search_size = search_size
        self.negatives = negatives
        self.jitter = jitter
        self.starts_pretrained = norm == "frozen_batch"
        self.frozen_until = frozen_until if self.starts_pretrained else 0.0
        self.pretrained_lr = pretrained_lr if self.starts_pretrained else 1.0
        self.average_kernels = average_kernels
        self.masked_template = masked_template
        self.mask_input = mask_input
        self.penalty = penalty
        self.window = window
        self.lost_score = lost_score
        self.lost_area = lost_area
        self.threshold = threshold
        self.state_from = state_from
        self.compete = compete

        self.head = DynamicHead(mask_channels, kernel_dim, kernel_layers, coordinates, self.unit // 2)
        self.network = SiameseNetwork(
            trunk, norm, backbone_weights, dim, mask_dim, self.head, mask_channels, kernel, 4 if mask_input else 3
        )
        self.templates = Templates()
        if self.starts_pretrained:
            self.network.trunk.stem.requires_grad_(mask_input)  # no pretrained weights know a mask
            self.network.trunk.layer1.requires_grad_(False)

    def parameter_groups(self) -> list[tuple[list[nn.Parameter], float]]:
        """A pretrained trunk learns more slowly than what is new."""
        trunk = [p for p in self.network.trunk.parameters() if p.requires_grad]
        known = {id(p) for p in trunk}
        return [
            ([p for p in self.parameters() if p.requires_grad and id(p) not in known], 1.0),
            (trunk, self.pretrained_lr),
        ]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Leave a pretrained trunk as it is at first: DDP has had its gradients, the optimiser gets none."""
        if self.progress < self.frozen_until:
            for parameter in self.network.trunk.parameters():
                parameter.grad = None

    # ---------------------------------------------------------------- the recursion

    @property
    def lost_targets(self) -> Tensor | None:
        """``(B, K)`` bool, objects that the last frame did not show; ``None`` before there is a template."""
        return self.templates.lost

    def encode(self, image: Tensor) -> Features:
        """Nothing to do for the whole frame."""
        return Features(image)

    def query(self, features: Features) -> Query:
        """Search all objects that have a template, in one batch: one window and one kernel each."""
        image, templates = features.image, self.templates
        if len(templates) == 0:
            return Query(image, image.new_zeros(0, 1, 1), None)
        target = Target(*(state.flatten(0, 1) for state in templates.target))
        windows = crop_frames(image, templates.target, self.unit, self.search_size)
        if self.mask_input:
            windows = torch.cat([windows, templates.found.flatten(0, 1).unsqueeze(1)], dim=1)
        prediction = self.network(self._as_input(windows), templates.where.flatten(0, 1), templates.what.flatten(0, 1))
        previous = target.size * (self.unit / target.side).unsqueeze(-1)
        choice = choose(prediction, previous, self.penalty, self.window)
        if self.average_kernels:
            theta = F.avg_pool2d(prediction.theta, 3, stride=1, padding=1, count_include_pad=False)
            prediction = prediction._replace(theta=theta)
        logits = self.decode(prediction, choice.cell.unsqueeze(1), 4).squeeze(1)
        return Query(image, torch.sigmoid(to_float(logits)), choice)

    def segment(self, query: Query) -> Tensor:
        """Paste the windows: ``(B, K, H, W)`` logits."""
        objects = len(self.templates)
        windows = query.windows.unflatten(0, (-1, objects))
        pasted = paste(windows, self.templates.target, self.unit, _size(query.image))
        # Shifted so that the threshold is where the merged object and the background are equal.
        logits = torch.logit(pasted.clamp(EPSILON, 1 - EPSILON)) - math.log(self.threshold / (1 - self.threshold))
        # Objects given on this very frame have no template yet; the given mask goes over whatever stands here.
        return F.pad(logits, (0, 0, 0, 0, 0, len(self.tracks.births) - objects))

    def memorize(self, query: Query, probs: Tensor, given: Tensor | None) -> None:
        """Move the states; make templates of the objects that start here."""
        templates = self.templates
        if query.choice is not None:
            shape = templates.centre.shape[:2]
            target = Target(*(state.flatten(0, 1) for state in templates.target))
            moved, lost = follow(
                target,
                query.choice,
                query.windows,
                self.unit,
                _size(query.image),
                self.lost_score,
                self.lost_area,
                self.state_from == "mask",
                self._in_windows(_largest(probs)[:, : shape[1]], target) if self.compete and shape[1] > 1 else None,
            )
            templates.target = Target(*(state.unflatten(0, shape) for state in moved))
            templates.lost = lost.view(shape) & self.tracks.present[:, : shape[1]]
        if given is not None:
            self._start(query.image, given)
        if self.mask_input:
            found = _largest(probs) & (probs > 1 - probs.sum(dim=1, keepdim=True))
            windows = self._in_windows(found, Target(*(state.flatten(0, 1) for state in templates.target)))
            templates.found = windows.unflatten(0, found.shape[:2]).to(probs.dtype)

    def _start(self, image: Tensor, given: Tensor) -> None:
        """Make templates of the objects whose mask is given here first; move older ones to what is given of them."""
        templates = self.templates
        place, seen = target_of(given > 0.5)
        place = Target(*(state.to(to_float(image).dtype) for state in place)).clamped(_size(image))
        windows = crop_templates(image, given, place, self.unit, self.masked_template, self.mask_input)
        where, what = (kernel.unflatten(0, seen.shape) for kernel in self.network.templates(self._as_input(windows)))
        new = torch.tensor([birth == self.tracks.t for birth in self.tracks.births], device=given.device)
        templates.grow(where, what, place, new)
        templates.target = place.where(seen, templates.target)  # also where an older object is corrected

    def _in_windows(self, masks: Tensor, target: Target) -> Tensor:
        """Masks ``(B, K, H, W)`` bool of the frame in the search windows of targets ``(B * K,)``: ``(B * K, m, m)``."""
        one_each = Target(*(state.unsqueeze(1) for state in target))
        windows = crop_masks(masks.flatten(0, 1).to(target.centre.dtype), one_each, self.unit, self.search_size, 1)
        return windows.squeeze(1) > 0.5

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
        return upsample(logits, factor).unflatten(0, (-1, count))

    def _as_input(self, windows: Tensor) -> Tensor:
        windows = windows.to(self.mean.dtype)
        return windows.contiguous(memory_format=torch.channels_last) if self.channels_last else windows

    # ---------------------------------------------------------------- training

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """Pairs of windows, made of the clips on the device; a state is never carried on in training."""
        size, length = batch.frames.shape[:2]
        frames = self.normalize(batch.frames.flatten(0, 1)).unflatten(0, (size, length))
        draws = draw(
            torch.initial_seed(), self.steps_done, self.places(size, batch_idx), max(1, length - 1), frames.device
        )
        turn = torch.arange(draws.shape[1], device=frames.device) + self.steps_done
        objects = turn % batch.num_objects.unsqueeze(1) + 1
        pairs = make_pairs(
            frames,
            batch.masks,
            objects,
            draws,
            self.unit,
            self.search_size,
            self.negatives,
            self.jitter,
            self.masked_template,
            self.mask_input,
        )
        where, what = self.network.templates(self._as_input(pairs.templates))
        where, what, searches = where[pairs.source], what[pairs.source], pairs.searches
        if self.mask_input:
            before = self._found_before(pairs, where, what, draws.shape[1])
            searches = torch.cat([searches, before.unsqueeze(1)], dim=1)
        prediction = self.network(self._as_input(searches), where, what)
        kernels = best_positives(prediction, pairs.cells.positive)
        focal, box, centreness = detection_losses(prediction, pairs.cells)
        logits = self.decode(prediction, kernels.cells, 2)
        dice, entropy = mask_losses(logits, pairs.masks[:, ::2, ::2], kernels.valid)

        positive = kernels.valid[:, 0].view(size, -1)
        every = torch.ones_like(positive)
        losses = {
            name: weight * mean_over_objects(loss.view(size, -1), counted)
            for name, loss, weight, counted in (
                ("cls", focal, 1.0, every),
                ("box", box, 1.0, positive),
                ("centreness", centreness, 1.0, positive),
                ("dice", dice, DICE_WEIGHT, positive),
                ("mask_entropy", entropy, 1.0, positive),
            )
        }
        return self.log_losses(losses, size)

    @torch.no_grad()
    def _found_before(self, pairs: Pairs, where: Tensor, what: Tensor, each: int) -> Tensor:
        """What the network sees of a target's mask in the frame before: ``(n, m, m)``, see :func:`previous_masks`.

        In every second pair of a clip it is made of the network's own mask, so that it learns to mend its mistakes
        instead of passing them on; half of these it has found without any mask.

        Args:
            pairs: n of them, ``each`` of a clip.
            where: ``(n, D, 5, 5)`` kernels of their templates.
            what: likewise.
            each: P.
        """
        before = previous_masks(pairs.masks, pairs.spoil, self.unit, self.jitter)
        own = torch.arange(len(before), device=before.device).unflatten(0, (-1, each))[:, 1::2].flatten()
        if len(own) == 0:
            return before
        seen = before[own] * (pairs.spoil[own, 3] < 0.5)[:, None, None]
        windows = torch.cat([pairs.searches[own], seen.unsqueeze(1)], dim=1)
        prediction = self.network(self._as_input(windows), where[own], what[own])
        masks = self.decode(prediction, prediction.score.argmax(dim=1, keepdim=True), 4).squeeze(1) > 0
        before[own] = previous_masks(masks.to(before.dtype), pairs.spoil[own], self.unit, self.jitter)
        return before


def _largest(probs: Tensor) -> Tensor:
    """Where no other object is more probable: ``(B, K, H, W)`` to bool."""
    return probs >= probs.amax(dim=1, keepdim=True)


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]
