"""Data for video object segmentation: still images, video sequences, and a user's own videos."""

from datamodules.image_sets import ImageSet
from datamodules.layouts import DavisSet, SequenceSet, YouTubeVOSSet
from datamodules.online import OnlineDataModule
from datamodules.own_videos import PredictDataModule
from datamodules.pictures import PictureDataModule
from datamodules.static import StaticDataModule
from datamodules.video import VideoDataModule

__all__ = [
    "DavisSet",
    "ImageSet",
    "OnlineDataModule",
    "PictureDataModule",
    "PredictDataModule",
    "SequenceSet",
    "StaticDataModule",
    "VideoDataModule",
    "YouTubeVOSSet",
]
