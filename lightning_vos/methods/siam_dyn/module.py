"""SiamDyn: Siamese dynamic mask estimation network.

Hong et al., "Siamese Dynamic Mask Estimation Network for Fast Video Object Segmentation", ICPR 2020. No code is known,
and of the paper only the abstract and the poster could be had: the design here honours their description, and fills
the gaps from SiamMask, SiamCAR, FCOS and CondInst. ``docs/siam_dyn.md`` says which is which.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning import Callback
from torch import Tensor

from lightning_vos.blocks.backbone import Backbone
from lightning_vos.blocks.normalization import Norm
from lightning_vos.losses import mean_over_objects
from lightning_vos.methods.siam_dyn.correlation import Template
from lightning_vos.methods.siam_dyn.losses import best_positives, detection_losses, mask_losses
from lightning_vos.methods.siam_dyn.lost_targets import LostTargets
from lightning_vos.methods.siam_dyn.pairs import Pairs, PairSettings, draw_numbers, make_pairs
from lightning_vos.methods.siam_dyn.previous_mask import PARTS, previous_masks
from lightning_vos.methods.siam_dyn.segmenter import SiamDynSegmenter
from lightning_vos.module import VOSModule
from lightning_vos.types import ClipBatch

DICE_WEIGHT = 3.0  # SOLO's; all other losses count once


class SiamDyn(VOSModule, SiamDynSegmenter):
    """SiamDyn in training: on pairs of windows, first with a frozen trunk.

    Args:
        norm: see :class:`~lightning_vos.methods.siam_dyn.segmenter.SiamDynSegmenter`.
        negatives: share of training pairs whose template is of another target.
        jitter: factor of shift and scale of the training windows.
        frozen_until: share of the run for which a pretrained trunk stays as it is. Then its layers 2 and 3 learn, while
            what is before them never does. From scratch everything learns from the start.
        trunk_lr: factor of the learning rate of a pretrained trunk.
        **kwargs: see :class:`~lightning_vos.module.VOSModule` and
            :class:`~lightning_vos.methods.siam_dyn.segmenter.SiamDynSegmenter`.

    Raises:
        ValueError: a share outside [0, 1].
    """

    pretrained = ("backbone_weights",)

    def __init__(
        self,
        norm: Norm = "frozen_batch",
        negatives: float = 0.2,
        jitter: float = 1.0,
        frozen_until: float = 0.5,
        trunk_lr: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(norm=norm, trunk_lr=trunk_lr, **kwargs)
        for name, share in (("negatives", negatives), ("frozen_until", frozen_until)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name}={share}: must be from 0 to 1")
        starts_pretrained = norm == "frozen_batch"
        self.frozen_until = frozen_until if starts_pretrained else 0.0
        self.pairs = PairSettings(self.unit, self.search_size, negatives, jitter, self.masked_template, self.mask_input)
        if starts_pretrained:
            self.network.trunk.freeze_shallow()

    def trunks(self) -> list[Backbone]:
        """The trunk, if it is pretrained, whatever it sees beside pictures."""
        return [trunk for trunk in [self.network.trunk] if trunk.norm == "frozen_batch"]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Leave a pretrained trunk as it is at first: DDP has had its gradients, the optimiser gets none."""
        if self.progress < self.frozen_until:
            for parameter in self.network.trunk.parameters():
                parameter.grad = None

    def configure_callbacks(self) -> list[Callback]:
        """How often targets are lost in an evaluation."""
        return [*super().configure_callbacks(), LostTargets()]

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """Loss of pairs of windows, made of the clips on the device.

        This is not the recursion over frames that is tested: every pair is cut around the true target, and no state
        goes from one frame to the next. What tracking adds (where a state goes, who competes) is not trained.
        """
        size, length = batch.frames.shape[:2]
        frames = self.normalize(batch.frames.flatten(0, 1)).unflatten(0, (size, length))
        each = max(1, length - 1)  # pairs of a clip
        draws = draw_numbers(self.draw, self.batch_places(size, batch_idx), each, frames.device)
        turn = torch.arange(each, device=frames.device) + self.steps_done
        objects = turn % batch.num_objects.unsqueeze(1) + 1
        pairs = make_pairs(frames, batch.masks, objects, draws, self.pairs)

        template = self.network.template(self.as_input(pairs.templates)).of(pairs.source)
        searches = pairs.searches
        if self.mask_input:
            searches = torch.cat([searches, self._found_before(pairs, template, each).unsqueeze(1)], dim=1)
        prediction = self.network(self.as_input(searches), template)
        cells, valid = best_positives(prediction, pairs.cells.positive)
        focal, box, centreness = detection_losses(prediction, pairs.cells)
        logits = self.decode(prediction, cells, factor=2)
        dice, entropy = mask_losses(logits, pairs.masks[:, ::2, ::2], valid)

        positive = valid[:, 0].view(size, each)
        every = torch.ones_like(positive)
        losses = {
            "cls": mean_over_objects(focal.view(size, each), every),
            "box": mean_over_objects(box.view(size, each), positive),
            "centreness": mean_over_objects(centreness.view(size, each), positive),
            "dice": DICE_WEIGHT * mean_over_objects(dice.view(size, each), positive),
            "mask_entropy": mean_over_objects(entropy.view(size, each), positive),
        }
        return self.log_losses(losses, size)

    @torch.no_grad()
    def _found_before(self, pairs: Pairs, template: Template, each: int) -> Tensor:
        """What the network sees of a target's mask in the frame before: ``(n, m, m)``, see :func:`previous_masks`.

        In every second pair of a clip it is made of the network's own mask, so that it learns to mend its mistakes
        instead of passing them on; half of these it has found without any mask.

        Args:
            pairs: n of them, ``each`` of a clip.
            template: of their targets.
            each: P.
        """
        unit, jitter = self.pairs.unit, self.pairs.jitter
        before = previous_masks(pairs.masks, pairs.spoil, unit, jitter)
        own = torch.arange(len(before), device=before.device).unflatten(0, (-1, each))[:, 1::2].flatten()
        if len(own) == 0:
            return before
        _, nothing, _ = pairs.spoil[own].split(PARTS, dim=1)
        seen = before[own].masked_fill((nothing >= 0.5).unsqueeze(2), 0)
        windows = torch.cat([pairs.searches[own], seen.unsqueeze(1)], dim=1)
        prediction = self.network(self.as_input(windows), template.of(own))
        masks = self.decode(prediction, prediction.score.argmax(dim=1, keepdim=True), factor=4).squeeze(1) > 0
        before[own] = previous_masks(masks.to(before.dtype), pairs.spoil[own], unit, jitter)
        return before
