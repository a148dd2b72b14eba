"""State that lives for one sequence, and the bounded banks of stored frames.

A module's state is held in non-persistent buffers that are ``None`` outside a sequence. So it follows ``.to()``, is
never part of a checkpoint, is not broadcast by DDP, and does not hinder ``deepcopy``.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_vos.functional import l2_similarity, topk_read


class SequenceState(nn.Module):
    """Base of everything that remembers something of the running sequence; ``VOSModule.sequence`` resets it.

    What a class remembers besides tensors, in plain values that :meth:`reset` sets, is named in ``plain``.
    """

    plain: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *buffers: str) -> None:
        """Declare the names of the tensors that make up the state."""
        super().__init__()
        self._state = buffers
        for name in buffers:
            self.register_buffer(name, None, persistent=False)

    @property
    def is_empty(self) -> bool:
        """True while nothing is stored."""
        return all(getattr(self, name) is None for name in self._state)

    def reset(self) -> None:
        """Forget everything."""
        for name in self._state:
            setattr(self, name, None)

    def snapshot(self) -> dict[str, Any]:
        """All that is remembered: tensors (the stored ones, no copies) and plain values, for :meth:`restore`."""
        return {name: getattr(self, name) for name in (*self._state, *self.plain)}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Take over what :meth:`snapshot` returned."""
        for name in (*self._state, *self.plain):
            value = snapshot[name]
            setattr(self, name, list(value) if isinstance(value, list) else value)


class FrameBank(SequenceState):
    """Stored frames, bounded. A slot is one frame; every buffer is ``(B, T, ...)``, a slot being one index of T.

    Clips of a batch may disagree on which frames to store: ``valid`` says which slots a clip owns, the others are never
    read by it. Frames written with ``protected=True`` (those that carry a given mask) are never removed.

    ``valid`` and ``protected`` are ``(B, T)`` bool; ``frame_ids`` lists the frame number of every slot, strictly
    increasing.

    Args:
        capacity: largest number of slots of a clip, protected ones included; ``None`` for no bound. When there are
            more protected frames than fit, the bound is their number plus one (the newest frame).
        buffers: names of what is stored of a frame.
    """

    plain: ClassVar[tuple[str, ...]] = ("frame_ids",)
    valid: Tensor
    protected: Tensor

    def __init__(self, capacity: int | None, *buffers: str) -> None:
        super().__init__("valid", "protected", *buffers)
        if capacity is not None and capacity < 2:
            raise ValueError(f"capacity={capacity}: a bank needs room for 2 frames, the first and the newest")
        self.capacity = capacity
        self.frame_ids: list[int] = []

    def __len__(self) -> int:
        """Number of slots."""
        return len(self.frame_ids)

    def reset(self) -> None:
        """Forget all frames."""
        super().reset()
        self.frame_ids = []

    def open_slot(self, entry: Tensor, frame_id: int, protected: bool = False, writes: Tensor | None = None) -> None:
        """Begin the slot of a frame; :meth:`_append` then adds what is stored of it.

        Args:
            entry: any tensor ``(B, ...)`` of the frame, for batch size and device.
            frame_id: number of the frame, larger than that of every stored one.
            protected: never remove this frame.
            writes: ``(B,)`` bool, the clips that store the frame; all by default.
        """
        if self.frame_ids and frame_id <= self.frame_ids[-1]:
            raise ValueError(f"frame_id={frame_id} written after frame {self.frame_ids[-1]}: frames come in order")
        valid = torch.ones(entry.shape[0], dtype=torch.bool, device=entry.device) if writes is None else writes
        self._append("valid", valid)
        self._append("protected", valid if protected else torch.zeros_like(valid))
        self.frame_ids.append(frame_id)

    def _append(self, name: str, entry: Tensor) -> None:
        """Add ``entry (B, ...)`` as the last slot of buffer ``name (B, T, ...)``; never in place, the graph stays."""
        stored = getattr(self, name)
        entry = entry.unsqueeze(1)
        setattr(self, name, entry if stored is None else torch.cat([stored, entry], dim=1))

    def removable(self) -> Tensor:
        """``(B, T)`` bool: owned slots that are neither protected nor the newest one of their clip."""
        owned_so_far = self.valid.cumsum(dim=1)
        newest = self.valid & (owned_so_far == owned_so_far[:, -1:])
        return self.valid & ~self.protected & ~newest

    def keep(self, kept: Tensor) -> None:
        """Delete the slots that ``kept (B, T)`` bool denies; storage is freed where no clip owns a slot any more."""
        self.valid = self.valid & kept
        alive = self.valid.any(dim=0).tolist()
        if not all(alive):
            slots = torch.tensor([slot for slot, is_alive in enumerate(alive) if is_alive], device=kept.device)
            for name in self._state:
                setattr(self, name, getattr(self, name).index_select(1, slots))
            self.frame_ids = [frame_id for frame_id, is_alive in zip(self.frame_ids, alive, strict=True) if is_alive]

    def drop_newest(self) -> None:
        """Delete the last slot, of all clips."""
        for name in self._state:
            setattr(self, name, getattr(self, name)[:, :-1])
        self.frame_ids.pop()

    def evict(self) -> None:
        """Enforce ``capacity``: the oldest removable slots go."""
        if self.capacity is not None and len(self) > self.capacity:
            removable = self.removable()
            excess = (self.valid.sum(dim=1, keepdim=True) - self.capacity).clamp(min=0)
            self.keep(~(removable & (removable.cumsum(dim=1) <= excess)))


