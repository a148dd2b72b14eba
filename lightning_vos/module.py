"""The base of every method: one recursion over frames, shared by training, evaluation and a user's own loop."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from lightning_vos.checkpoint import check_method, load_weights
from lightning_vos.frame_callback import FrameCallback
from lightning_vos.functional import aggregate, in_full, one_hot, pad_to_stride, resize_labels, unpad
from lightning_vos.losses import bootstrap_fraction, segmentation_loss
from lightning_vos.memory import SequenceState
from lightning_vos.tracks import Tracks
from lightning_vos.types import ClipBatch
from lightning_vos.video import Footage, Video

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Query = Any  # what a method makes of a frame: a NamedTuple of tensors with the batch first


class VOSModule(LightningModule):
    """A semi-supervised video object segmentation method.

    A method defines :meth:`encode`, :meth:`segment` and :meth:`memorize`, and optionally :meth:`query`,
    :meth:`auxiliary_losses` and :meth:`parameter_groups`. It holds what it remembers in modules derived from
    :class:`~lightning_vos.memory.SequenceState`.

    A user's own loop::

        model = REMN.load_from_checkpoint("last.ckpt").eval()
        with model.sequence():
            logits = model.step(first_frame, mask)      # (1, 3, H, W) uint8 and (1, K, H, W) one-hot
            for frame in frames:
                logits = model.step(frame)              # (1, K+1, H, W), background first

    Args:
        lr: learning rate of AdamW.
        weight_decay: decoupled weight decay of every matrix and filter; none on biases and gains.
        warmup: linear warm-up of the learning rate, fraction of the run.
        schedule: ``constant``; ``step`` (times 0.1 at 80 % of the run, the recipe of XMem); ``cosine`` (to 1 %).
        bootstrap: (start, end, final): the cross entropy keeps all pixels until ``start``, then fewer, down to the
            hardest share ``final`` at ``end``; start and end are fractions of the run.
        weights: checkpoint of the same method to start from (the hand-over between stages). Every entry must fit.
        channels_last: memory format of filters and images; the faster one on recent CPUs and GPUs.

    Raises:
        ValueError: a learning rate below 0.
    """

    stride = 16
    pretrained: tuple[str, ...] = ("backbone_weights",)  # settings that name weights to start from
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        lr: float = 1e-5,
        weight_decay: float = 0.05,
        warmup: float = 0.0,
        schedule: Literal["constant", "step", "cosine"] = "step",
        bootstrap: tuple[float, float, float] = (0.2, 0.7, 0.15),
        weights: str | None = None,
        channels_last: bool = True,
    ) -> None:
        """See the class."""
        super().__init__()
        if lr < 0:
            raise ValueError(f"model.lr={lr}: the learning rate must not be negative")
        self.lr = lr
        self.weight_decay = weight_decay
        self.warmup = warmup
        self.schedule = schedule
        self.bootstrap = bootstrap
        self.weights = weights
        self.channels_last = channels_last
        self.tracks = Tracks()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    # ---------------------------------------------------------------- what a method defines

    @abstractmethod
    def encode(self, image: Tensor) -> Query:
        """Features of frames, independent of any state: a NamedTuple of tensors ``(B, ...)``.

        Args:
            image: ``(B, 3, H, W)`` normalised, sides multiples of ``stride``. In training all B*T frames at once.
        """

    def query(self, features: Query) -> Query:
        """What of the features depends on the state, computed once per frame; by default the features themselves."""
        return features

    @abstractmethod
    def segment(self, query: Query) -> Tensor:
        """Read the state: ``(B, K, H, W)`` logits of the objects, each on its own."""

    @abstractmethod
    def memorize(self, query: Query, probs: Tensor, given: Tensor | None) -> None:
        """Write the state.

        Args:
            query: of the frame just segmented.
            probs: ``(B, K, H, W)`` aggregated probabilities of the objects.
            given: ``(B, K, H, W)`` masks given on this frame, if any: the frame must be remembered.
        """

    def merge(self, probs: Tensor) -> Tensor:
        """Object probabilities ``(B, K, H, W)`` to logits ``(B, K+1, H, W)``, background first: soft aggregation."""
        return aggregate(probs)

    def frame_losses(self, logits: Tensor, labels: Tensor, masks: Tensor, present: Tensor) -> dict[str, Tensor]:
        """Losses of a training frame after the first: bootstrapped cross entropy and dice.

        Args:
            logits: ``(B, K+1, H, W)`` merged.
            labels: ``(B, H, W)`` uint8 ground truth.
            masks: ``(B, K, H, W)`` the same, one-hot.
            present: ``(B, K)`` bool, which objects exist in which clip.
        """
        fraction = bootstrap_fraction(self.progress, *self.bootstrap)
        cross_entropy, dice = segmentation_loss(logits, labels, masks, present, fraction)
        return {"cross_entropy": cross_entropy, "dice": dice}

    def teacher(self, truth: Tensor) -> Tensor | None:
        """Masks to remember of a training frame instead of the model's own; ``None``: its own, as at test time.

        Args:
            truth: ``(B, K, H, W)`` one-hot ground truth of the frame.
        """
        return None

    def auxiliary_losses(self, labels: Tensor) -> dict[str, Tensor]:
        """Further weighted losses of a clip, called before the state is forgotten.

        Args:
            labels: ``(B, T, H, W)`` uint8 ground truth.
        """
        return {}

    def parameter_groups(self) -> list[tuple[list[torch.nn.Parameter], float]]:
        """Parameters with the factor of their learning rate."""
        return [([p for p in self.parameters() if p.requires_grad], 1.0)]

    # ---------------------------------------------------------------- the recursion

    @contextmanager
    def sequence(self) -> Iterator[None]:
        """The life of one sequence's state: empty before, empty after, also after an exception.

        Raises:
            RuntimeError: inside another sequence of the same module: it holds the state of one.
        """
        if self._running:
            raise RuntimeError("sequence() inside a sequence: a model follows one at a time; use a copy for the second")
        states = self._states().values()
        for state in states:
            state.reset()
        self._running = True
        try:
            yield
        finally:
            self._running = False
            for state in states:
                state.reset()

    def sequence_state(self) -> dict[str, Any]:
        """All that the running sequence remembers, to continue it later or elsewhere: tensors and plain values.

        Save it at once: the next frame may change the tensors in place.
        """
        return {name: state.snapshot() for name, state in self._states().items()}

    def load_sequence_state(self, state: dict[str, Any]) -> None:
        """Continue, inside :meth:`sequence`, where :meth:`sequence_state` was taken, as if nothing had happened."""
        for name, module in self._states().items():
            module.restore(state[name])

    def _states(self) -> dict[str, SequenceState]:
        return {name: module for name, module in self.named_modules() if isinstance(module, SequenceState)}

    _running = False
    _starts_at_random = True

    @torch.inference_mode()
    def step(self, frame: Tensor, mask: Tensor | None = None, remember: bool = True) -> Tensor:
        """Segment the next frame of the sequence.

        Args:
            frame: ``(B, 3, H, W)`` uint8 RGB. All frames of a sequence have one size.
            mask: ``(B, K, H, W)`` one-hot of the objects given on this frame. Needed on the first frame; later ones
                may add objects (K grows, old ones stay empty unless they are corrected). Given masks come back as
                they are.
            remember: write the frame to the state; not needed for the last one. With a mask it is written in any case.

        Returns:
            ``(B, K+1, H, W)`` logits, background first; their softmax over dim 1 is the probability.

        Raises:
            RuntimeError: outside ``with model.sequence():``, or no mask on the first frame.
            ValueError: frame or mask of a wrong type or shape.
        """
        if not self._running:
            raise RuntimeError("step() outside a sequence: call it inside `with model.sequence():`")
        _check_frame(frame)
        if mask is None and self.tracks.t == 0:
            raise RuntimeError("step() without a mask on the first frame: give the masks of the objects to follow")
        if mask is not None:
            _check_mask(mask, frame)
            mask = pad_to_stride(mask.to(self.mean.dtype), self.stride)[0]
        padded, pads = pad_to_stride(frame, self.stride)
        if self.tracks.probs is not None and self.tracks.probs.shape[-2:] != padded.shape[-2:]:
            raise ValueError(f"frame {self.tracks.t} is {tuple(frame.shape[-2:])}, the first one had another size")
        logits = self.advance(self.encode(self.normalize(padded)), mask, remember=remember)
        return unpad(logits, pads)

    def advance(
        self,
        features: Query,
        given: Tensor | None,
        present: Tensor | None = None,
        remember: bool = True,
        taught: Tensor | None = None,
    ) -> Tensor:
        """One frame of the recursion, the only one there is: training, evaluation and :meth:`step` come here.

        Args:
            features: of the frame, from :meth:`encode`.
            given: ``(B, K, H, W)`` masks given on this frame, padded.
            present: ``(B, K)`` bool, which objects exist in which clip; by default those with a pixel in ``given``.
            remember: whether the state is written.
            taught: ``(B, K, H, W)`` masks to remember of the frame instead of its own, see :meth:`teacher`.

        Returns:
            ``(B, K+1, H, W)`` merged logits, padded.
        """
        tracks = self.tracks
        first = tracks.t == 0
        if given is not None:
            tracks.admit(given, present)
        query = self.query(features)
        if first:
            if given is None:
                raise RuntimeError("the first frame of a sequence needs the masks of the objects to follow")
            probs = given
        else:
            probs = torch.sigmoid(in_full(self.segment(query))) * tracks.present[:, :, None, None]
            if given is not None:
                # The given objects are what they are given as, and nobody else is there.
                is_given = given.flatten(2).any(dim=2)[:, :, None, None]
                probs = torch.where(is_given, given, probs * (1 - given.amax(dim=1, keepdim=True)))
        logits = self.merge(probs)
        tracks.probs = torch.softmax(logits, dim=1)
        if remember or given is not None:  # a given mask is never forgotten
            self.memorize(query, tracks.probs[:, 1:] if taught is None else taught, given)
        tracks.t += 1
        return logits

    def normalize(self, frame: Tensor) -> Tensor:
        """``(B, 3, H, W)`` uint8 to the module's dtype, ImageNet mean and deviation; padding is black before that."""
        image = (frame.to(self.mean.dtype) / 255 - self.mean) / self.std
        return image.contiguous(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)

    # ---------------------------------------------------------------- training

    def on_fit_start(self) -> None:
        """Warn of a network that cannot learn, before the hours are spent."""
        from_scratch = self.hparams.get("backbone_weights") is None and self._starts_at_random
        if self.hparams.get("norm") == "frozen_batch" and from_scratch and self.trainer.ckpt_path is None:
            rank_zero_warn(
                "norm=frozen_batch with random trunks: nothing is normalised and the network will hardly learn; start "
                "from --model.backbone_weights=imagenet (or a file) or --model.weights, or set --model.norm=group"
            )

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """Unroll the recursion over a clip; loss of every frame after the first.

        Raises:
            ValueError: there is none.
        """
        batch_size, length = batch.frames.shape[:2]
        if length < 2:
            raise ValueError(
                f"data.clip_length={length}: the first frame's masks are given and the loss is that of the others; "
                "set at least 2"
            )
        frames = pad_to_stride(batch.frames.flatten(0, 1), self.stride)[0]
        labels = pad_to_stride(batch.masks, self.stride)[0]
        masks = one_hot(labels, batch.max_objects).to(self.mean.dtype)
        present = torch.arange(batch.max_objects, device=frames.device) < batch.num_objects.unsqueeze(1)
        features = self.encode(self.normalize(frames))
        unrolled = [
            type(features)(*(tensor.unflatten(0, (batch_size, length))[:, t] for tensor in features))
            for t in range(length)
        ]
        losses: dict[str, Tensor] = {}
        with self.sequence():
            self.advance(unrolled[0], masks[:, 0], present)
            for t in range(1, length):
                taught = self.teacher(masks[:, t])
                logits = self.advance(unrolled[t], None, remember=t < length - 1, taught=taught)
                for name, value in self.frame_losses(logits, labels[:, t], masks[:, t], present).items():
                    losses[name] = losses[name] + value if name in losses else value
            losses |= self.auxiliary_losses(labels)
        return self.log_losses(losses, batch_size)

    def log_losses(self, losses: dict[str, Tensor], batch_size: int) -> Tensor:
        """Log the parts of a training loss and the learning rate; return their sum."""
        loss = torch.stack(list(losses.values())).sum()
        self.log("train/loss", loss, prog_bar=True, batch_size=batch_size)
        self.log("train/lr", self.lr * self.lr_factor(self.progress), batch_size=batch_size)
        self.log_dict({f"train/{name}": value for name, value in losses.items()}, batch_size=batch_size)
        return loss

    @property
    def steps_done(self) -> int:
        """Optimiser steps of the run so far; 0 outside a trainer. Draws are functions of it, so that they resume."""
        return self._trainer.global_step if self._trainer is not None else 0

    def places(self, size: int, batch_idx: int) -> range:
        """Places in the global batch of the step of the ``size`` samples of this pass on this device.

        What is drawn for a sample goes by its place, so that it is the same however the batch is split.
        """
        if self._trainer is None:
            return range(size)
        turn = batch_idx % self._trainer.accumulate_grad_batches
        first = (turn * self._trainer.world_size + self._trainer.global_rank) * size
        return range(first, first + size)

    @property
    def progress(self) -> float:
        """Share of the run's optimiser steps that are done, in [0, 1]; 0 outside a trainer."""
        if self._trainer is None or self._trainer.max_steps < 1:
            return 0.0
        return min(1.0, self._trainer.global_step / self._trainer.max_steps)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with the learning-rate schedule of the constructor, updated every step."""
        groups = []
        for parameters, factor in self.parameter_groups():
            for decay in (True, False):
                chosen = [p for p in parameters if (p.ndim > 1) == decay]
                if chosen:
                    decay_rate = self.weight_decay if decay else 0.0
                    groups.append({"params": chosen, "lr": self.lr * factor, "weight_decay": decay_rate})
        # Fused: one pass over the weights instead of a dozen. Lightning clips no gradients of mixed precision with it.
        optimizer = torch.optim.AdamW(groups, lr=self.lr, fused=self.trainer.precision.endswith("-true"))
        optimizer.register_load_state_dict_post_hook(_lay_out_as_weights)
        total = max(1, self.trainer.max_steps)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.lr_factor(step / total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def lr_factor(self, progress: float) -> float:
        """Learning rate at a share of the run, relative to its peak."""
        if progress < self.warmup:
            return max(progress, 1e-3) / self.warmup
        if self.schedule == "step":
            return 0.1 if progress >= 0.8 else 1.0
        if self.schedule == "cosine":
            share = (min(1.0, progress) - self.warmup) / (1 - self.warmup)
            return 0.01 + 0.99 * 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * share))))
        return 1.0

    def configure_model(self) -> None:
        """Take over the weights of an earlier stage and choose the memory format, once the device is known."""
        self._starts_at_random = self.weights is None
        if self.weights is not None:
            settings = load_weights(self, self.weights)
            self.weights = None  # a resumed run must not go back to them
            self.take_over(settings)
        if self.channels_last:
            self.to(memory_format=torch.channels_last)

    def take_over(self, settings: dict[str, Any]) -> None:
        """Called once the weights of an earlier stage are loaded; ``settings`` are those of that run."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the method, so that a checkpoint of another one is refused with its name."""
        checkpoint["method"] = type(self).__name__
        settings = checkpoint.get("hyper_parameters", {})
        given = {name: None for name in self.pretrained if settings.get(name) is not None}
        if given:
            # They are in the checkpoint now: whoever loads it needs neither that file nor the network.
            checkpoint["hyper_parameters"] = {**settings, **given}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another method.

        Raises:
            ValueError: naming both methods.
        """
        check_method(checkpoint, self, "the checkpoint")

    # ---------------------------------------------------------------- evaluation

    def validation_step(self, video: Video, batch_idx: int) -> None:
        """Segment a video; the frame callbacks score, time and draw."""
        self.segment_video(video)

    test_step = validation_step

    def predict_step(self, footage: Footage, batch_idx: int) -> None:
        """Segment a user's video, pass after pass; the frame callbacks write what comes out.

        Raises:
            ValueError, OSError: the video cannot be read or the masks cannot be written, unless ``footage`` takes note.
        """
        try:
            for observer in self._observers():
                observer.on_footage_start(self.trainer, self, footage)
            for video in footage.passes:
                self.segment_video(video)
            for observer in self._observers():
                observer.on_footage_end(self.trainer, self, footage)
        except (ValueError, OSError) as error:
            if footage.problems is None:
                raise
            footage.problems[footage.video.name] = str(error)
            rank_zero_warn(f"{footage.video.name}: {error}; going on with the next video")

    def segment_video(self, video: Video) -> None:
        """Stream a video through the recursion and hand every frame's labels to the frame callbacks."""
        observers = self._observers()
        given = {t: int(prompt.max()) for t, prompt in video.prompts.items()}
        num_objects = max((count for t, count in given.items() if t < video.start), default=0)
        with self.sequence():
            if video.state is not None:
                self.load_sequence_state(video.state)
                video.state = None
            for t, frame in enumerate(video, video.start):
                mask = None
                if t in video.prompts:
                    prompt = resize_labels(video.prompts[t].to(frame.device), (frame.shape[-2], frame.shape[-1]))
                    num_objects = max(num_objects, given[t])
                    mask = one_hot(prompt, num_objects).unsqueeze(0)
                for observer in observers:
                    observer.on_frame_start(self.trainer, self, video, t)
                if mask is None and num_objects == 0:  # nothing to follow yet
                    labels = torch.zeros(video.size, dtype=torch.uint8, device=frame.device)
                else:
                    logits = self.step(frame.unsqueeze(0), mask, remember=t < len(video) - 1)
                    labels = to_labels(logits, video.size)[0]
                for observer in observers:
                    observer.on_frame_end(self.trainer, self, video, t, frame, labels)

    def _observers(self) -> list[FrameCallback]:
        return [callback for callback in self.trainer.callbacks if isinstance(callback, FrameCallback)]  # type: ignore[attr-defined]


