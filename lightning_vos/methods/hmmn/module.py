"""HMMN: hierarchical memory matching network.

Seong et al., "Hierarchical Memory Matching Network for Video Object Segmentation", ICCV 2021 (arXiv 2109.11404). The
authors released inference code and weights, no training code: what the paper and the released network say is followed
here, the training is STM's two stages. ``docs/hmmn.md`` says which number comes from where.
"""

from __future__ import annotations

import random
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from lightning_vos.blocks.backbone import Backbone, Norm, Trunk
from lightning_vos.blocks.objects import per_object, with_masks
from lightning_vos.functional import dot_similarity, l2_similarity
from lightning_vos.methods.hmmn.alignment import KeyAlignment
from lightning_vos.methods.hmmn.fine import FineMemory
from lightning_vos.methods.hmmn.memory import Kernel, KernelGuidedBank
from lightning_vos.methods.hmmn.network import Decoder, KeyValue, Skips
from lightning_vos.methods.hmmn.official import load_official
from lightning_vos.module import VOSModule


class Features(NamedTuple):
    """All that is known of a frame before its masks; tensors of a fine read that is switched off have no channels.

    Attributes:
        image: ``(B, 3, H, W)`` normalised.
        key16: query keys at stride 16; ``key8`` and ``key4`` likewise.
        value16: the frame's own value at stride 16.
        skip8: what the decoder takes at stride 8; ``skip4`` likewise.
    """

    image: Tensor
    key16: Tensor
    value16: Tensor
    key8: Tensor
    key4: Tensor
    skip8: Tensor
    skip4: Tensor


