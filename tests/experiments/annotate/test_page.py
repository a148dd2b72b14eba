"""The page in a real browser, from the first stroke to the export, with a network that is started as for a user."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import small
from lightning import Trainer
from movie_files import moving_square, predict, write_movie, written
from PIL import Image
from tiny_runs import ROOT, planned

pytestmark = pytest.mark.slow

FRAMES, SIZE = 24, (96, 128)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Of a page for a tiny clip, as ``make annotate`` starts it."""
    write_movie(tmp_path / "clip.mp4", moving_square(FRAMES, SIZE)[0])
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(small("HMMN"))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    words = ("METHOD=hmmn", f"CKPT={tmp_path}/last.ckpt", f"VIDEO={tmp_path}/clip.mp4", f"OUT={tmp_path}/out")
    (run,) = planned("annotate", *words)
    command = [sys.executable, "-m", run.module, *run.words, "--trainer.accelerator=cpu"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        found = next((match[0] for line in server.stdout if (match := re.search(r"http://\S+", line))), None)
        assert found is not None
        yield found
        server.terminate()
        assert server.wait(30) in (143, -15)
    assert not list(tmp_path.rglob(".owner.json"))


class Page:
    """A tab with the page in it, and what it complained of."""

    def __init__(self, browser: Any, address: str) -> None:
        self.tab = browser.new_page(viewport={"width": 1280, "height": 860})
        self.tab.set_default_timeout(120_000)  # a busy machine is no fault of the page
        self.complaints: list[str] = []
        self.tab.on("console", lambda said: self.complaints.append(said.text) if said.type != "log" else None)
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("request", lambda asked: self.complaints.extend([] if address in asked.url else [asked.url]))
        self.tab.goto(address)
        self.tab.wait_for_selector("body[data-ready=yes]")

    def drag(self, *points: tuple[float, float]) -> None:
        """From point to point, in pixels of the video."""
        box = self.tab.locator("#view").bounding_box()
        scale = min(box["width"] / SIZE[1], box["height"] / SIZE[0])
        left = box["x"] + (box["width"] - SIZE[1] * scale) / 2
        top = box["y"] + (box["height"] - SIZE[0] * scale) / 2
        for number, (x, y) in enumerate(points):
            self.tab.mouse.move(left + x * scale, top + y * scale, steps=3)
            if number == 0:
                self.tab.mouse.down()
        self.tab.mouse.up()

    def saved(self) -> None:
        self.tab.wait_for_selector('#saved:text-is("saved")')

    def done(self, what: str, words: str) -> None:
        """Wait until something that was just started begins and ends."""
        self.tab.wait_for_selector(f"body[data-running={what}]")
        self.tab.wait_for_selector('body[data-running=""]')
        assert words in self.tab.locator("#status").inner_text()


def ids(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def test_paint_propagate_mend_export(address: str, browser: Any, tmp_path: Path) -> None:
    out, given = tmp_path / "out", tmp_path / "out" / "given"
    page = Page(browser, address)
    tab = page.tab

    # A brush paints where it is, undo takes it back, and the disk knows at once.
    page.drag((30, 30), (60, 30))
    page.saved()
    painted = ids(given / "00000.png")
    assert painted[30, [31, 45, 59]].all()
    assert painted[30, 75] == painted[50, 45] == 0
    page.drag((30, 60), (60, 60))
    page.saved()
    assert ids(given / "00000.png")[60, 45] == 1
    tab.keyboard.press("Control+z")
    page.saved()
    assert np.array_equal(ids(given / "00000.png"), painted)
    tab.keyboard.press("n")
    tab.keyboard.press("o")
    for x, y in ((80, 50), (110, 50), (110, 80)):
        page.drag((x, y))
    tab.keyboard.press("Enter")
    page.saved()
    assert ids(given / "00000.png")[55, 105] == 2

    # Propagated; a mended frame makes only what comes after the snapshot before it be done again.
    tab.keyboard.press("f")
    page.done("propagate", "every mask is up to date")
    before = {path.name: path.stat().st_mtime_ns for path in (out / "masks" / "clip").iterdir()}
    assert len(before) == FRAMES
    tab.locator("#scrubber").fill("21")
    tab.wait_for_selector('#where:has-text("frame 00021")')
    tab.keyboard.press("1")
    tab.keyboard.press("p")
    page.drag((20, 70), (50, 70))
    page.saved()
    tab.wait_for_selector('#note:text-is("given")', timeout=20_000)
    assert tab.locator("#export").is_disabled()
    tab.locator("#propagate").click()
    page.done("propagate", "every mask is up to date")
    after = {path.name: path.stat().st_mtime_ns for path in (out / "masks" / "clip").iterdir()}
    assert [name for name in sorted(before) if after[name] != before[name]] == [f"{t:05d}.png" for t in range(20, 24)]

    # Closed and opened again, nothing is lost; export.
    tab.close()
    again = Page(browser, address)
    assert again.tab.locator("#objects button").count() == 2
    again.tab.keyboard.press("x")
    again.tab.locator("#export").click()
    again.done("export", "overlays, alpha and rle are written")
    assert all((out / name).exists() for name in ("overlays/clip.mp4", "rle/clip.json", "alpha/clip/00023.png"))
    assert page.complaints + again.complaints == []

    # The same given masks, predicted from the start without the page: the same files.
    fresh = tmp_path / "fresh"
    predict(small("HMMN"), fresh, video=tmp_path / "clip.mp4", mask=given, masks="all")
    assert written(out, "clip").keys() == written(fresh, "clip").keys()
    for path in (fresh / "masks" / "clip").iterdir():
        assert path.read_bytes() == (out / "masks" / "clip" / path.name).read_bytes()
