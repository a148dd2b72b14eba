"""Callbacks measure, modules predict: scores, speed and pictures of what the evaluation loops segment."""

from callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from callbacks.clip_images import ClipImages
from callbacks.davis_evaluation import DavisEvaluation
from callbacks.device import clock, device_name
from callbacks.drawing import overlay
from callbacks.dry_run import DryRun
from callbacks.evaluation_record import EvaluationRecord
from callbacks.fps import FPSLogger
from callbacks.mask_exports import MaskExports
from callbacks.mask_images import MaskImages
from callbacks.mask_png import save_palette_png
from callbacks.mask_writer import MaskWriter
from callbacks.object_report import ObjectReport
from callbacks.overlay_video import OverlayVideo
from callbacks.prediction_progress import PredictionProgress
from callbacks.progress_lines import ProgressBar, ProgressLines
from callbacks.run_summary import RunSummary
from callbacks.skipped_steps import SkippedSteps
from callbacks.submission import Submission
from callbacks.wandb import AutoWandbLogger
from lightning_vos.palette import PALETTE

__all__ = [
    "PALETTE",
    "AutoWandbLogger",
    "BestCheckpoint",
    "ClipImages",
    "DavisEvaluation",
    "DryRun",
    "EvaluationRecord",
    "FPSLogger",
    "LastCheckpoint",
    "MaskExports",
    "MaskImages",
    "MaskWriter",
    "ObjectReport",
    "OverlayVideo",
    "PredictionProgress",
    "ProgressBar",
    "ProgressLines",
    "RunSummary",
    "SkippedSteps",
    "Submission",
    "clock",
    "device_name",
    "overlay",
    "save_palette_png",
]