class HMMN(VOSModule):
    """Space-time memory network with a kernel-guided read at stride 16 and top-k guided reads at strides 8 and 4.

    Every part can be switched off; parts that are off keep their (frozen) parameters: checkpoints fit every ablation.

    Args:
        query_trunk: ResNet of the query encoder (ResNet-50 in the paper).
        memory_trunk: ResNet of the memory encoder (ResNet-50 in the paper).
        norm: ``frozen_batch`` with pretrained weights, ``group`` from scratch.
        backbone_weights: ``imagenet``, the path of a state dict of the query trunk, or null for a random start; the
            memory trunk starts from the same weights where it is the same ResNet, and from ImageNet with ``imagenet``.
        key_dims: channels of the keys at strides 16, 8 and 4.
        value_dims: channels of the values at strides 16, 8 and 4.
        decoder_dim: width of the decoder.
        kernel: ``tracked`` (the paper's), ``global`` (KMN's) or ``none``; see
            :class:`~lightning_vos.methods.hmmn.memory.KernelGuidedBank`.
        kernel_in_training: use the kernel in training too. KMN's authors found that it hurts there.
        hop: ``paper``, or ``official`` for what the released code does: the last hop twice.
        similarity: of keys: scaled dot product (the paper's), or STCN's L2 distance, with which a network
            from scratch learns to match sooner.
        fine_reads: 0: coarse read only; 1: also stride 8; 2: also stride 4.
        top_k: memory cells of the first and the previous frame that guide the read at stride 8; a quarter of them
            guides that at stride 4.
        fine_dropout: probability that a fine read is left out of the decoder in training, as a whole: one draw for each
            scale and frame, the same for all clips of a step.
        alignment_weight: weight of the loss that makes memory keys follow query keys; for training from scratch, see
            :mod:`~lightning_vos.methods.hmmn.alignment`.
        memory_every: interval of the stored frames; the previous frame is always there too.
        capacity: stored frames at most, the first and the previous one included; null for no bound, as in the paper.
            40 frames at every 5th hold 195 frames of video without forgetting one.
        objects_at_once: objects that are encoded, read and decoded in one batch; more take turns, with the same result.
            Null: 8, and on a CPU no more than keep the decoder's largest map below 32 MB: beyond that the system hands
            out fresh pages for every map.
        **kwargs: see :class:`~lightning_vos.module.VOSModule`.
    """

    def __init__(
        self,
        query_trunk: Trunk = "resnet50",
        memory_trunk: Trunk = "resnet50",
        norm: Norm = "frozen_batch",
        backbone_weights: str | None = None,
        key_dims: tuple[int, int, int] = (128, 128, 64),
        value_dims: tuple[int, int, int] = (512, 256, 128),
        decoder_dim: int = 256,
        kernel: Kernel = "tracked",
        kernel_in_training: bool = False,
        hop: Literal["paper", "official"] = "paper",
        similarity: Literal["dot", "l2"] = "dot",
        fine_reads: Literal[0, 1, 2] = 2,
        top_k: int = 32,
        fine_dropout: float = 0.5,
        alignment_weight: float = 0.0,
        memory_every: int = 5,
        capacity: int | None = 40,
        objects_at_once: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.save_hyperparameters(ignore=["weights"])
        for name, value in (("memory_every", memory_every), ("objects_at_once", objects_at_once), ("top_k", top_k)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        choices = {"kernel": ("tracked", "global", "none"), "hop": ("paper", "official"), "similarity": ("dot", "l2")}
        for name, allowed in {**choices, "fine_reads": (0, 1, 2)}.items():
            if self.hparams[name] not in allowed:
                raise ValueError(f"{name}={self.hparams[name]}: choose from {', '.join(map(str, allowed))}")
        self.kernel_in_training = kernel_in_training
        self.fine_reads = fine_reads
        self.top_k = top_k
        self.top_k4 = max(1, top_k // 4)
        self.fine_dropout = fine_dropout
        self.alignment_weight = alignment_weight
        self.memory_every = memory_every
        self.objects_at_once = objects_at_once

        self.query_encoder = Backbone(query_trunk, norm, backbone_weights)
        for_memory = backbone_weights if backbone_weights == "imagenet" or memory_trunk == query_trunk else None
        self.memory_encoder = Backbone(memory_trunk, norm, for_memory, in_channels=5)
        c4, c8, c16 = self.query_encoder.channels
        m4, m8, m16 = self.memory_encoder.channels
        self.query16 = KeyValue(c16, key_dims[0], value_dims[0])
        self.query8 = KeyValue(c8, key_dims[1], 0)
        self.query4 = KeyValue(c4, key_dims[2], 0)
        self.memory16 = KeyValue(m16, key_dims[0], value_dims[0])
        self.memory8 = KeyValue(m8, key_dims[1], value_dims[1])
        self.memory4 = KeyValue(m4, key_dims[2], value_dims[2])
        if memory_trunk == query_trunk:
            self._start_alike()
        self.decoder = Decoder(value_dims[0], (c8, c4), (value_dims[1], value_dims[2]), decoder_dim)
        measure = {"dot": dot_similarity, "l2": l2_similarity}[similarity]
        self.bank = KernelGuidedBank(capacity, kernel, hop == "official", measure)
        self.fine8 = FineMemory(2, measure)
        self.fine4 = FineMemory(4, measure)
        self.alignment = KeyAlignment()
        for level, parts in enumerate(self._fine_parts()):
            for part in parts:
                part.requires_grad_(level < fine_reads)

    @torch.no_grad()
    def _start_alike(self) -> None:
        """Start the memory encoder and the memory keys as copies of the query's, where the ResNets are the same.

        Two random networks see nothing alike in the same picture: trained from scratch without this, the coarse read
        does not learn to match (``docs/hmmn.md``).
        """
        wide = self.memory_encoder.stem.get_parameter("0.weight")
        for ours, theirs in zip(self.memory_encoder.parameters(), self.query_encoder.parameters(), strict=True):
            (ours[:, :3] if ours is wide else ours).copy_(theirs)
        for memory, query in ((self.memory16, self.query16), (self.memory8, self.query8), (self.memory4, self.query4)):
            keys = query.dims[0]
            nn.init.orthogonal_(query.project.weight[:keys])
            memory.project.weight[:keys] = query.project.weight[:keys]
            for head in (memory, query):
                head.project.get_parameter("bias")[:keys] = 0

    def _fine_parts(self) -> list[list[nn.Module]]:
        """What serves only the fine read at stride 8, and at stride 4."""
        return [
            [self.query8, self.memory8, self.decoder.fuse8.memory],
            [self.query4, self.memory4, self.decoder.fuse4.memory],
        ]

    def encode(self, image: Tensor) -> Features:
        """Query trunk and heads on all frames at once: ``(B, 3, H, W)``."""
        f4, f8, f16 = self.query_encoder(image)
        key8 = self.query8(f8)[0] if self.fine_reads > 0 else f8[:, :0]
        key4 = self.query4(f4)[0] if self.fine_reads > 1 else f4[:, :0]
        key16, value16 = self.query16(f16)
        skip8, skip4 = self.decoder.skips(f8, f4)
        return Features(image, key16, value16, key8, key4, skip8, skip4)

    def segment(self, query: Features) -> Tensor:
        """Read coarse and fine memories and decode: ``(B, K, H, W)`` logits."""
        grid = (query.key16.shape[-2], query.key16.shape[-1])
        key = query.key16.flatten(2).transpose(1, 2)
        skips = Skips(query.skip8, query.skip4)
        uses = [level < self.fine_reads and not self._left_out(level) for level in range(2)]
        if self.bank.kernel != "none" and (self.kernel_in_training or not self.training):
            self.bank.track(key, grid)

        parts, order = [], []
        for start, objects in self._groups(self._at_once(query.image)):
            alone = start == len(self.bank) - 1
            chosen = _index(objects, key.device)
            read, cells = self.bank.read(key, grid, chosen, start, self.top_k if any(uses) else 0)
            coarse = read.transpose(2, 3).unflatten(-1, grid)
            own = per_object(query.value16, len(objects)).unflatten(0, coarse.shape[:2])
            read8 = self.fine8.read(query.key8, cells, chosen, alone) if uses[0] else None
            read4 = self.fine4.read(query.key4, cells[..., : self.top_k4], chosen, alone) if uses[1] else None
            parts.append(self.decoder(torch.cat([coarse, own], dim=2), skips, read8, read4))
            order += objects
        missing = [index for index in range(len(self.tracks.births)) if index not in order]
        if missing:  # given on this very frame: nothing to read yet, and the given mask goes over whatever stands here
            like = parts[0] if parts else query.image[:, :1]
            parts.append(like.new_zeros(len(like), len(missing), *query.image.shape[-2:]))
            order += missing
        logits = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)[:, torch.tensor(order).argsort()]
        return logits + self._in_the_graph() if self.training else logits

    def _at_once(self, image: Tensor) -> int:
        """How many objects make up a batch: see ``objects_at_once``."""
        if self.objects_at_once is not None:
            return self.objects_at_once
        map_bytes = image[:, :1].numel() // 16 * self.decoder.predict.in_channels * image.element_size()
        return 8 if image.device.type != "cpu" else min(8, max(1, 2**25 // map_bytes))

    def _groups(self, at_once: int) -> list[tuple[int, list[int]]]:
        """Objects with a common first frame, at most ``at_once`` of them: (slot of that frame, indices).

        Objects that are given on the very frame that is being segmented have nothing to read, and are left out.
        """
        groups = []
        for birth in sorted(set(self.tracks.births)):
            start = sum(frame_id < birth for frame_id in self.bank.frame_ids)
            objects = [index for index, first in enumerate(self.tracks.births) if first == birth]
            if start < len(self.bank):
                groups += [(start, objects[i : i + at_once]) for i in range(0, len(objects), at_once)]
        return groups

    def _left_out(self, level: int) -> bool:
        """Draw whether a fine read is left out of this frame of a training clip.

        The draw is a function of seed, step, frame and scale: the same on every device and after a restart.
        """
        if not self.training or self.fine_dropout == 0:
            return False
        draw = random.Random(f"{torch.initial_seed()} {self.steps_done} {self.tracks.t} {level}").random()
        return draw < self.fine_dropout

    def memorize(self, query: Features, probs: Tensor, given: Tensor | None) -> None:
        """Write the frame: to stay if it is one of every ``memory_every`` or carries a given mask, else until the next.

        In training every frame stays.
        """
        t = self.tracks.t
        parts = []
        at_once = self._at_once(query.image)
        for first in range(0, probs.shape[1], at_once):
            chunk = slice(first, first + at_once)
            f4, f8, f16 = self.memory_encoder(with_masks(query.image, probs, chunk))
            heads = [*self.memory16(f16)]
            heads += self.memory8(f8) if self.fine_reads > 0 else []
            heads += self.memory4(f4) if self.fine_reads > 1 else []
            parts.append([head.unflatten(0, (len(probs), -1)) for head in heads])
        key, value, *fine = (torch.cat(ps, dim=1) if len(ps) > 1 else ps[0] for ps in zip(*parts, strict=True))
        if self.training and self.alignment_weight > 0:
            for memory_key, query_key in zip((key, *fine[::2]), (query.key16, query.key8, query.key4), strict=False):
                self.alignment.add(memory_key, query_key, self.tracks.present)
        temporary = not (self.training or given is not None or t % self.memory_every == 0)
        cells = [entry.flatten(3).transpose(2, 3) for entry in (key, value)]
        self.bank.write(cells[0], cells[1], t, protected=given is not None, temporary=temporary)
        born = [birth == t for birth in self.tracks.births]
        if self.fine_reads > 0:
            self.fine8.write(fine[0], fine[1], born)
        if self.fine_reads > 1:
            self.fine4.write(fine[2], fine[3], born)

    def auxiliary_losses(self, labels: Tensor) -> dict[str, Tensor]:
        """Alignment of the keys, if wanted."""
        return {} if self.alignment.is_empty else {"alignment": self.alignment_weight * self.alignment.terms.mean()}

    def _in_the_graph(self) -> Tensor:
        """Zero, made of what a left-out fine read would have used: DDP waits for the gradient of every parameter."""
        used = [p for parts in self._fine_parts()[: self.fine_reads] for part in parts for p in part.parameters()]
        return 0 * torch.stack([p.sum() for p in used]).sum() if used else self.mean.new_zeros(())

    @classmethod
    def from_official(cls, path: str, *, hop: Literal["paper", "official"] = "official", **init: Any) -> HMMN:
        """The network with the authors' released weights.

        Args:
            path: the released checkpoint, with or without the prefix ``module.``.
            hop: as the released code tracks, or as the paper says.
            **init: further arguments of the constructor, such as ``memory_every=5``.

        Raises:
            ValueError: the file is something else or damaged, or entries are missing, unexpected or of other shapes.
        """
        return load_official(cls(hop=hop, **init), path)


def _index(objects: list[int], device: torch.device) -> slice | Tensor:
    """Objects as an index into their dimension: a view where they follow one another."""
    if objects == list(range(objects[0], objects[-1] + 1)):
        return slice(objects[0], objects[-1] + 1)
    return torch.tensor(objects, device=device)
