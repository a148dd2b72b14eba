"""What the tests share: one small network per method, moving squares, and the optional real data."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lightning_vos
from lightning_vos import VOSModule
from lightning_vos.settings import build, nested

SHARED = Path(__file__).resolve().parents[2] / "shared"

# A new method joins every contract test by one line here.
SMALL: dict[str, dict[str, Any]] = {
    "DMMNet": {
        "trunk": "resnet10",
        "norm": "group",
        "dim": 16,
        "matching_dim": 16,
        "detector.trunk": "resnet10",
        "detector.pyramid_dim": 16,
        "detector.box_dim": 16,
        "detector.mask_layers": 1,
        "detector.anchor_sizes": [8, 16, 32, 64, 128],
        "detector.short_side": None,
        "detector.rois": 16,
        "detector.count": 8,
    },
    "HMMN": {
        "query_trunk": "resnet10",
        "memory_trunk": "resnet10",
        "norm": "group",
        "key_dims": [16, 16, 8],
        "value_dims": [32, 16, 8],
        "decoder_dim": 16,
        "fine.top_k": 4,
        "memory_every": 3,
        "capacity": 4,
        "objects_at_once": 3,
        "alignment_weight": 0.5,
    },
    "REMN": {
        "key_trunk": "resnet10",
        "value_trunk": "resnet10",
        "norm": "group",
        "key_dim": 16,
        "value_dim": 32,
        "decoder_dim": 16,
        # An untrained network is never confident; without these no frame would be written, no slot be removed.
        "update.shape_threshold": 0.02,
        "update.min_confidence": 0.0,
        "gate.min_frames": 4,
        "capacity": 6,
    },
    "SiamDyn": {
        "trunk": "resnet10",
        "norm": "group",
        "dim": 16,
        "head.mask_dim": 16,
        "template_size": 65,
        "search_size": 129,
        # An untrained network would lose every target on the first frame, and no state would ever move.
        "tracking.lost_score": 0.0,
    },
}

LONGEST = ["test_slurm", "test_resume", "test_faults", "test_kills", "test_ddp", "test_stages", "test_fifth_method"]

METHODS = list(SMALL)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a module share what it has trained, so they run in one process; those of two methods share nothing.

    The longest come first, so that no process is left alone with them at the end.
    """
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
    for item in items:
        values = item.callspec.params.values() if hasattr(item, "callspec") else ()
        named = {str(value).replace("_", "").lower() for value in values}
        method = next((name for name in METHODS if name.lower() in named), "")
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(f"{item.path.stem} {method}"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # The tensors here are tiny: threads would only wait for each other.
    torch.set_num_threads(1)


def small(method: str, seed: int = 0, **changes: Any) -> VOSModule:
    """A small network with random weights in which every part has an effect; settings of a part as ``part__name``."""
    torch.manual_seed(seed)
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    model = build(getattr(lightning_vos, method), nested({**SMALL[method], **dotted}))
    with torch.no_grad():
        for parameter in model.parameters():
            # Layers that start at zero (attention score, gate) would hide mistakes around them.
            if parameter.ndim > 1 and not parameter.any():
                parameter.normal_(0, 0.2)
    return model.eval()


def squares(
    batch: int, frames: int, objects: int, size: tuple[int, int] = (48, 64), seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Noise frames ``(B, T, 3, H, W)`` uint8 with moving bright squares, and their labels ``(B, T, H, W)`` uint8."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    video = torch.randint(0, 120, (batch, frames, 3, height, width), generator=generator, dtype=torch.uint8)
    labels = torch.zeros(batch, frames, height, width, dtype=torch.uint8)
    side = max(4, min(size) // 3)
    for b in range(batch):
        for k in range(1, objects + 1):
            top, left = (int(torch.randint(0, limit - side, (), generator=generator)) for limit in size)
            down, right = (int(torch.randint(-2, 3, (), generator=generator)) for _ in range(2))
            for t in range(frames):
                y, x = min(max(top + down * t, 0), height - side), min(max(left + right * t, 0), width - side)
                labels[b, t, y : y + side, x : x + side] = k
                video[b, t, k % 3, y : y + side, x : x + side] = min(255, 100 + 20 * k)
    return video, labels


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium without a screen."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium here: install the package chromium to test the page")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()