def to_labels(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Label maps at the original size: probabilities are up-sampled before the arg-max.

    Args:
        logits: ``(B, K+1, h, w)``, background first.
        size: ``(H, W)``.

    Returns:
        ``(B, H, W)`` uint8.
    """
    if logits.shape[-2:] != torch.Size(size):
        logits = F.interpolate(torch.softmax(logits, dim=1), size=size, mode="bilinear", align_corners=False)
    return logits.argmax(dim=1).to(torch.uint8)


def _lay_out_as_weights(optimizer: torch.optim.Optimizer) -> None:
    """A fused step reads moments in the order of memory: saved in another memory format, they would be scrambled."""
    for weight, moments in optimizer.state.items():
        for name, moment in moments.items():
            if moment.shape == weight.shape:
                moments[name] = torch.empty_like(weight).copy_(moment)


def _check_frame(frame: Tensor) -> None:
    if frame.ndim != 4 or frame.shape[1] != 3 or frame.dtype != torch.uint8:
        raise ValueError(f"frame is {tuple(frame.shape)} {frame.dtype}: give (B, 3, H, W) uint8 RGB")


def _check_mask(mask: Tensor, frame: Tensor) -> None:
    expected = (frame.shape[0], *frame.shape[-2:])
    if mask.ndim != 4 or (mask.shape[0], *mask.shape[-2:]) != expected or mask.shape[1] == 0:
        raise ValueError(
            f"mask is {tuple(mask.shape)} for a frame {tuple(frame.shape)}: give a (B, K, H, W) one-hot, K >= 1"
        )
    low, high = mask.min().item(), mask.max().item()
    if low < 0 or high > 1:
        raise ValueError(f"mask holds {low:g} to {high:g}: give one channel of 0 and 1 per object, not ids or 0/255")
    if mask.shape[1] > 1 and (overlap := mask.float().sum(dim=1).max().item()) > 1.001:
        raise ValueError(f"the objects of the mask overlap (they sum to {overlap:.3g}): a pixel belongs to one object")
