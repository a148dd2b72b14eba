"""DMM-Net's decoder, that of RVOS (Ventura et al., CVPR 2019): ConvLSTM cells that correct or redraw matched masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_vos.blocks.decoder import conv3x3

LEVELS = 4  # strides 32, 16, 8 and 4, in this order
Mask = Literal["previous", "first", "matched"]


@dataclass(frozen=True)
class DecoderSettings:
    """The refinement of matched masks.

    Args:
        refinement: decode the matched masks; else they are the result.
        residual: let the decoder correct the matched mask, whose log-odds are added to its own, instead of drawing it
            anew as in the paper: from scratch, it learns to draw much later than it learns to match.
        masks: what the decoder sees of an object: its ``previous`` mask, its ``first`` one, the ``matched`` one; in the
            paper all three. One filter serves them all, so it cannot tell them apart: where things move far, the first
            mask is noise.
        across_objects: let the decoder's state pass from object to object, as in the paper. The order of the objects
            then matters.
    """

    refinement: bool = True
    residual: bool = False
    masks: tuple[Mask, ...] = get_args(Mask)
    across_objects: bool = True

    def __post_init__(self) -> None:
        """Refuse masks that do not exist, and none at all."""
        if not self.masks or set(self.masks) - set(get_args(Mask)):
            raise ValueError(f"decoder.masks={list(self.masks)}: choose from {', '.join(get_args(Mask))}")


class ConvLSTMCell(nn.Module):
    """One level of the decoder: a ConvLSTM that is run once for each mask channel, and averaged over them.

    Its input is ``[from below, skip, mask, hidden of the object before, hidden of the frame before]``; the memory cell
    is passed on from object to object only. A convolution is linear in its input, so what the objects share (the skip)
    is convolved once for all of them, and what the mask channels share once for all of those.

    Args:
        below: channels of the hidden state of the coarser level.
        skip: channels of the skip.
        hidden: channels of the state.
    """

    def __init__(self, below: int, skip: int, hidden: int) -> None:
        super().__init__()
        self.gates = conv3x3(below + skip + 1 + 2 * hidden, 4 * hidden)
        self.parts = (below, skip, 1, hidden, hidden)

    def split(self) -> list[Tensor]:
        """The filters of each part of the input: below, skip, mask, previous object, previous frame."""
        return list(self.gates.weight.split(self.parts, dim=1))

    def shared(self, skip: Tensor) -> Tensor:
        """What the frame contributes to the gates of every object: ``(B, C, h, w)`` to ``(B, 4 * hidden, h, w)``."""
        return F.conv2d(skip, self.split()[1], self.gates.bias, padding=1)

    def forward(
        self,
        shared: Tensor,
        masks: Tensor,
        below: Tensor | None,
        spatial: tuple[Tensor, Tensor] | None,
        temporal: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """One step for one object of every clip (or for any batch).

        Args:
            shared: ``(B, 4 * hidden, h, w)``, see :meth:`shared`.
            masks: ``(B, C, h, w)`` mask channels.
            below: ``(B, below, h, w)`` hidden state of the coarser level, up-sampled.
            spatial: hidden and cell state ``(B, hidden, h, w)`` of the object before; ``None``: zeros.
            temporal: ``(B, hidden, h, w)`` hidden state of the same object in the frame before.

        Returns:
            Hidden and cell state, ``(B, hidden, h, w)``.
        """
        of_below, _, of_mask, of_spatial, of_temporal = self.split()
        inputs, filters = [temporal], [of_temporal]
        if below is not None:
            inputs, filters = [below, *inputs], [of_below, *filters]
        if spatial is not None:
            inputs, filters = [*inputs, spatial[0]], [*filters, of_spatial]
        common = shared + F.conv2d(torch.cat(inputs, dim=1), torch.cat(filters, dim=1), padding=1)
        by_mask = F.conv2d(masks.flatten(0, 1).unsqueeze(1), of_mask, padding=1).unflatten(0, masks.shape[:2])
        enter, forget, leave, candidate = (common.unsqueeze(1) + by_mask).chunk(4, dim=2)
        cell = torch.sigmoid(enter) * torch.tanh(candidate)
        if spatial is not None:
            cell = cell + torch.sigmoid(forget) * spatial[1].unsqueeze(1)
        return (torch.sigmoid(leave) * torch.tanh(cell)).mean(dim=1), cell.mean(dim=1)


class Decoder(nn.Module):
    """Refines matched masks: ConvLSTM cells from stride 32 to 4, recurrent over objects and over frames.

    Args:
        dim: h; the hidden states have h, h/2, h/4 and h/8 channels.
        settings: see there; with ``residual`` there is no correction until one is learned.
    """

    def __init__(self, dim: int = 128, settings: DecoderSettings = DecoderSettings()) -> None:
        super().__init__()
        self.dims = tuple(dim // 2**level for level in range(LEVELS))
        skips = (dim, dim, dim // 2, dim // 4)
        below = (0, *self.dims[:-1])
        self.cells = nn.ModuleList(ConvLSTMCell(*channels) for channels in zip(below, skips, self.dims, strict=True))
        self.predict = conv3x3(self.dims[-1], 1)
        if settings.residual:
            nn.init.zeros_(self.predict.weight)
            nn.init.zeros_(self.predict.get_parameter("bias"))
        self.across_objects = settings.across_objects

    def forward(
        self, skips: Sequence[Tensor], masks: Tensor, temporal: Sequence[Tensor], present: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Refine all objects of a frame.

        Args:
            skips: of the frame, strides 32 to 4.
            masks: ``(B, K, C, H, W)``, mask channels (the paper's: previous mask, first mask, matched mask), each in
                [0, 1].
            temporal: ``(B, K, hidden, h, w)`` hidden states of the frame before, strides 32 to 4.
            present: ``(B, K)`` bool, objects that exist; the others leave the state as they found it.

        Returns:
            ``(B, K, H, W)`` logits, and the new hidden states.
        """
        batch, objects, channels = masks.shape[:3]
        pyramid = _max_pyramid(masks.flatten(0, 2).unsqueeze(1))
        levels = [level.view(batch, objects, channels, *level.shape[-2:]) for level in pyramid]
        shared = [cell.shared(skip) for cell, skip in zip(self.cells, skips, strict=True)]  # type: ignore[operator]
        if self.across_objects:
            turns = [(slice(k, k + 1), shared) for k in range(objects)]
        else:
            turns = [(slice(None), [part.repeat_interleave(objects, dim=0) for part in shared])]
        before: list[tuple[Tensor, Tensor]] | None = None
        hidden: list[list[Tensor]] = []
        for chosen, frame in turns:
            states = self._object(
                frame,
                [level[:, chosen].flatten(0, 1) for level in levels],
                [state[:, chosen].flatten(0, 1) for state in temporal],
                before,
            )
            hidden.append([state.unflatten(0, (batch, -1)) for state, _ in states])
            if self.across_objects:
                before = _passed_on(states, before, present[:, chosen, None, None])
        stacked = [torch.cat(parts, dim=1) for parts in zip(*hidden, strict=True)]
        finest = _resize(stacked[-1].flatten(0, 1), tuple(2 * side for side in stacked[-1].shape[-2:]))
        logits = _resize(self.predict(finest), masks.shape[-2:])
        return logits.view(batch, objects, *masks.shape[-2:]), stacked

    def _object(
        self,
        shared: Sequence[Tensor],
        masks: Sequence[Tensor],
        temporal: Sequence[Tensor],
        spatial: list[tuple[Tensor, Tensor]] | None,
    ) -> list[tuple[Tensor, Tensor]]:
        """Hidden and cell states of all levels, one object of every clip."""
        states: list[tuple[Tensor, Tensor]] = []
        for level, cell in enumerate(self.cells):
            below = _resize(states[-1][0], shared[level].shape[-2:]) if states else None
            before = None if spatial is None else spatial[level]
            states.append(cell(shared[level], masks[level], below, before, temporal[level]))
        return states


def _passed_on(
    states: list[tuple[Tensor, Tensor]], before: list[tuple[Tensor, Tensor]] | None, present: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """States for the next object: those of this one where it is ``present (B, 1, 1, 1)``, else those before it."""
    if before is None:
        return [(hidden * present, cell * present) for hidden, cell in states]
    return [
        (torch.where(present, hidden, old_hidden), torch.where(present, cell, old_cell))
        for (hidden, cell), (old_hidden, old_cell) in zip(states, before, strict=True)
    ]


def _max_pyramid(masks: Tensor) -> list[Tensor]:
    """Masks ``(B, 1, H, W)`` max-pooled 2x2 again and again, at strides 32, 16, 8 and 4."""
    levels = []
    for _ in range(LEVELS + 1):
        masks = F.max_pool2d(masks, 2, ceil_mode=True)
        levels.append(masks)
    return levels[:0:-1]


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear with aligned corners, as the released decoder."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)
