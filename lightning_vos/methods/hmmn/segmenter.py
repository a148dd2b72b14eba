"""HMMN's network: a kernel-guided read at stride 16, and reads at strides 8 and 4 where it points."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from lightning_vos.blocks.backbone import build_backbone
from lightning_vos.blocks.normalization import Norm
from lightning_vos.blocks.objects import with_masks
from lightning_vos.functional import dot_similarity, l2_similarity, to_float
from lightning_vos.methods.hmmn.fine import FineMemory, FineSettings
from lightning_vos.methods.hmmn.memory import KernelGuidedBank, KernelSettings
from lightning_vos.methods.hmmn.network import Decoder, KeyValue, Skips
from lightning_vos.methods.hmmn.official import SETTINGS, WANTED, official_state
from lightning_vos.released import read_released
from lightning_vos.segmenter import Segmenter
from lightning_vos.settings import build, check_choices, overlaid


class Features(NamedTuple):
    """All that is known of a frame before its masks; tensors of a fine read that is switched off have no channels.

    Attributes:
        image: ``(B, 3, H, W)`` normalised.
        key16: query keys at stride 16; ``key8`` and ``key4`` likewise.
        skip16: what the decoder takes at stride 16; ``skip8`` and ``skip4`` likewise.
    """

    image: Tensor
    key16: Tensor
    key8: Tensor
    key4: Tensor
    skip16: Tensor
    skip8: Tensor
    skip4: Tensor


class HMMNSegmenter(Segmenter):
    """Space-time memory network with a kernel-guided read at stride 16 and top-k guided reads at strides 8 and 4.

    Every part can be switched off; parts that are off keep their (frozen) parameters: checkpoints fit every ablation.

    Args:
        query_trunk: of the query encoder (ResNet-50 in the paper); see
            :func:`~lightning_vos.blocks.backbone.build_backbone`.
        memory_trunk: of the memory encoder (ResNet-50 in the paper).
        norm: ``frozen_batch`` with pretrained weights, ``group`` from scratch.
        backbone_weights: ``imagenet``, the path of a state dict of the query trunk, or null for a random start; the
            memory trunk starts from the same weights where it is the same network, and from ImageNet with ``imagenet``,
            unless it has ``scratch_norm``.
        scratch_norm: of the memory trunk, if it is to start from scratch while the query trunk is pretrained; null: it
            is as the query trunk is.
        key_dims: channels of the keys at strides 16, 8 and 4.
        value_dims: channels of the values at strides 16, 8 and 4.
        decoder_dim: width of the decoder.
        similarity: of keys: scaled dot product (the paper's), or STCN's L2 distance, with which a network from scratch
            learns to match sooner.
        kernel: of the coarse read.
        fine: the reads at strides 8 and 4.
        memory_every: interval of the stored frames; the previous frame is always there too.
        capacity: stored frames at most, the first and the previous one included; null for no bound, as in the paper.
            40 frames at every 5th hold 195 frames of video without forgetting one.
        objects_at_once: objects that are encoded, read and decoded in one batch; more take turns, with the same result.
            Null: 8, and on a CPU no more than keep the decoder's largest map below 32 MB: beyond that the system hands
            out fresh pages for every map.
        **kwargs: see :class:`~lightning_vos.segmenter.Segmenter`.

    Raises:
        ValueError: a similarity that there is not, or a number below 1.
    """

    def __init__(
        self,
        query_trunk: str = "resnet50",
        memory_trunk: str = "resnet50",
        norm: Norm = "frozen_batch",
        backbone_weights: str | None = None,
        scratch_norm: Norm | None = None,
        key_dims: tuple[int, int, int] = (128, 128, 64),
        value_dims: tuple[int, int, int] = (512, 256, 128),
        decoder_dim: int = 256,
        similarity: Literal["dot", "l2"] = "dot",
        kernel: KernelSettings = KernelSettings(),
        fine: FineSettings = FineSettings(),
        memory_every: int = 5,
        capacity: int | None = 40,
        objects_at_once: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choices(HMMNSegmenter.__init__, {"similarity": similarity})
        for name, value in (("memory_every", memory_every), ("objects_at_once", objects_at_once)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        self.fine = fine
        self.memory_every = memory_every
        self.objects_at_once = objects_at_once

        alike = memory_trunk == query_trunk and scratch_norm is None
        self.query_encoder = build_backbone(query_trunk, norm, backbone_weights)
        for_memory = backbone_weights if alike or (backbone_weights == "imagenet" and scratch_norm is None) else None
        self.memory_encoder = build_backbone(memory_trunk, scratch_norm or norm, for_memory, in_channels=5)
        c4, c8, c16 = self.query_encoder.channels
        m4, m8, m16 = self.memory_encoder.channels
        self.query16 = KeyValue(c16, key_dims[0], value_dims[0])
        self.query8 = KeyValue(c8, key_dims[1], 0)
        self.query4 = KeyValue(c4, key_dims[2], 0)
        self.memory16 = KeyValue(m16, key_dims[0], value_dims[0])
        self.memory8 = KeyValue(m8, key_dims[1], value_dims[1])
        self.memory4 = KeyValue(m4, key_dims[2], value_dims[2])
        if alike:
            self._start_alike()
        self.decoder = Decoder(value_dims[0], (c8, c4), (value_dims[1], value_dims[2]), decoder_dim)
        measure = {"dot": dot_similarity, "l2": l2_similarity}[similarity]
        self.bank = KernelGuidedBank(capacity, kernel, measure)
        self.fine8 = FineMemory(2, measure)
        self.fine4 = FineMemory(4, measure)
        for level, parts in enumerate(self.fine_parts()):
            for part in parts:
                part.requires_grad_(level < fine.reads)

    @torch.no_grad()
    def _start_alike(self) -> None:
        """Start the memory encoder and the memory keys as copies of the query's, where the trunks are the same.

        Two random networks see nothing alike in the same picture: trained from scratch without this, the coarse read
        does not learn to match (``docs/hmmn.md``).
        """
        for ours, theirs in zip(self.memory_encoder.parameters(), self.query_encoder.parameters(), strict=True):
            same = ours.shape == theirs.shape
            (ours if same else ours[:, :3]).copy_(theirs)  # the stem also has filters of the two mask channels
        for memory, query in ((self.memory16, self.query16), (self.memory8, self.query8), (self.memory4, self.query4)):
            keys = query.dims[0]
            nn.init.orthogonal_(query.project.weight[:keys])
            memory.project.weight[:keys] = query.project.weight[:keys]
            for head in (memory, query):
                head.project.get_parameter("bias")[:keys] = 0

    def fine_parts(self) -> list[list[nn.Module]]:
        """What serves only the fine read at stride 8, and at stride 4."""
        return [
            [self.query8, self.memory8, self.decoder.fuse8.memory],
            [self.query4, self.memory4, self.decoder.fuse4.memory],
        ]

    def encode(self, image: Tensor) -> Features:
        """Query trunk and heads on all frames at once: ``(B, 3, H, W)``."""
        f4, f8, f16 = self.query_encoder(image)
        key8 = self.query8(f8)[0] if self.fine.reads > 0 else f8[:, :0]
        key4 = self.query4(f4)[0] if self.fine.reads > 1 else f4[:, :0]
        key16, value16 = self.query16(f16)
        return Features(image, key16, key8, key4, *self.decoder.skips(value16, f8, f4))

    def segment(self, query: Features) -> Tensor:
        """Read coarse and fine memories and decode: ``(B, K', H, W)`` probabilities."""
        self.bank.track(_positions(query.key16), _grid(query))
        uses = [level < self.fine.reads and not self._left_out(level) for level in range(2)]
        groups = self._groups(self._at_once(query.image))
        parts = [self._segment_together(query, start, objects, uses) for start, objects in groups]
        order = [index for _, objects in groups for index in objects]
        if order == list(range(self.tracks.started)):
            return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        batch, _, height, width = query.image.shape
        places = to_float(query.image.new_zeros(batch, self.tracks.started, height, width))
        if not parts:
            return places
        return places.index_copy(1, torch.tensor(order, device=places.device), torch.cat(parts, dim=1))

    def _segment_together(self, query: Features, start: int, objects: list[int], uses: list[bool]) -> Tensor:
        """Probabilities ``(B, n, H, W)`` of n objects that share the first frame they may read.

        Args:
            query: of the frame.
            start: slot of that first frame.
            objects: indices of the n objects.
            uses: whether the reads at stride 8 and at stride 4 take part.
        """
        grid = _grid(query)
        alone = start == len(self.bank) - 1
        chosen = _index(objects, query.image.device)
        top_k = self.fine.cells(0) if any(uses) else 0
        read, cells = self.bank.read(_positions(query.key16), grid, chosen, start, top_k)
        coarse = read.transpose(2, 3).unflatten(-1, grid)
        read8 = self.fine8.read(query.key8, cells, chosen, alone) if uses[0] else None
        read4 = self.fine4.read(query.key4, cells[..., : self.fine.cells(1)], chosen, alone) if uses[1] else None
        logits = self.decoder(coarse, Skips(query.skip16, query.skip8, query.skip4), read8, read4)
        return torch.sigmoid(to_float(logits))

    def _at_once(self, image: Tensor) -> int:
        """How many objects make up a batch: see ``objects_at_once``."""
        if self.objects_at_once is not None:
            return self.objects_at_once
        map_bytes = image[:, :1].numel() // 16 * self.decoder.predict.in_channels * image.element_size()
        return 8 if image.device.type != "cpu" else min(8, max(1, 2**25 // map_bytes))

    def _groups(self, at_once: int) -> list[tuple[int, list[int]]]:
        """Objects with a common first frame, at most ``at_once`` of them: (slot of that frame, indices).

        An object whose first frame is this one has nothing to be read, and is in no group.
        """
        groups = []
        births = self.tracks.births[: self.tracks.started]
        for birth in sorted(set(births) - {self.tracks.t}):
            start = sum(frame_id < birth for frame_id in self.bank.frame_ids)
            objects = [index for index, first in enumerate(births) if first == birth]
            groups += [(start, objects[i : i + at_once]) for i in range(0, len(objects), at_once)]
        return groups

    def _left_out(self, level: int) -> bool:
        """Draw whether a fine read is left out of this frame in training; all clips of a step share the draw."""
        if not self.training or self.fine.dropout == 0:
            return False
        return self.draw(self.tracks.t, level).random() < self.fine.dropout

    def memorize(self, query: Features, probs: Tensor, merged: Tensor, given: Tensor | None) -> None:
        """Write the frame: to stay if it is one of every ``memory_every`` or carries a given mask, else until the next.

        In training every frame stays.
        """
        t = self.tracks.t
        (key, value), *fine = self.encode_memory(query, merged)
        temporary = not (self.training or given is not None or t % self.memory_every == 0)
        self.bank.write(_positions(key), _positions(value), t, protected=given is not None, temporary=temporary)
        for memory, entry in zip((self.fine8, self.fine4), fine, strict=False):
            memory.write(*entry, self.tracks.new)

    def encode_memory(self, query: Features, merged: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Key and value of every object at strides 16, 8 and 4, as far as they are read: ``(B, K, C, h, w)``.

        Args:
            query: of the frame.
            merged: ``(B, K, H, W)`` masks of the objects.
        """
        heads = (self.memory16, self.memory8, self.memory4)[: 1 + self.fine.reads]
        parts = []
        at_once = self._at_once(query.image)
        for first in range(0, merged.shape[1], at_once):
            pyramid = self.memory_encoder(with_masks(query.image, merged, slice(first, first + at_once)))
            entries = [entry for head, f in zip(heads, reversed(pyramid), strict=False) for entry in head(f)]
            parts.append([entry.unflatten(0, (len(merged), -1)) for entry in entries])
        joined = [torch.cat(ps, dim=1) if len(ps) > 1 else ps[0] for ps in zip(*parts, strict=True)]
        return list(zip(joined[::2], joined[1::2], strict=True))

    @classmethod
    def from_official(cls, path: str, **settings: Any) -> Self:
        """The network with the authors' released weights, in evaluation mode.

        Args:
            path: the released checkpoint, with or without the prefix ``module.``.
            **settings: of the constructor, such as ``memory_every=5``; of a part also as a dict of what is to differ,
                ``kernel={"hop": "paper"}``: by default cells hop as in the released code.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is something else or damaged, entries are missing, unexpected or of other shapes, or a
                setting that there is not.
        """
        released = read_released(path, WANTED)
        model = build(cls, overlaid(SETTINGS, settings))
        model.load_state_dict(official_state(released, model.state_dict(), path))
        return model.eval()


def _positions(x: Tensor) -> Tensor:
    """A map by position: ``(..., C, h, w)`` to ``(..., h * w, C)``."""
    return x.flatten(-2).transpose(-1, -2)


def _grid(query: Features) -> tuple[int, int]:
    """Rows and columns at stride 16."""
    return query.key16.shape[-2], query.key16.shape[-1]


def _index(objects: list[int], device: torch.device) -> slice | Tensor:
    """Objects as an index into their dimension: a view where they follow one another."""
    if objects == list(range(objects[0], objects[-1] + 1)):
        return slice(objects[0], objects[-1] + 1)
    return torch.tensor(objects, device=device)
