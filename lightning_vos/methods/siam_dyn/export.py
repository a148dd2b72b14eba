"""SiamDyn's frame as a function of tensors: search, paste, follow, templates; see :mod:`lightning_vos.frame_step`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_vos.frame_step import Entry, FrameStep, Given, State
from lightning_vos.functional import to_float
from lightning_vos.methods.siam_dyn.cells import KEPT
from lightning_vos.methods.siam_dyn.components import labelled
from lightning_vos.methods.siam_dyn.correlation import Template
from lightning_vos.methods.siam_dyn.crop import paste_windows
from lightning_vos.methods.siam_dyn.segmenter import Search, SiamDynSegmenter, largest
from lightning_vos.methods.siam_dyn.target import Target
from lightning_vos.methods.siam_dyn.tracking import follow, largest_components

KERNEL = KEPT - 2  # side of a template's kernels


class Query(NamedTuple):
    """The image ``(1, 3, H, W)``, and the search in it."""

    image: Tensor
    search: Search


class SiamDynStep(FrameStep):
    """SiamDyn's frame: all targets in one batch; templates are made only on frames with a mask."""

    @property
    def entries(self) -> dict[str, Entry]:
        """As :class:`TrackState`."""
        kernels = Entry(torch.float32, (1, "objects", self.model.network.cls.in_channels, KERNEL, KERNEL))
        place = Entry(torch.float32, (1, "objects", 2))
        found = Entry(torch.float32, (1, "objects", self.model.search_size, self.model.search_size))
        entries = {"locate": kernels, "describe": kernels, "centre": place, "size": place}
        entries["lost"] = Entry(torch.bool, (1, "objects"))
        return {**entries, "found": found} if self.model.mask_input else entries

    def segment(self, image: Tensor, given: Given, state: State) -> tuple[Query, Tensor]:
        """Search and paste; on the first frame what comes out is nothing."""
        model: SiamDynSegmenter = self.model
        target = Target(state["centre"], state["size"])
        search = model.search(image, target, Template(state["locate"], state["describe"]), state.get("found"))
        probs = paste_windows(search.windows.unsqueeze(0), target, model.unit, self.padded)
        return Query(image, search), torch.where(given.first, 0, to_float(probs))

    def memorize(self, query: Query, merged: Tensor, given: Given, state: State) -> State:
        """Follow, start, and keep what was found."""
        model: SiamDynSegmenter = self.model
        objects = merged[:, 1:]
        target = Target(state["centre"], state["size"])
        one = target.flattened()
        won = model.in_windows(largest(objects), one) if model.tracking.compete else None
        _, choice = search = query.search
        moved, lost = follow(
            one,
            choice,
            search.windows,
            model.unit,
            self.padded,
            model.tracking,
            won,
            torch.ops.lightning_vos.components,
        )
        moved, lost = moved.unflattened(lost.unsqueeze(0).shape), lost.unsqueeze(0) & given.present

        # Windows are cut on every frame: within the branch the exporter of torch 2.14 gets them wrong.
        target, _, windows = model.template_windows(query.image, given.mask)

        def start(windows: Tensor, locate: Tensor, describe: Tensor) -> tuple[Tensor, ...]:
            return tuple(part.unsqueeze(0).contiguous() for part in model.network.template(windows))

        def nothing(windows: Tensor, locate: Tensor, describe: Tensor) -> tuple[Tensor, ...]:
            return torch.zeros_like(locate), torch.zeros_like(describe)

        kernels = (state["locate"], state["describe"])
        templates = torch.cond(given.any, start, nothing, (windows, *kernels))
        target = target.where(given.objects | given.first, moved)
        new = given.new[..., None, None, None]
        locate, describe = (torch.where(new, ours, old) for ours, old in zip(templates, kernels, strict=True))
        after = {"locate": locate, "describe": describe, "centre": target.centre, "size": target.size}
        after["lost"] = lost & ~given.new
        return {**after, "found": model.found(objects, target)} if model.mask_input else after


@torch.library.custom_op("lightning_vos::components", mutates_args=())
def components(masks: Tensor) -> Tensor:
    """:func:`largest_components` as an operator, for which an exported graph has :func:`labelled`."""
    return largest_components(masks)


@components.register_fake
def _(masks: Tensor) -> Tensor:
    return masks.new_empty((masks.shape[0], 4), dtype=torch.float32)


TRANSLATIONS = {torch.ops.lightning_vos.components.default: labelled}
