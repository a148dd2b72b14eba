"""Layouts of data sets: where the sequences of a set lie, and where their objects start; one class each."""

from datamodules.layouts.davis import DavisSet
from datamodules.layouts.sequence_set import SequenceSet, find_frames, find_masks
from datamodules.layouts.video_files import VideoFiles
from datamodules.layouts.youtube_vos import YouTubeVOSSet

__all__ = ["DavisSet", "SequenceSet", "VideoFiles", "YouTubeVOSSet", "find_frames", "find_masks"]
