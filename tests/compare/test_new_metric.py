"""A metric of one's own is one callback: its figures come into the tables by themselves."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import small
from lightning import Trainer
from PIL import Image
from tiny_runs import EXPERIMENTS, started, tiny, write_tiny_demo

from lightning_vos.compare.page import page
from lightning_vos.compare.records import read_record
from lightning_vos.compare.tables import csv_table, markdown_table

pytestmark = pytest.mark.slow

METRIC = '''
from torchmetrics import MeanMetric

from lightning_vos.column import Column
from lightning_vos.frame_callback import FrameCallback


class Coverage(FrameCallback):
    """Logs the share of the pixels that are objects."""

    columns = (Column("coverage", "covered", "share of the pixels that are objects, per cent", 100, better="lower"),)

    def on_validation_epoch_start(self, trainer, pl_module):
        self.share = MeanMetric()

    def on_frame_end(self, trainer, pl_module, video, t, frame, labels):
        self.share.update((labels > 0).float().cpu())

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("val/coverage", self.share.compute())
'''


def test_a_new_metric_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "coverage_metric.py").write_text(METRIC)
    monkeypatch.syspath_prepend(tmp_path)
    checkpoint = tmp_path / "last.ckpt"
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(small("REMN"))
    trainer.save_checkpoint(checkpoint, weights_only=True)
    data = write_tiny_demo(tmp_path / "data")
    layers = [f"--config={EXPERIMENTS / name}.yaml" for name in ("base", "video", "data/demo", "compare")]
    records = []
    for name, more in (("without", []), ("with", ["--trainer.callbacks+=coverage_metric.Coverage"])):
        out = tmp_path / name
        started(["validate", *layers, *tiny(data, out), f"--ckpt_path={checkpoint}", *more])
        records.append(read_record(out, name, checkpoint, 0))
    del sys.modules["coverage_metric"]

    plain, mine = records
    folder = mine.folder
    masks = [
        np.isin(np.array(Image.open(folder.clip_masks(video, t))), range(1, 1 + mine.objects[video]))
        for video in mine.sequences
        for t in folder.clip_frames(video)
    ]
    share = np.mean(np.concatenate([mask.ravel() for mask in masks]))
    assert mine.metrics["coverage"] == pytest.approx(share, abs=1e-6)
    assert share > 0
    assert mine.columns[:-1] == plain.columns

    header, _, first, second = markdown_table(records).splitlines()[:4]
    assert header.endswith("| params M | covered |")
    assert first.endswith("| - |")
    assert second.endswith(f"| {100 * share:.1f} |")
    rows = list(csv.DictReader(io.StringIO(csv_table(records))))
    assert [float(row["coverage"]) for row in rows] == pytest.approx([np.nan, share], abs=1e-6, nan_ok=True)
    assert 'title="share of the pixels that are objects, per cent"' in page(records)
