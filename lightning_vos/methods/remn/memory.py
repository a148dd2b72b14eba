"""REMN's dynamic memory bank with the soft modulation gate.

The abstract says *that* a differentiable gate decides how many stored frames to remove along time; *how* is our design
(``docs/remn.md``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_vos.functional import without_autocast
from lightning_vos.memory import KeyValueBank
from lightning_vos.settings import Checked

REMOVAL_RATIOS = (0.0, 0.5, 0.75)  # keep (1/2)^p of the removable frames, p = 0, 1, 2 (the ladder of VA-RED2)

Ranking = Literal["redundancy", "oldest", "random"]


@dataclass(frozen=True)
class GateSettings(Checked):
    """The soft modulation gate.

    Args:
        enabled: use it. When off, its parameters exist but are frozen, so that checkpoints of every ablation are
            interchangeable.
        min_frames: T_on, stored frames from which it removes frames at test time.
        ranking: which of the removable frames go first: the most redundant ones; ``oldest`` and ``random`` are
            controls that remove the same number.
        target: kept share of the removable frames that costs nothing in training.
        start: share of the run during which the gate is off.
        weight: of the loss that makes the gate close.
    """

    enabled: bool = True
    min_frames: int = 8
    ranking: Ranking = "redundancy"
    target: float = 0.6
    start: float = 0.3
    weight: float = 1.0


class ModulationGate(nn.Module):
    """How many frames to remove, from statistics of the stored keys: ``Linear(relu(Linear(z)))``, three logits.

    ``z = [mean_t kappa_t; std_t kappa_t; kappa_newest] / (rms(mean_t kappa_t) + 1e-6)``, detached, where kappa_t is the
    spatial mean of the key of frame t. The last layer starts at weight 0 and bias (3, 0, 0): the bank starts open.
    """

    def __init__(self, key_dim: int, hidden: int = 32) -> None:
        """``key_dim`` channels of a key."""
        super().__init__()
        self.first = nn.Linear(3 * key_dim, hidden)
        self.last = nn.Linear(hidden, len(REMOVAL_RATIOS))
        nn.init.zeros_(self.last.weight)
        with torch.no_grad():
            self.last.bias.copy_(torch.tensor([3.0, 0.0, 0.0]))

    def forward(self, kappa: Tensor, valid: Tensor) -> Tensor:
        """Gate logits.

        Args:
            kappa: ``(B, T, C)`` spatial means of the stored keys.
            valid: ``(B, T)`` bool, the slots each clip owns (at least one).

        Returns:
            ``(B, 3)`` logits of the removal ratios 0, 1/2, 3/4.
        """
        kappa = kappa.detach().to(self.first.weight.dtype)
        weight = valid.to(kappa.dtype).unsqueeze(-1)
        count = weight.sum(dim=1)
        mean = (kappa * weight).sum(dim=1) / count
        std = (((kappa - mean.unsqueeze(1)).pow(2) * weight).sum(dim=1) / count).sqrt()
        newest = _last_valid(valid)
        z = torch.cat([mean, std, kappa[torch.arange(len(kappa), device=kappa.device), newest]], dim=-1)
        z = z / (mean.pow(2).mean(dim=-1, keepdim=True).sqrt() + 1e-6)
        with without_autocast(kappa):
            return self.last(F.relu(self.first(z)))


def _last_valid(valid: Tensor) -> Tensor:
    """Index of the last True of every row of ``(B, T)``: ``(B,)``."""
    return (valid * torch.arange(1, valid.shape[1] + 1, device=valid.device)).argmax(dim=1)


class DynamicMemoryBank(KeyValueBank):
    """Bank that a gate thins out along time: mixture of readouts in training, hard removal at test time.

    Args:
        key_dim: channels of a key.
        gate: see there.
        capacity: T_max, hard bound on the stored frames of a clip; ``None`` for no bound.
        top_k: see :class:`~lightning_vos.memory.KeyValueBank`.
    """

    kappa: Tensor
    descriptor: Tensor

    def __init__(
        self,
        key_dim: int = 64,
        gate: GateSettings = GateSettings(),
        capacity: int | None = 20,
        top_k: int | None = 20,
    ) -> None:
        super().__init__(capacity, top_k, "kappa", "descriptor")
        self.settings = gate
        self.gate = ModulationGate(key_dim).requires_grad_(gate.enabled)
        self.temperature = 1.0  # tau; annealed by the module in training
        self.gate_active = True  # off in the first part of training
        self.kept: list[Tensor] = []  # expected kept fraction (B,) of every gated read of this clip
        self.decisions = [0, 0, 0]  # how often each ratio was chosen at test time; a statistic, never read here

    def reset(self) -> None:
        """Forget all frames."""
        super().reset()
        self.kept = []

    def remember(
        self,
        key: Tensor,
        value: Tensor,
        foreground: Tensor,
        frame_id: int,
        protected: bool = False,
        writes: Tensor | None = None,
    ) -> None:
        """Write a frame and its redundancy descriptor; at test time, thin the bank out afterwards.

        Args:
            key: ``(B, N, C_k)``.
            value: ``(B, N, K, C_v)``.
            foreground: ``(B, N)`` union foreground pooled to the grid, in [0, 1].
            frame_id: number of the frame.
            protected: the frame carries a given mask.
            writes: ``(B,)`` bool, which clips store it; all by default.
        """
        kappa, descriptor = describe(key.detach(), foreground.detach())
        self._append("kappa", kappa)
        self._append("descriptor", descriptor)
        self.write(key, value, frame_id, protected, writes)
        if not self.training:
            self.thin()

    def read(self, query: Tensor, births: list[int] | None = None) -> Tensor:
        """As :meth:`KeyValueBank.read`; in training, with at least two removable frames, the gate's mixture.

        ``R = sum_i g_i R_i``, R_i the plain read restricted to candidate S_i. As the values are shared, the three
        softmaxes are mixed before one product with them.
        """
        if not (self.training and self.settings.enabled and self.gate_active) or len(self) < 4:  # two are protected
            return super().read(query, births)
        similarity = self.similarity(query)
        weights = torch.softmax(self.gate(self.kappa, self.valid) / self.temperature, dim=-1)
        self.kept.append((weights * (1 - weights.new_tensor(REMOVAL_RATIOS))).sum(dim=-1))
        mixture = mixture_of_softmaxes(similarity, self.candidates(), weights).flatten(2)
        flat = self.values.flatten(1, 2).flatten(2)
        return (mixture.to(flat.dtype) @ flat).view(*query.shape[:2], *self.values.shape[3:])

    def candidates(self) -> Tensor:
        """The nested candidate sets S_0, S_1, S_2 as ``(B, 3, T)`` bool."""
        ranks, removable = self.ranks()
        counts = removal_counts(removable.sum(dim=1))
        return self.valid.unsqueeze(1) & ~(removable.unsqueeze(1) & (ranks.unsqueeze(1) < counts.unsqueeze(-1)))

    def ranks(self) -> tuple[Tensor, Tensor]:
        """Order of removal.

        ``c_t = cos(d_t, d_pred(t))`` with the stored frame just before, rounded to 4 decimals; largest first, ties
        older first. In a run of near-identical frames all but the first rank high: the run collapses to its head.

        Returns:
            ranks ``(B, T)``, 0 goes first, meaningful where removable; removable ``(B, T)`` bool.
        """
        removable = self.removable()
        if self.settings.ranking == "redundancy":
            score = redundancy(self.descriptor, self.valid)
        elif self.settings.ranking == "oldest":
            score = torch.zeros_like(removable, dtype=torch.float32)
        else:
            # Seeded by the newest frame number: random, yet the same on every run.
            generator = torch.Generator().manual_seed(self.frame_ids[-1])
            score = torch.rand(removable.shape[1], generator=generator).expand(removable.shape).to(removable.device)
        order = score.masked_fill(~removable, -torch.inf).argsort(dim=1, descending=True, stable=True)
        return order.argsort(dim=1), removable

    def thin(self) -> None:
        """Hard use at test time: delete the share that the gate chooses, and more where T_max demands it."""
        gated = self.settings.enabled and len(self) >= self.settings.min_frames
        full = self.capacity is not None and len(self) > self.capacity
        if not (gated or full):
            return
        ranks, removable = self.ranks()
        owned = self.valid.sum(dim=1)
        remove = torch.zeros_like(owned)
        if gated:
            choice = self.gate(self.kappa, self.valid).argmax(dim=1)
            ready = owned >= self.settings.min_frames
            counts = removal_counts(removable.sum(dim=1)).gather(1, choice.unsqueeze(1)).squeeze(1)
            remove = torch.where(ready, counts, remove)
            for ratio, is_ready in zip(choice.tolist(), ready.tolist(), strict=True):
                self.decisions[ratio] += is_ready
        if self.capacity is not None:
            remove = torch.maximum(remove, owned - self.capacity)
        self.keep(~(removable & (ranks < remove.unsqueeze(1))))


def removal_counts(removable: Tensor) -> Tensor:
    """``n_i = floor(rho_i |U|)`` for ``(B,)`` counts |U|: ``(B, 3)``; 6 gives (0, 3, 4)."""
    ratios = torch.tensor(REMOVAL_RATIOS, dtype=torch.float64, device=removable.device)
    return (removable.unsqueeze(1) * ratios).floor().long()


def efficiency_loss(keep: Tensor, target: float) -> Tensor:
    """``L_eff = max(0, mean_b keep_b - target)^2``; hinge after mean: easy clips may pay for hard ones."""
    return F.relu(keep.mean() - target).pow(2)


def mixture_of_softmaxes(similarity: Tensor, candidates: Tensor, weights: Tensor) -> Tensor:
    """``sum_i g_i softmax(s restricted to S_i)``.

    Args:
        similarity: ``(B, N, T, N_m)``.
        candidates: ``(B, I, T)`` bool; every set holds at least one frame.
        weights: ``(B, I)`` gate values g.

    Returns:
        ``(B, N, T, N_m)``, every query sums to sum_i g_i.
    """
    shape = similarity.shape
    mixture = torch.zeros_like(similarity)
    for index in range(candidates.shape[1]):
        masked = similarity.masked_fill(~candidates[:, index].view(shape[0], 1, shape[2], 1), -torch.inf)
        mixture = mixture + weights[:, index].view(-1, 1, 1, 1) * masked.flatten(2).softmax(dim=-1).view(shape)
    return mixture


def describe(key: Tensor, foreground: Tensor) -> tuple[Tensor, Tensor]:
    """Descriptor of a frame.

    ``kappa`` is the spatial mean of the key; ``mu`` its mean weighted by the foreground (kappa where the weights sum
    to less than one cell); ``d = [mu/|mu|; kappa/|kappa|] / sqrt(2)``.

    Args:
        key: ``(B, N, C)``.
        foreground: ``(B, N)`` in [0, 1].

    Returns:
        kappa ``(B, C)`` and d ``(B, 2 C)``.
    """
    key = key.float() if key.dtype != torch.float64 else key
    foreground = foreground.to(key.dtype)
    kappa = key.mean(dim=1)
    total = foreground.sum(dim=1, keepdim=True)
    mu = torch.where(total < 1, kappa, torch.einsum("bnc,bn->bc", key, foreground) / total.clamp(min=1))
    return kappa, torch.cat([F.normalize(mu, dim=-1), F.normalize(kappa, dim=-1)], dim=-1) / 2**0.5


def redundancy(descriptor: Tensor, valid: Tensor) -> Tensor:
    """``c_t = cos(d_t, d_pred(t))``, pred(t) the owned slot just before t, rounded to 4 decimals: ``(B, T)``."""
    slots = torch.arange(valid.shape[1], device=valid.device)
    latest = torch.where(valid, slots, -1).cummax(dim=1).values
    before = torch.cat([latest.new_zeros(len(latest), 1), latest[:, :-1]], dim=1).clamp(min=0)
    previous = descriptor.gather(1, before.unsqueeze(-1).expand_as(descriptor))
    return (torch.cosine_similarity(descriptor, previous, dim=-1) * 1e4).round()
