"""Where an evaluation leaves what: the names that its callbacks write and that a comparison reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ResultsFolder:
    """Files below ``root``, the folder of one evaluation. ``stage`` is ``val`` or ``test``.

    Attributes:
        root: the folder.
    """

    root: Path

    @property
    def record(self) -> Path:
        """What was measured, of what and on what, for programs: JSON."""
        return self.root / "record.json"

    @property
    def results(self) -> Path:
        """The tables in the layout of davis2017-evaluation."""
        return self.root / "results"

    def global_csv(self, stage: str) -> Path:
        """J&F and its parts over all objects."""
        return self.results / f"global_results-{stage}.csv"

    def sequences_csv(self, stage: str) -> Path:
        """J and F of every object."""
        return self.results / f"per-sequence_results-{stage}.csv"

    def frames(self, stage: str) -> Path:
        """Folder of the tables of single frames."""
        return self.results / f"per-frame_results-{stage}"

    def frames_csv(self, stage: str, video: str) -> Path:
        """J and F of every object of a video on every scored frame."""
        return self.frames(stage) / f"{video}.csv"

    @property
    def masks(self) -> Path:
        """Masks as the data set stores them, a folder a video."""
        return self.root / "masks"

    def mask(self, video: str, frame: str) -> Path:
        """The mask of a frame, by the name of the frame."""
        return self.masks / video / f"{frame}.png"

    @property
    def pictures(self) -> Path:
        """Strips of frames with their masks, one a video."""
        return self.root / "pictures"

    def strip(self, video: str) -> Path:
        """The strip of a video."""
        return self.pictures / f"{video}.png"

    @property
    def clips(self) -> Path:
        """Small pictures of whole videos, and their masks as layers; frames by their number."""
        return self.root / "clips"

    def clip_frames(self, video: str) -> list[int]:
        """Numbers of the frames of a video that there are pictures of, in order."""
        return sorted(int(path.stem) for path in (self.clips / video).glob("*.webp"))

    def clip_frame(self, video: str, t: int) -> Path:
        """The small picture of a frame."""
        return self.clips / video / f"{t:05d}.webp"

    def clip_masks(self, video: str, t: int) -> Path:
        """The predicted masks of a frame, as a layer over its small picture."""
        return self.clips / video / f"{t:05d}.png"

    def clip_truth(self, video: str, t: int) -> Path:
        """The ground truth of a frame, likewise."""
        return self.clips / video / f"{t:05d}.truth.png"
