"""The contract of a method, and the one recursion over frames; needs torch alone."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_vos.blocks.folding import folded_norms
from lightning_vos.functional import aggregate, pad_to_stride, to_float, unpad
from lightning_vos.memory import SequenceState
from lightning_vos.tracks import Tracks

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Query = Any  # what a method makes of a frame: a NamedTuple of tensors with the batch first


class Segmenter(nn.Module):
    """A network for semi-supervised video object segmentation.

    A method defines :meth:`encode`, :meth:`segment` and :meth:`memorize`, and optionally :meth:`query` and
    :meth:`merge`. It holds what it remembers in modules derived from :class:`~lightning_vos.memory.SequenceState`.

    A user's own loop::

        model = lightning_vos.load("last.ckpt")
        with model.sequence():
            logits = model.step(first_frame, mask)      # (1, 3, H, W) uint8 and (1, K, H, W) one-hot
            for frame in frames:
                logits = model.step(frame)              # (1, K+1, H, W), background first

    Args:
        channels_last: memory format of images and, in training, of filters; the faster one on recent CPUs and GPUs.

    Attributes:
        stride: frames are padded to multiples of it.
        folds_norms: sequences in eval mode run in inference form, see :mod:`~lightning_vos.blocks.folding`; for methods
            of whose frame that saves more than 3 %.
        tracks: which objects are followed, and where they were last.
    """

    stride = 16
    folds_norms = False
    mean: Tensor
    std: Tensor

    def __init__(self, channels_last: bool = True) -> None:
        super().__init__()
        self.channels_last = channels_last
        self.tracks = Tracks()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    # ---------------------------------------------------------------- what a method defines

    @abstractmethod
    def encode(self, image: Tensor) -> Query:
        """Features of frames, independent of any state: a NamedTuple of tensors ``(B, ...)``.

        Args:
            image: ``(B, 3, H, W)`` normalised, sides multiples of ``stride``. In training all B*T frames at once.
        """

    def query(self, features: Query) -> Query:
        """What of the features depends on the state, computed once per frame; by default the features themselves."""
        return features

    @abstractmethod
    def segment(self, query: Query) -> Tensor:
        """Read the state.

        Returns:
            ``(B, K', H, W)`` in [0, 1]: the probability of each object on its own. K' is ``tracks.started``, the
            objects of earlier frames; those that start on this frame have nothing to be read yet.
        """

    @abstractmethod
    def memorize(self, query: Query, probs: Tensor, merged: Tensor, given: Tensor | None) -> None:
        """Write the state.

        Args:
            query: of the frame just segmented.
            probs: ``(B, K, H, W)`` probability of each object on its own; of a given object its mask.
            merged: ``(B, K, H, W)`` the same after :meth:`merge`: with the background they sum to 1.
            given: ``(B, K, H, W)`` masks given on this frame, if any: the frame must be remembered.
        """

    def merge(self, probs: Tensor) -> Tensor:
        """Object probabilities ``(B, K, H, W)`` to logits ``(B, K+1, H, W)``, background first: soft aggregation."""
        return aggregate(probs)

    # ---------------------------------------------------------------- the state of a sequence

    @contextmanager
    def sequence(self) -> Iterator[None]:
        """The life of one sequence's state: empty before, empty after, also after an exception.

        With ``folds_norms`` weights that are loaded within count from the next sequence on.

        Raises:
            RuntimeError: inside another sequence of the same module: it holds the state of one.
        """
        if self._running:
            raise RuntimeError("sequence() inside a sequence: a model follows one at a time; use a copy for the second")
        states = self._states().values()
        for state in states:
            state.reset()
        self._running = True
        try:
            with folded_norms(self) if self.folds_norms else nullcontext():
                yield
        finally:
            self._running = False
            for state in states:
                state.reset()

    def sequence_state(self) -> dict[str, Any]:
        """All that the running sequence remembers, to continue it later or elsewhere: tensors and plain values.

        Save it at once: the next frame may change the tensors in place.
        """
        return {name: state.snapshot() for name, state in self._states().items()}

    def load_sequence_state(self, state: dict[str, Any]) -> None:
        """Continue, inside :meth:`sequence`, where :meth:`sequence_state` was taken, as if nothing had happened."""
        for name, module in self._states().items():
            module.restore(state[name])

    def _states(self) -> dict[str, SequenceState]:
        return {name: module for name, module in self.named_modules() if isinstance(module, SequenceState)}

    _running = False

    # ---------------------------------------------------------------- the recursion

    @torch.inference_mode()
    def step(self, frame: Tensor, mask: Tensor | None = None, remember: bool = True) -> Tensor:
        """Segment the next frame of the sequence.

        Args:
            frame: ``(B, 3, H, W)`` uint8 RGB. All frames of a sequence have one size.
            mask: ``(B, K, H, W)`` one-hot of the objects given on this frame. Needed on the first frame; later ones
                may add objects (K grows, old ones stay empty unless they are corrected). Given masks come back as
                they are.
            remember: write the frame to the state; not needed for the last one. With a mask it is written in any case.

        Returns:
            ``(B, K+1, H, W)`` logits, background first; their softmax over dim 1 is the probability.

        Raises:
            RuntimeError: outside ``with model.sequence():``, or no mask on the first frame.
            ValueError: frame or mask of a wrong type or shape.
        """
        if not self._running:
            raise RuntimeError("step() outside a sequence: call it inside `with model.sequence():`")
        _check_frame(frame)
        if mask is None and self.tracks.t == 0:
            raise RuntimeError("step() without a mask on the first frame: give the masks of the objects to follow")
        if mask is not None:
            _check_mask(mask, frame)
            mask = pad_to_stride(mask.to(self.mean.dtype), self.stride)[0]
        padded, pads = pad_to_stride(frame, self.stride)
        if self.tracks.probs is not None and self.tracks.probs.shape[-2:] != padded.shape[-2:]:
            raise ValueError(f"frame {self.tracks.t} is {tuple(frame.shape[-2:])}, the first one had another size")
        logits = self.advance(self.encode(self.normalize(padded)), mask, remember=remember)
        return unpad(logits, pads)

    def advance(
        self,
        features: Query,
        given: Tensor | None,
        present: Tensor | None = None,
        remember: bool = True,
        teacher: Tensor | None = None,
    ) -> Tensor:
        """One frame of the recursion, the only one there is: evaluation, :meth:`step` and unrolled clips come here.

        Args:
            features: of the frame, from :meth:`encode`.
            given: ``(B, K, H, W)`` masks given on this frame, padded.
            present: ``(B, K)`` bool, which objects exist in which clip; by default those with a pixel in ``given``.
            remember: whether the state is written.
            teacher: ``(B, K, H, W)`` masks to remember of the frame instead of its own (teacher forcing).

        Returns:
            ``(B, K+1, H, W)`` merged logits, padded.
        """
        tracks = self.tracks
        tracks.begin_frame(given, present)
        query = self.query(features)
        if tracks.t == 0:
            if given is None:
                raise RuntimeError("the first frame of a sequence needs the masks of the objects to follow")
            probs = given
        else:
            probs = to_float(self.segment(query))
            newborn = len(tracks.births) - probs.shape[1]
            probs = F.pad(probs, (0, 0, 0, 0, 0, newborn)) * tracks.present[:, :, None, None]
            if given is not None:
                # The given objects are what they are given as, and nobody else is there.
                is_given = given.flatten(2).any(dim=2)[:, :, None, None]
                probs = torch.where(is_given, given, probs * (1 - given.amax(dim=1, keepdim=True)))
        logits = self.merge(probs)
        tracks.probs = torch.softmax(logits, dim=1)
        if remember or given is not None:  # a given mask is never forgotten
            merged = tracks.probs[:, 1:]
            self.memorize(query, *((probs, merged) if teacher is None else (teacher, teacher)), given)
        tracks.t += 1
        return logits

    def normalize(self, frame: Tensor) -> Tensor:
        """``(B, 3, H, W)`` uint8 to the module's dtype, ImageNet mean and deviation; padding is black before that."""
        image = (frame.to(self.mean.dtype) / 255 - self.mean) / self.std
        return image.contiguous(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)

    # ---------------------------------------------------------------- draws in training

    @property
    def steps_done(self) -> int:
        """Optimiser steps of the run so far; 0 outside a run. Draws are functions of it, so that they resume."""
        return 0

    def draw(self, *place: object) -> random.Random:
        """The random numbers of a place: equal on every device, for any number of processes and after a restart.

        Args:
            place: what they are for, such as the number of a clip in the global batch.
        """
        return random.Random(" ".join(map(str, (torch.initial_seed(), self.steps_done, *place))))


def _check_frame(frame: Tensor) -> None:
    if frame.ndim != 4 or frame.shape[1] != 3 or frame.dtype != torch.uint8:
        raise ValueError(f"frame is {tuple(frame.shape)} {frame.dtype}: give (B, 3, H, W) uint8 RGB")


def _check_mask(mask: Tensor, frame: Tensor) -> None:
    expected = (frame.shape[0], *frame.shape[-2:])
    if mask.ndim != 4 or (mask.shape[0], *mask.shape[-2:]) != expected or mask.shape[1] == 0:
        raise ValueError(
            f"mask is {tuple(mask.shape)} for a frame {tuple(frame.shape)}: give a (B, K, H, W) one-hot, K >= 1"
        )
    low, high = mask.min().item(), mask.max().item()
    if low < 0 or high > 1:
        raise ValueError(f"mask holds {low:g} to {high:g}: give one channel of 0 and 1 per object, not ids or 0/255")
    if mask.shape[1] > 1 and (overlap := mask.float().sum(dim=1).max().item()) > 1.001:
        raise ValueError(f"the objects of the mask overlap (they sum to {overlap:.3g}): a pixel belongs to one object")
