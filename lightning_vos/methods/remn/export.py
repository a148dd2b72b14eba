"""REMN's frame as a function of tensors: attention, read, update and gate; see :mod:`lightning_vos.frame_step`."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_vos.frame_step import Entry, FrameStep, Given, State
from lightning_vos.functional import l2_similarity
from lightning_vos.methods.remn.memory import describe, removal_counts
from lightning_vos.methods.remn.network import STRIDE
from lightning_vos.methods.remn.segmenter import REMNSegmenter
from lightning_vos.methods.remn.update import Foreground, has_varied

SLOTS = ("keys", "values", "kappa", "descriptor", "frame_ids", "protected")  # what is stored of a frame


class Query(NamedTuple):
    """Of a frame: image, ungated f16, key ``(1, N, C)``."""

    image: Tensor
    f16: Tensor
    key: Tensor


class REMNStep(FrameStep):
    """REMN's frame. Slots of the bank are an open dimension: a read costs what is stored, ``capacity`` bounds it.

    Raises:
        ValueError: the bank has no bound, or removes frames by chance.
    """

    def __init__(self, model: REMNSegmenter, size: tuple[int, int]) -> None:
        super().__init__(model, size)
        bank = model.bank
        if bank.capacity is None:
            raise ValueError("capacity=null: an exported memory needs a bound; give --capacity=20, for example")
        if bank.settings.enabled and bank.settings.ranking == "random":
            raise ValueError("gate.ranking=random cannot be exported; evaluate with gate.ranking=redundancy")
        self.cells = (self.padded[0] // STRIDE, self.padded[1] // STRIDE)

    @property
    def entries(self) -> dict[str, Entry]:
        """Last foreground, births of the objects, the bank, and what the update saw last."""
        height, width = self.padded
        positions = self.cells[0] * self.cells[1]
        key_dim = self.model.projection.key.out_channels
        value_dim = self.model.projection.thin.out_channels
        real, whole, truth = torch.float32, torch.int64, torch.bool
        return {
            "union": Entry(real, (1, 1, height, width)),
            "births": Entry(whole, ("objects",)),
            "keys": Entry(real, (1, "slots", positions, key_dim)),
            "values": Entry(real, (1, "slots", positions, "objects", value_dim)),
            "kappa": Entry(real, (1, "slots", key_dim)),
            "descriptor": Entry(real, (1, "slots", 2 * key_dim)),
            "frame_ids": Entry(whole, (1, "slots")),
            "protected": Entry(truth, (1, "slots")),
            "shape": Entry(real, (1, "objects", height // 4, width // 4)),
            "appearance": Entry(real, (1, "objects", key_dim)),
            "was_visible": Entry(truth, (1, "objects")),
            "visible_area": Entry(real, (1, "objects")),
            "last_written": Entry(whole, ()),
        }

    def segment(self, image: Tensor, given: Given, state: State) -> tuple[Query, Tensor]:
        """Attention, key, read, decode."""
        model = self.model
        _, f4, f8, f16 = model.encode(image)
        attended = f16
        if model.use_local_attention:
            union = torch.maximum(state["union"], given.mask.amax(dim=1, keepdim=True))
            attended = model.attention(f16, union)
        key, thin = model.projection(attended)
        key = key.flatten(2).transpose(1, 2)

        def read(key: Tensor, thin: Tensor, f8: Tensor, f4: Tensor, mask: Tensor, *stored: Tensor) -> Tensor:
            readout = self.read(key, *stored).permute(0, 2, 3, 1).unflatten(-1, self.cells)
            return torch.sigmoid(model.decoder(readout, thin, f8, f4))

        def nothing(key: Tensor, thin: Tensor, f8: Tensor, f4: Tensor, mask: Tensor, *stored: Tensor) -> Tensor:
            return torch.zeros_like(mask)

        stored = (state["keys"], state["values"], state["frame_ids"], state["births"])
        probs = torch.cond(given.t > 0, read, nothing, (key, thin, f8, f4, given.mask, *stored))
        return Query(image, f16, key), probs

    def read(self, key: Tensor, keys: Tensor, values: Tensor, frame_ids: Tensor, births: Tensor) -> Tensor:
        """``(1, N, K, C)``: as :meth:`DynamicMemoryBank.read`, an object from the frames since its birth."""
        similarity = l2_similarity(keys.flatten(1, 2), key)[0]  # (N, M)

        def together(similarity: Tensor, values: Tensor, frame_ids: Tensor, births: Tensor) -> Tensor:
            weights, indices = self.weigh(similarity)
            flat = values[0].flatten(0, 1).flatten(1)
            return (weights.unsqueeze(1) @ flat[indices]).view(1, weights.shape[0], *values.shape[3:])

        def apart(similarity: Tensor, values: Tensor, frame_ids: Tensor, births: Tensor) -> Tensor:
            unborn = (frame_ids < births.unsqueeze(1)).repeat_interleave(values.shape[2], dim=1)  # (K, M)
            weights, indices = self.weigh(similarity.masked_fill(unborn.unsqueeze(1), -torch.inf))  # (K, N, k)
            objects = torch.arange(values.shape[3]).view(-1, 1, 1)
            chosen = values[0].flatten(0, 1).transpose(0, 1)[objects, indices]  # (K, N, k, C)
            return (weights.unsqueeze(2) @ chosen).squeeze(2).transpose(0, 1).unsqueeze(0).contiguous()

        return torch.cond((births == births[0]).all(), together, apart, (similarity, values, frame_ids, births))

    def weigh(self, similarity: Tensor) -> tuple[Tensor, Tensor]:
        """``(..., N, M)`` to the weights ``(..., N, k)`` of the memory positions that are read, and their numbers."""
        top_k = self.model.bank.top_k
        count = similarity.shape[-1] if top_k is None else torch.sym_min(top_k, similarity.shape[-1])
        best, indices = similarity.topk(count, dim=-1)
        return best.softmax(dim=-1), indices

    def memorize(self, query: Query, merged: Tensor, given: Given, state: State) -> State:
        """Update and gate decide; the value encoder runs on frames that are written."""
        model = self.model
        objects = merged[:, 1:]
        writes, seen = self.observe(objects, query.key, given, state)

        def encode(image: Tensor, f16: Tensor, objects: Tensor) -> Tensor:
            values = model.value_encoder(image, f16, objects).flatten(3)
            return values.permute(0, 3, 1, 2).unsqueeze(1).contiguous()

        def nothing(image: Tensor, f16: Tensor, objects: Tensor) -> Tensor:
            width = model.projection.thin.out_channels
            return image.new_zeros(1, 1, self.cells[0] * self.cells[1], objects.shape[1], width)

        union = 1 - merged[:, :1]
        kappa, descriptor = describe(query.key, F.avg_pool2d(union, STRIDE).flatten(1))
        written = {
            "keys": query.key.unsqueeze(1),
            "values": torch.cond(writes, encode, nothing, (query.image, query.f16, objects)),
            "kappa": kappa.unsqueeze(1),
            "descriptor": descriptor.unsqueeze(1),
            "frame_ids": given.t.view(1, 1),
            "protected": given.any.view(1, 1),
        }
        slots = {name: torch.cat([state[name], entry], dim=1) for name, entry in written.items()}
        kept = self.thin(slots["kappa"], slots["descriptor"], slots["protected"], writes).nonzero().squeeze(1)
        bank = {name: slot.index_select(1, kept) for name, slot in slots.items()}
        births = torch.where(given.new[0], given.t, state["births"])
        return {"union": union, "births": births, **bank, **seen}

    def observe(self, objects: Tensor, key: Tensor, given: Given, state: State) -> tuple[Tensor, State]:
        """As :meth:`AdaptiveMemoryUpdate.observe`: ``()`` bool, whether to write, and what the update remembers."""
        update = self.model.update
        settings = update.settings
        shape = F.avg_pool2d(objects, 4)
        appearance = F.avg_pool2d(objects, 16).flatten(2) @ key
        area = objects.sum(dim=(2, 3))
        half = given.mask.sum(dim=(2, 3)) / 2
        known = torch.where(given.first, torch.inf, state["visible_area"])
        limit = torch.where(half > 0, half.clamp(max=settings.min_pixels), known)
        visible = area >= limit
        gap = given.t - state["last_written"]
        if update.enabled:
            now = Foreground(shape, appearance, visible)
            before = Foreground(state["shape"], state["appearance"], state["was_visible"])
            varied = has_varied(settings, objects, now, before, gap)[0]
            writes = given.any | ((gap >= settings.min_gap) & varied)
        else:
            writes = given.any | (given.t % self.model.memory_every == 0)
        after = {"shape": shape, "appearance": appearance, "last_written": given.t}
        seen = {name: torch.where(writes, value, state[name]) for name, value in after.items()}
        # torch.where for truth values is none of onnxruntime's
        was_visible = (writes & visible) | (~writes & state["was_visible"])
        return writes, {**seen, "was_visible": was_visible, "visible_area": limit}

    def thin(self, kappa: Tensor, descriptor: Tensor, protected: Tensor, writes: Tensor) -> Tensor:
        """As :meth:`DynamicMemoryBank.thin`.

        Args:
            kappa: ``(1, T, C)`` of the stored frames and, last, of this one.
            descriptor: ``(1, T, 2 C)``.
            protected: ``(1, T)`` bool.
            writes: ``()`` bool, whether this frame is stored; else nothing is removed.

        Returns:
            ``(T,)`` bool, the frames to keep.
        """
        bank = self.model.bank
        places = torch.arange(kappa.shape[1])
        newest = places == places[-1]
        removable = ~(protected[0] | newest)
        owned = places[-1] + 1
        remove = owned - bank.capacity
        if bank.settings.enabled:
            choice = bank.gate(kappa, torch.ones_like(protected)).argmax(dim=1)
            chosen = removal_counts(removable.sum().view(1))[0, choice[0]]
            remove = torch.maximum(remove, torch.where(owned >= bank.settings.min_frames, chosen, 0))
        score = torch.zeros_like(kappa[0, :, 0])
        if bank.settings.ranking == "redundancy":
            before = torch.cat([descriptor[0, :1], descriptor[0, :-1]])
            score = (torch.cosine_similarity(descriptor[0], before, dim=-1) * 1e4).round()
        # Ranks by counting: the largest score first, of equal ones the older.
        ahead = (score > score.unsqueeze(1)) | ((score == score.unsqueeze(1)) & (places < places.unsqueeze(1)))
        ranks = (ahead & removable).sum(dim=1)
        return (writes & ~(removable & (ranks < remove))) | (~writes & ~newest)
