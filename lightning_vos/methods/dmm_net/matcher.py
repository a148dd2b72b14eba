"""DMM-Net's matcher: similarities of templates and proposals in, weights of the proposals out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_vos.methods.dmm_net.matching import Mode, add_dummies, hungarian, relaxed_assignment
from lightning_vos.settings import Checked

GATE = 0.01  # in training, smaller weights do not reach the matched mask
TRAINING_STEPS = 10  # N_grad; 40 at test time


@dataclass(frozen=True)
class MatchingSettings(Checked):
    """How templates are compared with proposals and matched to them.

    Args:
        matcher: how templates are matched at test time: ``paper`` (40 steps of unrolled descent, last iterate),
            ``exact`` (until the optimum is clear), ``hungarian`` (the optimum, by scipy, on the host), or ``official``
            (what the released weights were trained with: the mean over unprojected iterates, whose value scales the
            mask; also in training).
        overlap_weight: lambda, share of the IoU with the previous mask in the similarity; the rest is the cosine of the
            features.
        score_weight: what the detector's score of a proposal counts beside the similarity; nothing in the paper. Of two
            proposals of one object, the better one mostly has the higher score, and both are alike to the template.
        pooling: ``box``: the feature of a proposal is the mean over its box (the paper's); ``mask``: under its mask.
        absent_similarity: tau: a template whose similarities, scores included, are all below may stay unmatched. Null:
            every template gets a proposal, as in the paper.
    """

    matcher: Literal["paper", "official", "exact", "hungarian"] = "paper"
    overlap_weight: float = 0.3
    score_weight: float = 0.0
    pooling: Literal["box", "mask"] = "box"
    absent_similarity: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is not among the choices, and weights out of range."""
        super().__post_init__()
        if not 0 <= self.overlap_weight <= 1:
            raise ValueError(f"matching.overlap_weight={self.overlap_weight}: must be from 0 to 1")
        if self.score_weight < 0:
            raise ValueError(f"matching.score_weight={self.score_weight}: must be at least 0")


class Matcher(nn.Module):
    """Which proposals make up the mask of every template: relaxed in training, decided at test time. No parameters.

    Args:
        settings: see there; ``matcher`` and ``absent_similarity`` are what counts here.
    """

    def __init__(self, settings: MatchingSettings = MatchingSettings()) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, similarity: Tensor, followed: Tensor, valid: Tensor) -> Tensor:
        """Weights of the proposals in every matched mask.

        Args:
            similarity: ``(B, K, m)``, larger is better.
            followed: ``(B, K)`` bool, templates that are to be matched.
            valid: ``(B, m)`` bool, proposals that exist.

        Returns:
            ``(B, K, m)``: in training all weights above 0.01 of the relaxed assignment, with a gradient; at test time
            one-hot (with ``official`` the entry's own value), or all zero for a template that stays unmatched.
        """
        count = similarity.shape[2]
        cost, columns = self._problem(similarity, followed, valid)
        match = self._relaxed if self.training else self._decided
        return match(cost, followed, columns)[..., :count].to(similarity.dtype)

    def _problem(self, similarity: Tensor, followed: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Cost ``(B, K, n)`` and which columns exist ``(B, n)``: proposals, ways to be absent, dummies."""
        cost = -similarity
        if self.settings.absent_similarity is not None:
            # As many ways to be absent as templates, so that none compete; of the clip, not of the batch.
            cost = F.pad(cost, (0, cost.shape[1]), value=-self.settings.absent_similarity)
            valid = torch.cat([valid, followed], dim=1)
        return add_dummies(cost, followed, valid)

    def _relaxed(self, cost: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        mode: Mode = "official" if self.settings.matcher == "official" else "paper"
        x = relaxed_assignment(cost, rows, columns, mode=mode, steps=TRAINING_STEPS)
        return x * (x.detach() > GATE)

    def _decided(self, cost: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        if self.settings.matcher == "hungarian":
            return hungarian(cost, rows, columns)
        official = self.settings.matcher == "official"
        x = relaxed_assignment(cost, rows, columns, mode=self.settings.matcher, average=official)
        chosen = heaviest(x, rows)
        return chosen * x if official else chosen


def heaviest(weights: Tensor, followed: Tensor) -> Tensor:
    """``(B, K, m)`` one-hot: of every template that is ``followed (B, K)`` the proposal that weighs most."""
    return torch.zeros_like(weights).scatter(2, weights.argmax(dim=2, keepdim=True), 1) * followed.unsqueeze(2)
