"""Speed on a clock that moves only when told to."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning import LightningModule, Trainer
from scored_videos import Model, Videos, loader, quiet_trainer

from callbacks import FPSLogger, device_name
from lightning_vos.frame_callback import FrameCallback
from lightning_vos.video import Video


class _Clock:
    """Time passes only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class _Work(FrameCallback):
    """Lets time pass inside the clock, ``latency(video, t)``, and outside, though it is listed before FPSLogger."""

    def __init__(self, clock: _Clock) -> None:
        self.clock = clock

    def latency(self, index: int, t: int) -> float:
        return 0.010 * (index + 1) * (1 + t / 10)

    def on_frame_start(self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int) -> None:
        self.clock.now += self.latency(video.index, t)  # FPSLogger's hook has been called already

    def on_frame_end(self, *args: Any) -> None:
        self.clock.now += 5.0


@pytest.mark.parametrize(("warmup", "counted"), [(0, [0, 1, 2]), (1, [1, 2]), (2, [2]), (3, [0, 1, 2]), (9, [0, 1, 2])])
def test_fps_protocol(warmup: int, counted: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths, objects = [4, 1 + 30, 8], [1, 2, 3]
    videos = Videos(lengths, objects)
    clock = _Clock()
    monkeypatch.setattr("time.perf_counter", clock)
    work, fps = _Work(clock), FPSLogger(warmup)
    trainer = quiet_trainer(tmp_path, [work, fps])
    for _ in range(2):  # nothing is left over from the first
        logged = trainer.validate(Model(videos), loader(videos), verbose=False)[0]
    seconds = sorted(work.latency(index, t) for index in counted for t in range(1, lengths[index]))
    assert logged["val/FPS"] == pytest.approx(len(seconds) / sum(seconds), rel=1e-9)
    for share in (50, 95):
        expected = 1e3 * seconds[math.ceil(share / 100 * len(seconds)) - 1]
        assert logged[f"val/latency_p{share}_ms"] == pytest.approx(expected, rel=0.02)
    assert logged["val/objects_per_video"] == pytest.approx(np.mean([objects[i] for i in counted]))
    assert 10 < logged["val/peak_memory_MB"] < 1e6
    assert device_name("cpu") in fps.setting
    assert "32" in fps.setting
    assert trainer.callbacks[0] is fps  # type: ignore[attr-defined]


def test_fps_logs_nothing_when_nothing_was_measured(tmp_path: Path) -> None:
    videos = Videos([1, 1], [1, 1])
    logged = quiet_trainer(tmp_path, [FPSLogger()]).validate(Model(videos), loader(videos), verbose=False)
    assert logged == [{}]
    with pytest.raises(ValueError, match="warmup_videos=-1"):
        FPSLogger(-1)
