"""What the data modules share: checks, the position in the run, evaluation."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import cv2
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from datamodules.image_sets import ImageSet, Still
from datamodules.layouts import SequenceSet, VideoFiles
from datamodules.samplers import ClipSampler, VideoSampler
from datamodules.sequences import EvaluationSet
from lightning_vos.types import Clip, ClipBatch
from lightning_vos.video import Footage, Video

Files = TypeVar("Files", Still, VideoFiles)


class ClipLoader(DataLoader[Clip]):
    """A loader whose sampler knows its position from the step of the run.

    The empty state tells Lightning that resuming in the middle of an epoch is safe; it warns otherwise.
    """

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the data module holds the position."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to restore."""


def _start_worker(worker: int) -> None:
    # Workers are the parallelism; OpenCV would start as many threads as there are cores in each of them.
    cv2.setNumThreads(0)
    # Slurm and terminals send them to every process of a job: it is the training process that decides when to stop.
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


class VOSDataModule(LightningDataModule):
    """Loaders of training clips and evaluation videos; the base of all data modules.

    A run is one long epoch: ``trainer.max_steps`` optimiser steps of ``batch_size`` clips, and the clip at a position
    of the run is the same whatever the number of devices, of workers and of restarts. One description of a data set
    (``images``, ``videos``, ``val``) serves both stages; each takes what it needs.

    Learning-rate schedules should read ``trainer.max_steps``. With ``max_epochs`` set, Lightning's
    ``trainer.estimated_stepping_batches`` builds the loader before a checkpoint is restored, that is for step 0.

    Args:
        root: folder that holds the data sets.
        images: still images for training.
        videos: video sequences for training.
        val: video sequences for validation and test; ``None``: no validation.
        crop: side of the square training clips, pixels.
        whole: training clips show whole pictures, fitted into the square, instead of random parts of them: for methods
            that cut their own windows.
        clip_length: frames of a training clip.
        batch_size: clips of one optimiser step, over all devices and accumulated forward passes.
        num_workers: loader processes of each device.
        seed: seed of the order of the data and of all augmentation.
        max_objects: most objects of a training clip.
        short_side: evaluation frames are shrunk so that the shorter side has at most this many pixels; ``None`` keeps
            them. Masks are scored and written at the size of the annotations in any case.
        demo: write the small procedural data set to ``<root>/demo`` first, unless it is there.

    Attributes:
        order: settings that decide which sample is at a position: a run that goes on must keep them.
    """

    order: tuple[str, ...] = ("class_path", "seed", "images", "videos")

    def __init__(
        self,
        root: str = "data",
        images: list[ImageSet] | None = None,
        videos: list[SequenceSet] | None = None,
        val: SequenceSet | None = None,
        crop: int = 384,
        whole: bool = False,
        clip_length: int = 8,
        batch_size: int = 8,
        num_workers: int = 4,
        seed: int = 0,
        max_objects: int = 3,
        short_side: int | None = 480,
        demo: bool = False,
    ) -> None:
        super().__init__()
        for name, value in {"crop": crop, "clip_length": clip_length, "batch_size": batch_size}.items():
            if value < 1:
                raise ValueError(f"data.{name}={value} must be at least 1")
        if not 1 <= max_objects < 255:
            raise ValueError(f"data.max_objects={max_objects} must be from 1 to 254")
        self.root = Path(root)
        self.images = images or []
        self.videos = videos or []
        self.val = val
        self.crop = crop
        self.whole = whole
        self.clip_length = clip_length
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.max_objects = max_objects
        self.short_side = short_side
        self.demo = demo
        self.max_skip: Sequence[tuple[float, int]] = [(0.0, 1)]
        self.train_set: Dataset[Clip] | None = None
        self.val_set: EvaluationSet | None = None
        self._origin = 0

    def state_dict(self) -> dict[str, int]:
        """How many samples the run has used, of how many: for a run that goes on, perhaps with another batch size."""
        steps = self.trainer.global_step if self.trainer is not None else 0
        items = 0 if self.train_set is None else len(self.train_set)  # type: ignore[arg-type]
        return {"steps": steps, "samples": self._origin + steps * self.batch_size, "items": items}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on behind the samples that the run has used.

        Raises:
            ValueError: they are of a set of another length, so that what is left of a pass over it is not known.
        """
        if self.train_set is None:
            return
        items, used = len(self.train_set), state_dict["items"]  # type: ignore[arg-type]
        if items != used:
            raise ValueError(
                f"data.root={self.root}: the training set has {items} samples, but {used} when the run was saved; "
                "restore its files, or start anew in another --trainer.default_root_dir"
            )
        self._origin = state_dict["samples"] - state_dict["steps"] * self.batch_size

    def prepare_data(self) -> None:
        """Write the demo set if asked for; nothing is downloaded."""
        if self.demo:
            from datamodules.demo import write_demo

            write_demo(self.root)

    def setup(self, stage: str) -> None:
        """Find and check all files that the stage needs.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.

        Raises:
            FileNotFoundError: a folder, list or file is missing.
            ValueError: files do not fit together, or the stage has no data.
        """
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"data.root={self.root}: no such folder; set --data.root to where the data sets are"
            )
        self._origin = 0
        if stage == "fit" and self.train_set is None:
            self.train_set = self.training_set()
        if self.val is None:
            if stage != "fit":
                raise ValueError(f"data.val is not set: there is nothing to {stage}; name a sequence set")
        elif self.val_set is None:
            self.val_set = EvaluationSet(self.checked(self.val.videos(self.root)), self.short_side)

    @property
    def checks_files(self) -> bool:
        """Whether this process opens the headers of all files; once is enough."""
        return self.trainer is None or self.trainer.is_global_zero

    def checked(self, samples: list[Files]) -> list[Files]:
        """The same samples, after a look at the headers of their files if this process ``checks_files``.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: sizes differ, or a file is not an image.
        """
        if self.checks_files:
            for sample in samples:
                sample.check()
        return samples

    def all_stills(self, all_objects: bool = False) -> list[Still]:
        """The checked samples of ``images``, repeats included; ``all_objects`` as for :meth:`ImageSet.stills`.

        Raises:
            FileNotFoundError: a folder or file is missing.
            ValueError: no image set, or files that do not fit together.
        """
        if not self.images:
            raise ValueError("data.images is empty: there are no still images to train on; name at least one set")
        return [
            still
            for images in self.images
            for still in self.checked(images.stills(self.root, all_objects)) * images.repeat
        ]

    def all_videos(self, dense: bool = False) -> list[VideoFiles]:
        """The checked sequences of ``videos``, repeats included; ``dense`` as for :meth:`SequenceSet.videos`.

        Raises:
            FileNotFoundError: a folder, list or file is missing.
            ValueError: files that do not fit together.
        """
        return [
            video
            for sequences in self.videos
            for video in self.checked(sequences.videos(self.root, dense=dense)) * sequences.repeat
        ]

    def training_set(self) -> Dataset[Clip]:
        """The stage's training set: checked, repeats included, indexed by :class:`~datamodules.samplers.ClipKey`."""
        raise NotImplementedError

    def train_dataloader(self) -> ClipLoader:
        """Loader of this rank's clips, from the trainer's current step to the end of the run.

        Raises:
            ValueError: the run has no end, the batch cannot be split, or ``overfit_batches`` is used.
        """
        trainer = self.trainer
        if trainer is None or self.train_set is None:
            raise ValueError("train_dataloader() needs a trainer and setup('fit'); call trainer.fit(model, datamodule)")
        if trainer.max_steps < 1:
            raise ValueError(
                f"trainer.max_steps={trainer.max_steps}: a run is counted in steps; set it, such as 100000"
            )
        if trainer.overfit_batches:  # type: ignore[attr-defined]
            raise ValueError("trainer.overfit_batches would replace the sampler; use a set of few sequences instead")
        parts = trainer.world_size * trainer.accumulate_grad_batches
        if self.batch_size % parts:
            raise ValueError(
                f"data.batch_size={self.batch_size} cannot be split over {trainer.world_size} devices x "
                f"accumulate_grad_batches={trainer.accumulate_grad_batches}; use a multiple of {parts}"
            )
        sampler = ClipSampler(
            len(self.train_set),  # type: ignore[arg-type]
            self.batch_size // trainer.accumulate_grad_batches,
            self._origin + trainer.max_steps * self.batch_size,
            # Asked for anew whenever an iteration begins: with limit_train_batches there is more than one.
            start=lambda: self._origin + trainer.global_step * self.batch_size,
            seed=self.seed,
            max_skip=self.max_skip,
            num_replicas=trainer.world_size,
            rank=trainer.global_rank,
            origin=self._origin,
        )
        return ClipLoader(
            self.train_set,
            batch_size=self.batch_size // parts,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=ClipBatch.collate,
            pin_memory=trainer.strategy.root_device.type == "cuda",
            drop_last=True,
            worker_init_fn=_start_worker,
            persistent_workers=self.num_workers > 0,
            # Loaders draw a seed for their workers; from a generator of its own it leaves the global one alone.
            generator=torch.Generator(),
        )

    def val_dataloader(self) -> DataLoader[Video] | list[DataLoader[Video]]:
        """Loader of this rank's videos, one at a time; ``[]`` without ``val``.

        It needs no workers: a video decodes its own frames ahead.
        """
        if self.val_set is None:
            return []
        trainer = self.trainer
        sampler = VideoSampler(
            self.val_set.lengths,
            num_replicas=trainer.world_size if trainer else None,
            rank=trainer.global_rank if trainer else None,
        )
        return DataLoader(self.val_set, batch_size=None, sampler=sampler, num_workers=0)

    def test_dataloader(self) -> DataLoader[Video] | list[DataLoader[Video]]:
        """The validation videos."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Video] | list[DataLoader[Video]]:
        """The validation videos, each as footage of one pass: to write their masks."""
        loader = self.val_dataloader()
        if isinstance(loader, DataLoader):
            loader.collate_fn = Footage.of
        return loader
