"""Data for video object segmentation: still images and video sequences, for training and evaluation."""

from datamodules.images import ImageSet
from datamodules.layouts import SequenceSet
from datamodules.pictures import PictureDataModule
from datamodules.static import StaticDataModule
from datamodules.video import VideoDataModule

__all__ = ["ImageSet", "PictureDataModule", "SequenceSet", "StaticDataModule", "VideoDataModule"]
