"""One frame of a segmenter as a pure function of tensors, which can be exported.

:meth:`Segmenter.step` keeps its state in the module, decides in Python, and grows. Here the state goes in and out, and
every decision is a tensor. What a method computes is its own code in both; ``tests/test_export.py`` holds the two
recursions together, frame for frame.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_vos.functional import pad_to_stride, unpad
from lightning_vos.segmenter import Segmenter

State = dict[str, Tensor]


class Entry(NamedTuple):
    """A tensor of the state: its type, and its shape; a size that may differ from run to run is named.

    ``objects`` is K, fixed for a sequence; ``slots`` the number of stored frames, which starts at 0 and is bounded.
    """

    dtype: torch.dtype
    shape: tuple[int | str, ...]

    def zeros(self, **sizes: int) -> Tensor:
        """What a sequence starts from; the named sizes are given."""
        return torch.zeros([sizes[n] if isinstance(n, str) else n for n in self.shape], dtype=self.dtype)


class Given(NamedTuple):
    """What is known of the objects before a frame is segmented.

    Attributes:
        mask: ``(1, K, H, W)`` masks given on this frame, padded; 0 where there are none.
        objects: ``(1, K)`` bool, those with a pixel in it.
        any: ``()`` bool, whether there is one: then the frame is remembered.
        new: ``(1, K)`` bool, objects that start on this frame.
        present: ``(1, K)`` bool, those that have been given by now.
        first: ``()`` bool, whether the sequence starts here.
        t: ``()`` int64, number of the frame.
    """

    mask: Tensor
    objects: Tensor
    any: Tensor
    new: Tensor
    present: Tensor
    first: Tensor
    t: Tensor


class FrameStep(nn.Module):
    """:meth:`Segmenter.step` for one video of one size; a method derives from it in its module ``export``.

    The number of objects is fixed for a sequence. One that is given later has an empty mask until then. A sequence
    starts from a state of zeros.

    Args:
        model: the network, in evaluation mode.
        size: ``(H, W)`` of the frames.
    """

    def __init__(self, model: Any, size: tuple[int, int]) -> None:
        super().__init__()
        self.model: Any = model
        self.size = size
        self.padded = (size[0] + -size[0] % model.stride, size[1] + -size[1] % model.stride)

    @property
    @abstractmethod
    def entries(self) -> Mapping[str, Entry]:
        """The state of the method, beside ``t`` and ``present``."""

    @abstractmethod
    def segment(self, image: Tensor, given: Given, state: State) -> tuple[Any, Tensor]:
        """What :meth:`Segmenter.query` and :meth:`Segmenter.segment` do.

        Args:
            image: ``(1, 3, H, W)`` normalised and padded.
            given: see there.
            state: see ``entries``.

        Returns:
            Whatever :meth:`memorize` needs, and ``(1, K, H, W)`` probabilities: finite, also on the first frame.
        """

    @abstractmethod
    def memorize(self, query: Any, merged: Tensor, given: Given, state: State) -> State:
        """What :meth:`Segmenter.memorize` does: the state after the frame.

        Args:
            query: from :meth:`segment`.
            merged: ``(1, K + 1, H, W)`` probabilities, background first.
            given: see there.
            state: before the frame.
        """

    def forward(self, frame: Tensor, mask: Tensor, state: State) -> tuple[Tensor, State]:
        """One frame.

        Args:
            frame: ``(1, 3, H, W)`` uint8 RGB.
            mask: ``(1, K, H, W)`` float32, one-hot; all 0 where no mask is given.
            state: before the frame.

        Returns:
            ``(1, K+1, H, W)`` logits, background first; the state after the frame.
        """
        model: Segmenter = self.model
        padded, pads = pad_to_stride(frame.to(model.mean.dtype), model.stride)
        mask = pad_to_stride(mask, model.stride)[0]
        objects = (mask > 0).flatten(2).any(dim=2)
        first = state["t"] == 0
        new = first | (objects & ~state["present"])  # as in Tracks: on the first frame all get a place
        given = Given(mask, objects, objects.any(), new, state["present"] | objects, first, state["t"])

        query, probs = self.segment(model.normalize(padded), given, state)
        probs = probs * given.present[..., None, None]
        probs = torch.where(objects[..., None, None], mask, probs * (1 - mask.amax(dim=1, keepdim=True)))
        logits = model.merge(probs)
        after = self.memorize(query, torch.softmax(logits, dim=1), given, state)
        after = {"t": state["t"] + 1, "present": given.present, **after}
        return unpad(logits, pads), {name: after[name] for name in self.state()}

    def state(self) -> dict[str, Entry]:
        """All of the state."""
        common = {"t": Entry(torch.int64, ()), "present": Entry(torch.bool, (1, "objects"))}
        return {**common, **self.entries}
