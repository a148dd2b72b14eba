"""Image encoder and ConvLSTM decoder of DMM-Net; the decoder is that of RVOS (Ventura et al., CVPR 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_vos.blocks.backbone import Backbone, FrozenStatsBatchNorm2d, GroupNorm, Norm, Trunk
from lightning_vos.blocks.decoder import conv3x3

LEVELS = 4  # strides 32, 16, 8 and 4, in this order


class Encoding(NamedTuple):
    """Maps of frames, each list at strides 32, 16, 8 and 4.

    Attributes:
        skips: ``(B, C, H / s, W / s)`` for the decoder.
        matching: ``(B, D, H / s, W / s)`` to pool features of boxes from.
    """

    skips: tuple[Tensor, ...]
    matching: tuple[Tensor, ...]


class Encoder(nn.Module):
    """ResNet conv1..layer4 with two branches on each level: skips for the decoder and maps for matching.

    Args:
        trunk: ResNet.
        norm: as for :class:`~lightning_vos.blocks.backbone.Backbone`; in the branches 8 groups.
        weights: likewise.
        dim: h, width of the skips at strides 32 and 16; half and a quarter of it at strides 8 and 4.
        matching_dim: D, width of the matching maps.
    """

    def __init__(self, trunk: Trunk, norm: Norm, weights: str | None, dim: int = 128, matching_dim: int = 128) -> None:
        super().__init__()
        self.trunk = Backbone(trunk, norm, weights, stride=32)
        widths = (dim, dim, dim // 2, dim // 4)
        inner = (matching_dim, matching_dim, matching_dim // 2, matching_dim // 4)
        self.skips = nn.ModuleList()
        self.matching = nn.ModuleList()
        for channels, width, middle in zip(reversed(self.trunk.channels), widths, inner, strict=True):
            self.skips.append(nn.Sequential(conv3x3(channels, width), _norm(norm, width)))
            self.matching.append(
                nn.Sequential(
                    conv3x3(channels, middle),
                    _norm(norm, middle),
                    nn.ReLU(inplace=True),
                    conv3x3(middle, matching_dim),
                    _norm(norm, matching_dim),
                )
            )

    def forward(self, image: Tensor) -> Encoding:
        """``(B, 3, H, W)`` normalised, sides multiples of 32."""
        levels = self.trunk(image)[::-1]
        return Encoding(
            tuple(branch(level) for branch, level in zip(self.skips, levels, strict=True)),
            tuple(branch(level) for branch, level in zip(self.matching, levels, strict=True)),
        )


def _norm(norm: Norm, channels: int) -> nn.Module:
    return FrozenStatsBatchNorm2d(channels) if norm == "frozen_batch" else GroupNorm(min(8, channels), channels)


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
        across_objects: carry the state from object to object of a frame (the paper's); their order then matters.
    """

    def __init__(self, dim: int = 128, across_objects: bool = True) -> None:
        super().__init__()
        self.dims = tuple(dim // 2**level for level in range(LEVELS))
        skips = (dim, dim, dim // 2, dim // 4)
        below = (0, *self.dims[:-1])
        self.cells = nn.ModuleList(ConvLSTMCell(*channels) for channels in zip(below, skips, self.dims, strict=True))
        self.predict = conv3x3(self.dims[-1], 1)
        self.across_objects = across_objects

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
