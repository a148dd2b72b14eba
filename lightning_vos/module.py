"""What a method needs to be trained: losses of a clip, optimiser, and checkpoints."""

from __future__ import annotations

from inspect import currentframe
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import Precision
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import GradClipAlgorithmType, rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from lightning_vos.blocks.backbone import Backbone
from lightning_vos.checkpoint import check_finite, check_method, load_weights, weights_of, without_files
from lightning_vos.ema import WeightEMA, without_average
from lightning_vos.evaluation import FrameEvaluation
from lightning_vos.functional import one_hot, pad_to_stride
from lightning_vos.losses import bootstrap_fraction, segmentation_loss
from lightning_vos.optimizer import Schedule, StepwiseLR, adamw, lr_factor, steps_fused
from lightning_vos.resume import align_passes
from lightning_vos.run_settings import run_settings
from lightning_vos.segmenter import Segmenter
from lightning_vos.settings import complete
from lightning_vos.types import ClipBatch


class VOSModule(FrameEvaluation):
    """A method as Lightning trains and evaluates it.

    A method derives from this class and defines what :class:`~lightning_vos.segmenter.Segmenter` asks for. Where its
    network is to be used without Lightning, it is a segmenter of its own, ``class REMN(VOSModule, REMNSegmenter)``.
    Settings of a constructor are plain values and dataclasses of these, passed on by ``**kwargs``.

    Args:
        lr: learning rate of AdamW.
        weight_decay: decoupled weight decay of every matrix and filter; none on biases and gains.
        warmup: linear warm-up of the learning rate, fraction of the run.
        schedule: ``constant``; ``step`` (times 0.1 at 80 % of the run, the recipe of XMem); ``cosine`` (to 1 %).
        bootstrap: (start, end, final): the cross entropy keeps all pixels until ``start``, then fewer, down to the
            hardest share ``final`` at ``end``; start and end are fractions of the run.
        trunk_lr: factor of the learning rate of :meth:`trunks`.
        ema: decay of the average of the weights that is scored and handed on, such as 0.999; none by default. See
            :class:`~lightning_vos.ema.WeightEMA`.
        weights: checkpoint of the same method to start from (the hand-over between stages). Every entry must fit.
        **kwargs: settings of the network.

    Attributes:
        pretrained: settings, with dots, that name weights to start from: a checkpoint, which holds them, forgets these.
        starts_from: names of the classes whose checkpoints ``weights`` takes; its own where there is none.

    Raises:
        ValueError: a learning rate below 0, or a decay that is not between 0 and 1.
    """

    pretrained: tuple[str, ...] = ()
    starts_from: tuple[str, ...] = ()

    def __init__(
        self,
        lr: float = 1e-5,
        weight_decay: float = 0.05,
        warmup: float = 0.0,
        schedule: Schedule = "step",
        bootstrap: tuple[float, float, float] = (0.2, 0.7, 0.15),
        trunk_lr: float = 1.0,
        ema: float | None = None,
        weights: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if lr < 0:
            raise ValueError(f"model.lr={lr}: the learning rate must not be negative")
        if ema is not None and not 0 < ema < 1:
            raise ValueError(
                f"model.ema={ema}: the decay of an average is between 0 and 1; set 0.999, or null for none"
            )
        self.save_hyperparameters(ignore=["weights"], frame=currentframe())
        settings = complete(type(self), self.hparams)
        self.hparams.clear()
        self.hparams.update({name: value for name, value in settings.items() if name != "weights"})
        self.lr = lr
        self.weight_decay = weight_decay
        self.warmup = warmup
        self.schedule = schedule
        self.bootstrap = bootstrap
        self.trunk_lr = trunk_lr
        self.ema = ema
        self.weights = weights
        self._starts_at_random = weights is None

    # ---------------------------------------------------------------- what a method may define

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

    def trunks(self) -> list[Backbone]:
        """Trunks that learn at ``trunk_lr``: pretrained ones of pictures. What sees masks has all to learn."""
        found = [part for part in self.modules() if isinstance(part, Backbone)]
        return [trunk for trunk in found if trunk.norm == "frozen_batch" and trunk.in_channels == 3]

    def parameter_groups(self) -> list[tuple[list[torch.nn.Parameter], float]]:
        """Parameters with the factor of their learning rate."""
        known = {id(p) for trunk in self.trunks() for p in trunk.parameters()}
        learning = [p for p in self.parameters() if p.requires_grad]
        return [
            ([p for p in learning if id(p) not in known], 1.0),
            ([p for p in learning if id(p) in known], self.trunk_lr),
        ]

    def adopt(self, checkpoint: dict[str, Any]) -> None:
        """Called once the weights of an earlier stage are loaded: its checkpoint says which class trained them how."""

    # ---------------------------------------------------------------- training

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
                teacher = self.teacher(masks[:, t])
                logits = self.advance(unrolled[t], None, remember=t < length - 1, teacher=teacher)
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
    def run(self) -> Trainer | None:
        """The trainer, if there is one."""
        try:
            return self.trainer
        except RuntimeError:  # Lightning's way to say that there is none
            return None

    @property
    def steps_done(self) -> int:
        """Optimiser steps of the run so far; 0 outside a run."""
        return self.run.global_step if self.run is not None else 0

    @property
    def progress(self) -> float:
        """Share of the run's optimiser steps that are done, in [0, 1]; 0 outside a run."""
        run = self.run
        return 0.0 if run is None or run.max_steps < 1 else min(1.0, run.global_step / run.max_steps)

    def batch_places(self, size: int, batch_idx: int) -> range:
        """Places in the global batch of the step of the ``size`` samples of this pass on this device.

        What is drawn for a sample goes by its place, so that it is the same however the batch is split.
        """
        run = self.run
        if run is None:
            return range(size)
        turn = batch_idx % run.accumulate_grad_batches
        first = (turn * run.world_size + run.global_rank) * size
        return range(first, first + size)

    def configure_callbacks(self) -> list[Callback]:
        """The average of the weights, if wanted. A method adds what only it logs."""
        return [] if self.ema is None else [WeightEMA(self.ema)]

    def on_fit_start(self) -> None:
        """Warn of a network that cannot learn, before the hours are spent.

        Raises:
            ValueError: the method leaves out the average.
        """
        if self.ema is not None and not any(isinstance(callback, WeightEMA) for callback in self.trainer.callbacks):  # type: ignore[attr-defined]
            raise ValueError(
                f"model.ema={self.ema}: {type(self).__name__}.configure_callbacks leaves out the average; return "
                "[*super().configure_callbacks(), ...] there"
            )
        random = any(isinstance(part, Backbone) and part.statistics_are_random for part in self.modules())
        if random and self._starts_at_random and self.trainer.ckpt_path is None:
            rank_zero_warn(
                "norm=frozen_batch with random trunks: nothing is normalised and the network will hardly learn; start "
                "from --model.backbone_weights=imagenet (or a file) or --model.weights, or set --model.norm=group"
            )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with the learning-rate schedule of the constructor, updated every step."""
        fused = steps_fused(self.trainer.precision, self.device)
        optimizer = adamw(self.parameter_groups(), self.lr, self.weight_decay, fused)
        total = max(1, self.trainer.max_steps)
        scheduler = StepwiseLR(optimizer, lambda step: self.lr_factor(step / total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """As Lightning, which for the sake of scaled float16 refuses a fused optimiser in bfloat16 too."""
        plugin, algorithm = self.trainer.precision_plugin, gradient_clip_algorithm or GradClipAlgorithmType.NORM
        Precision.clip_gradients(plugin, optimizer, gradient_clip_val or 0.0, algorithm)

    def lr_factor(self, progress: float) -> float:
        """Learning rate at a share of the run, relative to its peak."""
        return lr_factor(progress, self.warmup, self.schedule)

    # ---------------------------------------------------------------- checkpoints

    def configure_model(self) -> None:
        """Take over the weights of an earlier stage and choose the memory format, once the device is known."""
        if self.weights is not None:
            checkpoint = load_weights(self, self.weights, self.starts_from)
            self.weights = None  # a resumed run must not go back to them
            self.adopt(checkpoint)
        if self.channels_last:
            self.to(memory_format=torch.channels_last)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the method and its network, so that they are found again among those that are installed."""
        cls = type(self)
        plain = (base for base in cls.__mro__ if issubclass(base, Segmenter) and not issubclass(base, LightningModule))
        network = next(plain)
        checkpoint["method"] = cls.__name__
        checkpoint["network"] = (cls if network is Segmenter else network).__name__
        # Whoever loads it needs neither those files nor the internet.
        checkpoint["hyper_parameters"] = without_files(checkpoint.get("hyper_parameters", {}), self.pretrained)
        if self.run is not None:
            checkpoint["run"] = run_settings(self.run)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another method, or a broken one; count the passes of a run as this one makes them.

        Raises:
            ValueError: naming both methods, or the entries that are not finite.
        """
        check_method(checkpoint, self, "the checkpoint")
        check_finite(weights_of(checkpoint), "the checkpoint", "give one of before the run went wrong")
        if self.run is not None:
            if self.run.state.fn == TrainerFn.FITTING and self.ema is None:
                without_average(checkpoint)
            align_passes(checkpoint, self.run.accumulate_grad_batches)
