"""The coarse memory of HMMN: a bank read through kernels whose centres are tracked from frame to frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_vos.functional import Similarity, dot_similarity, to_float
from lightning_vos.memory import FrameBank
from lightning_vos.methods.hmmn.kernel import Grid, global_centres, hop, squared_distance
from lightning_vos.settings import Checked

CHUNK_BYTES = 2**25  # size of one piece of the affinity; measured to be as fast as any


@dataclass(frozen=True)
class KernelSettings(Checked):
    """The Gaussian kernel of the coarse read.

    Args:
        form: ``tracked``: centres composed of hops within a 7x7 window, sigma growing with the age of the slot (the
            paper's); ``global``: the best match in the whole frame and one sigma (KMN's); ``none``.
        hop: ``paper``, or ``official`` for what the released code does: the last hop twice, for all frames but the
            newest.
        in_training: use the kernel in training too. KMN's authors found that it hurts there.
    """

    form: Literal["tracked", "global", "none"] = "tracked"
    hop: Literal["paper", "official"] = "paper"
    in_training: bool = False


class KernelGuidedBank(FrameBank):
    """Keys and values of the objects of stored frames, and where each stored cell is by now.

    Shapes: ``keys (B, T, K, N, C_k)``, ``values (B, T, K, N, C_v)``, ``centres (B, T, K, N)`` int64: the position of
    every stored cell in the newest stored frame.

    The kernel is a logit offset, ``A = softmax_p(<k_p, k_q> / sqrt(C) - |q - c(p)|^2 / (2 sigma_a^2))``: identical to
    the softmax times the kernel, normalised again, but never 0 / 0.

    Args:
        capacity: see :class:`~lightning_vos.memory.FrameBank`.
        kernel: its settings.
        similarity: of keys; the paper's is the scaled dot product.
        sigma: width of the newest frame's kernel, cells.
        growth: ``sigma_a = sigma * (1 + growth * a)``, a = age of the slot counted from the newest.
        radius: of the hop's window, cells.
    """

    plain = (*FrameBank.plain, "arrived", "_newest_is_temporary")
    keys: Tensor
    values: Tensor
    centres: Tensor
    arrived: Tensor

    def __init__(
        self,
        capacity: int | None,
        kernel: KernelSettings = KernelSettings(),
        similarity: Similarity = dot_similarity,
        sigma: float = 3.0,
        growth: float = 0.5,
        radius: int = 3,
    ) -> None:
        super().__init__(capacity, "keys", "values", "centres")
        self.register_buffer("arrived", None, persistent=False)
        self.kernel = kernel
        self.similarity = similarity
        self.sigma = sigma
        self.growth = growth
        self.radius = radius
        self._newest_is_temporary = False

    def reset(self) -> None:
        """Forget all frames."""
        super().reset()
        self.arrived = None  # type: ignore[assignment]
        self._newest_is_temporary = False

    def write(
        self, key: Tensor, value: Tensor, frame_id: int, protected: bool = False, temporary: bool = False
    ) -> None:
        """Append a frame and drop the last one if it was temporary.

        Args:
            key: ``(B, K, N, C_k)``; K may have grown since the last write, older frames hold zeros then.
            value: ``(B, K, N, C_v)``.
            frame_id: number of the frame, larger than that of every stored one.
            protected: never remove this frame.
            temporary: drop the frame at the next write.
        """
        if self.keys is not None:
            if self.arrived is not None:
                self.centres, self.arrived = self.arrived, None  # type: ignore[assignment]
            if self._newest_is_temporary:
                self.drop_newest()
            if (new := key.shape[1] - self.keys.shape[2]) > 0:
                self.keys, self.values = (F.pad(stored, (0, 0, 0, 0, 0, new)) for stored in (self.keys, self.values))
                self.centres = F.pad(self.centres, (0, 0, 0, new))
        self.open_slot(key, frame_id, protected)
        self._append("keys", key)
        self._append("values", value)
        self._append("centres", torch.arange(key.shape[2], device=key.device).expand(key.shape[:3]))
        self._newest_is_temporary = temporary
        self.evict()

    def track(self, query: Tensor, grid: Grid) -> None:
        """Follow every stored cell into the query frame; once per frame, before :meth:`read`.

        Where the kernel is off nothing is followed, and :meth:`read` knows no centres.

        ``c_t(p) = phi_t(c_{t-1}(p))``, and ``c_{t-1}`` of the newest frame's own cells is where they are.

        Args:
            query: ``(B, N, C_k)`` keys of the query frame.
            grid: (h, w).
        """
        if self.kernel.form == "none" or (self.training and not self.kernel.in_training):
            return
        if self.kernel.form == "global":
            self.arrived = global_centres(self.keys, query, self.similarity)
            return
        phi = hop(self.keys[:, -1], query, grid, self.radius, self.similarity).unsqueeze(1).expand_as(self.centres)
        self.arrived = phi.gather(-1, self.centres)

    def kernel_centres(self) -> Tensor:
        """Where the kernels lie after :meth:`track`: ``(B, T, K, N)``."""
        if self.kernel.hop == "paper" or self.kernel.form != "tracked":
            return self.arrived
        phi = self.arrived[:, -1:]  # the newest frame's centres are the last hop itself
        return torch.cat([phi.expand_as(self.arrived[:, :-1]).gather(-1, self.arrived[:, :-1]), phi], dim=1)

    def read(self, query: Tensor, grid: Grid, objects: slice | Tensor, start: int, top_k: int) -> tuple[Tensor, Tensor]:
        """Answer a query frame for some objects.

        Args:
            query: ``(B, N, C_k)`` keys of the query frame.
            grid: (h, w).
            objects: which of the K objects; they share the first frame that they may read.
            start: slot of that frame.
            top_k: number of cells of the first and the newest frame that guide the fine reads; 0 for none.

        Returns:
            Readout ``(B, K', N, C_v)``, and ``(B, K', N, k)`` int64, best first: the cells of (first frame, newest
            frame), numbered 0 to 2N - 1 (0 to N - 1 while they are one), with the largest attention.
        """
        keys = self.keys[:, start:, objects].transpose(1, 2).flatten(2, 3)  # (B, K', T*N, C_k)
        values = self.values[:, start:, objects].transpose(1, 2).flatten(2, 3)
        centres = None if self.arrived is None else self.kernel_centres()[:, start:, objects].transpose(1, 2)
        batch, chosen, positions = keys.shape[:3]
        height, width = grid
        cells = height * width
        keys, query = to_float(keys), to_float(query).unsqueeze(1)
        age = torch.arange(len(self) - start, device=query.device).flip(0)
        sigma = self.sigma * (1 + (self.growth if self.kernel.form == "tracked" else 0) * age.to(query.dtype))

        rows = max(1, CHUNK_BYTES // (batch * chosen * positions * width * query.element_size()))
        by_column = None if centres is None else squared_distance(centres % width, range(width), sigma)
        readout, guides = [], []
        for top in range(0, height, rows):
            part = range(top, min(top + rows, height))
            logits = self.similarity(keys, query[:, :, part.start * width : part.stop * width])  # (B, K', n, T*N)
            if centres is not None and by_column is not None:
                by_row = squared_distance(centres // width, part, sigma)
                on_grid = logits.unflatten(2, (len(part), width))
                on_grid.sub_(by_row.unsqueeze(3)).sub_(by_column.unsqueeze(2))
            if top_k:
                ends = logits.detach()
                if positions > 2 * cells:
                    ends = torch.cat([ends[..., :cells], ends[..., -cells:]], dim=-1)
                guides.append(ends.topk(min(top_k, ends.shape[-1]), dim=-1).indices)
            attention = logits.softmax(dim=-1)
            readout.append(attention.to(values.dtype) @ values)
        empty = torch.empty(batch, chosen, cells, 0, dtype=torch.int64, device=query.device)
        return torch.cat(readout, dim=2), torch.cat(guides, dim=2) if guides else empty

    def extra_repr(self) -> str:
        """Capacity and kernel."""
        return f"capacity={self.capacity}, kernel={self.kernel}"
