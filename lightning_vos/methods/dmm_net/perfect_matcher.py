"""A matcher that knows the truth: what is then scored is the rest of the method."""

from __future__ import annotations

from collections.abc import Callable

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from lightning_vos.frame_callback import FrameCallback
from lightning_vos.functional import intersection_over_union
from lightning_vos.methods.dmm_net.proposal_recall import padded_truth
from lightning_vos.methods.dmm_net.segmenter import DMMNetSegmenter
from lightning_vos.video import Video


class Oracle(nn.Module):
    """Takes a matcher's place: every object gets the proposal that covers it best, or none where none meets it.

    Args:
        matcher: matches the frames whose truth is not known.
        proposals: gives the proposals ``(B, m, H, W)`` of the frame that is being matched.

    Attributes:
        truth: ``(B, K, H, W)`` masks of the next frame, padded, of all objects, those included that start later; for
            one frame only.
    """

    def __init__(self, matcher: nn.Module, proposals: Callable[[], Tensor]) -> None:
        super().__init__()
        self.matcher = matcher
        self.proposals = proposals
        self.truth: Tensor | None = None

    def forward(self, similarity: Tensor, followed: Tensor, valid: Tensor) -> Tensor:
        """As :class:`~lightning_vos.methods.dmm_net.matcher.Matcher`; with a truth, similarities do not count."""
        truth, self.truth = self.truth, None
        if truth is None:
            return self.matcher(similarity, followed, valid)
        covered = intersection_over_union(truth[:, : followed.shape[1]] > 0.5, self.proposals() > 0.5)
        best = covered.masked_fill(~valid.unsqueeze(1), 0).max(dim=2, keepdim=True)
        found = (best.values > 0) & followed.unsqueeze(2)
        return torch.zeros_like(similarity).scatter(2, best.indices, found.to(similarity.dtype))


class PerfectMatcher(FrameCallback):
    """Puts an :class:`Oracle` in the place of the matcher and shows it the truth of every frame.

    ``--trainer.callbacks+=lightning_vos.methods.dmm_net.PerfectMatcher`` at evaluation; with
    ``--model.decoder.refinement=false`` what the proposals alone allow.

    Raises:
        ValueError: another method, or training.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the matcher's place."""
        if not isinstance(pl_module, DMMNetSegmenter) or stage == "fit":
            raise ValueError(
                f"--trainer.callbacks: PerfectMatcher with {type(pl_module).__name__}, {stage}: it is for the "
                "evaluation of DMM-Net; take it off"
            )
        self._oracle = Oracle(pl_module.matcher, lambda: pl_module.state.proposals)
        pl_module.matcher = self._oracle

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give it back."""
        assert isinstance(pl_module, DMMNetSegmenter)
        pl_module.matcher = self._oracle.matcher

    def on_frame_start(self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int) -> None:
        """Hand over the truth of the frame that comes next."""
        assert isinstance(pl_module, DMMNetSegmenter)
        if t == 0:
            self._size = video.read_frame(0).shape[-2:]
        truth = padded_truth(video, t, self._size, pl_module.stride)
        self._oracle.truth = None if truth is None else truth.unsqueeze(0).to(video.device)