class KeyValueBank(FrameBank):
    """Keys of frames and values of their objects; ``write`` appends a frame, ``read`` answers a query frame.

    The key belongs to the frame, so that all objects share one affinity (STCN). Shapes: ``keys (B, T, N, C_k)``,
    ``values (B, T, N, K, C_v)``.

    Args:
        capacity: see :class:`FrameBank`.
        top_k: memory positions that enter the softmax outside training; ``None`` for all.
        buffers: names of what else is stored of a frame.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, capacity: int | None = 20, top_k: int | None = 20, *buffers: str) -> None:
        super().__init__(capacity, "keys", "values", *buffers)
        self.top_k = top_k

    def write(
        self, key: Tensor, value: Tensor, frame_id: int, protected: bool = False, writes: Tensor | None = None
    ) -> None:
        """Append a frame.

        Args:
            key: ``(B, N, C_k)``.
            value: ``(B, N, K, C_v)``; K may have grown since the last write, older frames hold zeros then.
            frame_id: see :meth:`open_slot`, as the rest.
            protected: likewise.
            writes: likewise.
        """
        self.open_slot(key, frame_id, protected, writes)
        self._append("keys", key)
        if self.values is not None and value.shape[2] > self.values.shape[3]:
            self.values = F.pad(self.values, (0, 0, 0, value.shape[2] - self.values.shape[3]))
        self._append("values", value)

    def similarity(self, query: Tensor) -> Tensor:
        """Similarity of a query frame ``(B, N, C_k)`` with every stored position, ``(B, N, T, N_memory)``.

        Slots that a clip does not own are ``-inf``.
        """
        if self.is_empty:
            raise RuntimeError("read() on an empty memory bank: write() the first frame before")
        batch, slots, positions = self.keys.shape[:3]
        similarity = l2_similarity(self.keys.flatten(1, 2), query).view(batch, -1, slots, positions)
        if batch > 1:  # a bank of one clip has no slots that nobody owns
            similarity = similarity.masked_fill(~self.valid.view(batch, 1, slots, 1), -torch.inf)
        return similarity

    def read(self, query: Tensor, births: list[int] | None = None) -> Tensor:
        """Answer a query frame.

        Args:
            query: ``(B, N, C_k)`` keys of the query frame.
            births: frame number at which each of the K objects was first annotated. An object is read only from
                frames since then; all objects that share a birth share one softmax. ``None``: all from the start.

        Returns:
            ``(B, N, K, C_v)`` readout.
        """
        similarity = self.similarity(query)
        if births is None or len(set(births)) == 1:
            return self._answer(similarity, self.values)
        out = self.values.new_zeros(query.shape[0], query.shape[1], len(births), self.values.shape[-1])
        for birth in sorted(set(births)):
            objects = [index for index, first in enumerate(births) if first == birth]
            start = sum(frame_id < birth for frame_id in self.frame_ids)
            if start == len(self):
                continue  # given on the very frame that is being read: nothing is stored of these objects yet
            out[:, :, objects] = self._answer(similarity[:, :, start:], self.values[:, start:, :, objects])
        return out

    def _answer(self, similarity: Tensor, values: Tensor) -> Tensor:
        """Softmax over the memory positions and weighted sum; ``(B, N, T, N_m), (B, T, N_m, K, C_v)``."""
        similarity, flat = similarity.flatten(2), values.flatten(1, 2).flatten(2)
        if self.training or self.top_k is None:
            out = similarity.softmax(dim=-1).to(flat.dtype) @ flat
        else:
            out = topk_read(similarity, flat, self.top_k)
        return out.view(*out.shape[:2], *values.shape[3:])

    def extra_repr(self) -> str:
        """Capacity and top-k."""
        return f"capacity={self.capacity}, top_k={self.top_k}"
