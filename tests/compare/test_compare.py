"""Checkpoints side by side: what is read back, the tables, and the page in a real browser."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import METHODS, small
from lightning import Trainer
from PIL import Image
from tiny_runs import ROOT, commands, started, tiny, write_tiny_demo

from callbacks import PALETTE
from lightning_vos.checkpoint import read_checkpoint
from lightning_vos.compare import page as page_module
from lightning_vos.compare.charts import by_interest
from lightning_vos.compare.clips import read_clip
from lightning_vos.compare.page import page
from lightning_vos.compare.records import Record, read_record, run_names
from lightning_vos.compare.tables import csv_table, markdown_table
from lightning_vos.results_folder import ResultsFolder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_demo(tmp_path_factory.mktemp("data"))


def options() -> list[str]:
    """What ``make compare`` hands to every evaluation of a comparison."""
    (words,) = commands("compare", "DATA=demo", "CKPTS=x")
    return words[words.index("--") + 1 :]


def untrained(method: str, path: Path) -> Path:
    """A checkpoint of a small network, as the trainer writes it."""
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(small(method))
    trainer.save_checkpoint(path, weights_only=True)
    return path


@pytest.fixture(scope="module")
def records(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """Every method, untrained, on three videos: two objects at most, five frames each."""
    found = []
    for method in METHODS:
        folder = tmp_path_factory.mktemp(method)
        checkpoint = untrained(method, folder / "last.ckpt")
        started(["validate", *options(), *tiny(demo, folder / "out"), f"--ckpt_path={checkpoint}"])
        found.append(read_record(folder / "out", f"my {method}", checkpoint, 7))
    return found


# ---------------------------------------------------------------- reading back


def test_a_record_is_what_the_evaluation_measured(records: list[Record]) -> None:
    for record, method in zip(records, METHODS, strict=True):
        assert record.method == method
        state = read_checkpoint(str(record.checkpoint))["state_dict"]
        assert 0 < record.parameters <= sum(value.numel() for value in state.values())
        assert record.frames == 15
        assert set(record.metrics) >= {
            "J&F",
            "J",
            "F",
            "J_recall",
            "F_decay",
            "FPS",
            "latency_p95_ms",
            "peak_memory_MB",
        }
        with record.folder.global_csv("val").open() as file:
            (row,) = csv.DictReader(file)
        assert record.metrics["J&F"] == pytest.approx(float(row["J&F-Mean"]), abs=1e-6)
        weighted = sum(record.sequences[name] * record.objects[name] for name in record.sequences)
        assert weighted / sum(record.objects.values()) == pytest.approx(record.metrics["J&F"], abs=1e-5)
        scores = [score for name in record.sequences for score in record.frame_scores(name)]
        assert {score.number for score in scores} == {1, 2, 3}  # neither the first nor the last of five
        assert len(scores) == 3 * sum(record.objects.values())


def test_clips_show_what_was_found(records: list[Record], demo: Path) -> None:
    name = next(iter(records[0].sequences))
    folder = records[0].folder
    truth = Image.open(demo / "demo/Annotations/480p" / name / "00002.png")
    with Image.open(folder.clip_truth(name, 2)) as layer, Image.open(folder.clip_frame(name, 2)) as frame:
        assert layer.size == frame.size == truth.size
        pixels, labels = layer.convert("RGBA").load(), truth.load()
        assert pixels is not None
        assert labels is not None
        seen = set()
        for x in range(truth.width):
            for y in range(truth.height):
                *colour, alpha = pixels[x, y]
                if labels[x, y]:
                    assert (colour, alpha) == (PALETTE[labels[x, y]].tolist(), 140)
                else:
                    assert alpha == 0 or (colour, alpha) == ([255, 255, 255], 230)  # clear, or the outline
                seen.add(alpha)
        assert seen == {0, 140, 230}
    clip = read_clip(records, name, 10**9)
    assert clip is not None
    assert clip["numbers"] == [0, 1, 2, 3, 4]
    assert list(clip["layers"]) == ["ground truth", *(record.name for record in records)]
    thin = read_clip(records, name, sum(map(len, clip["frames"])) // 4)
    assert thin is not None
    assert thin["numbers"][0] == 0
    assert len(thin["numbers"]) < 4
    nowhere = ResultsFolder(Path("nowhere"))
    assert read_clip([dataclasses.replace(record, folder=nowhere) for record in records], name, 1) is None


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["runs/a/video/checkpoints/last.ckpt", "runs/b/video/checkpoints/last.ckpt"], ["a", "b"]),
        (["runs/a/video/checkpoints/last.ckpt", "runs/a/static/checkpoints/last.ckpt"], ["a/video", "a/static"]),
        (
            ["runs/a/video/checkpoints/last.ckpt", "runs/a/video/checkpoints/best.ckpt"],
            ["a/video/last", "a/video/best"],
        ),
        (["x/net.ckpt"], ["net"]),
        (["mine=x/net.ckpt", "runs/a/video/checkpoints/last.ckpt"], ["mine", "a"]),
        (["x/step=3.ckpt"], ["step=3"]),
    ],
)
def test_names(words: list[str], names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for word in words:
        path = Path(word.removeprefix("mine="))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = run_names(words)
    assert list(found) == names
    assert [str(path) for path in found.values()] == [word.removeprefix("mine=") for word in words]


def test_names_that_will_not_do(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    path.touch()
    with pytest.raises(ValueError, match="no checkpoint given; name the files"):
        run_names([])
    with pytest.raises(FileNotFoundError, match=r"b.ckpt: no such file; give PATH or NAME=PATH"):
        run_names([str(path), f"{tmp_path}/b.ckpt"])
    with pytest.raises(ValueError, match="given twice; give each checkpoint once"):
        run_names([str(path), str(path)])


def test_an_evaluation_that_did_not_end(records: list[Record], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"record.json: no record of an evaluation"):
        read_record(tmp_path, "x", Path("x"), 0)
    text = records[0].folder.record.read_text()
    (tmp_path / "record.json").write_text(text.replace('"J&F":', '"other":'))
    with pytest.raises(ValueError, match="no frame had ground truth"):
        read_record(tmp_path, "x", Path("x"), 0)


# ---------------------------------------------------------------- tables


def test_tables(records: list[Record]) -> None:
    first = dataclasses.replace(records[0], name="a|b", metrics={**records[0].metrics, "J&F": 0.9, "FPS": float("nan")})
    second = dataclasses.replace(records[1], metrics={**records[1].metrics, "J&F": 0.25, "FPS": 12.0})
    rows = list(csv.DictReader(io.StringIO(csv_table([first, second]))))
    assert [row["name"] for row in rows] == ["a|b", second.name]
    for row, record in zip(rows, (first, second), strict=True):
        assert float(row["J&F"]) == record.metrics["J&F"]
        assert float(row["F_recall"]) == record.metrics["F_recall"]
        assert int(row["parameters"]) == record.parameters
        assert row["checkpoint"] == str(record.checkpoint)
    lines = markdown_table([first, second]).splitlines()
    assert lines[0] == (
        "|  | method | J&F | J | J recall | J decay | F | F recall | F decay"
        " | FPS | p50 ms | p95 ms | memory MiB | params M |"
    )
    assert len({line.count("|") - line.count("\\|") for line in lines[:4]}) == 1  # every row has as many cells
    assert lines[2].startswith("| a\\|b | " + first.method + " | **90.0** | ")
    assert f"| {second.method} | 25.0 | " in lines[3]
    cells = [cell.strip() for cell in lines[2].replace("\\|", "").split("|")]
    assert cells[cells.index("**90.0**") + 7] == "-"  # FPS was not measured
    assert "15 frames" in lines[5]


def test_sequences_of_interest_come_first(records: list[Record]) -> None:
    one = dataclasses.replace(records[0], sequences={"a": 0.9, "b": 0.2, "c": 0.5})
    two = dataclasses.replace(records[0], sequences={"a": 0.8, "b": 0.1, "c": 0.9})
    assert by_interest([one, two])[0] == "c"
    assert by_interest([one]) == ["b", "c", "a"]


# ---------------------------------------------------------------- the command


def test_compare_from_outside(demo: Path, tmp_path: Path) -> None:
    """Two methods, each in a process of its own, as ``make compare`` starts it."""
    paths = [untrained(method, tmp_path / f"{method}.ckpt") for method in ("REMN", "DMMNet")]
    out = tmp_path / "out"
    command = [sys.executable, "-m", "lightning_vos.compare", *map(str, paths), f"--out={out}", "--", *options()]
    run_options = [option for option in tiny(demo, tmp_path) if "default_root_dir" not in option]
    done = subprocess.run([*command, *run_options], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.iterdir()} == {
        "comparison.md",
        "comparison.csv",
        "comparison.html",
        "REMN",
        "DMMNet",
    }
    assert (out / "comparison.md").read_text().splitlines()[2].startswith("| REMN | REMN | ")
    assert "DMMNet" in (out / "comparison.html").read_text()


# ---------------------------------------------------------------- the page


def test_page_needs_no_network(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(page(records).encode()) < 10_000_000
    monkeypatch.setattr(page_module, "get_plotlyjs", lambda: "")
    html = page([dataclasses.replace(records[0], name="</script><script>alert(1)</script>")])
    assert "<script>alert" not in html
    assert not re.search(r"""<[^>]*\s(src|href)=(?!"data:)|url\(|@import|https?://""", html)


class Opened(NamedTuple):
    """A page in the browser, what it complained of and what it asked for."""

    tab: Any
    complaints: list[str]
    requests: list[str]


def opened(browser: Any, path: Path, size: tuple[int, int] = (1280, 900)) -> Opened:
    tab = browser.new_page(viewport={"width": size[0], "height": size[1]})
    tab.set_default_timeout(240_000)  # a busy machine is no fault of the page
    complaints: list[str] = []
    requests: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(path.as_uri())
    return Opened(tab, complaints, requests)


@pytest.mark.parametrize("size", [(1280, 900), (390, 844)], ids=["desktop", "phone"])
def test_page_in_a_browser(size: tuple[int, int], browser: Any, records: list[Record], tmp_path: Path) -> None:
    hostile = dataclasses.replace(records[0], name="</script><b>ü & 'a' |")
    path = tmp_path / "comparison.html"
    path.write_text(page([hostile, *records[1:]]), encoding="utf-8")
    tab, complaints, requests = opened(browser, path, size)
    tab.wait_for_function("document.getElementById('number').textContent === 'frame 2'")

    # Everything is there: a row a record, the charts, a view of the truth and of each record.
    assert tab.locator("#figures tbody tr").count() == len(records)
    assert hostile.name in tab.locator("#figures tbody tr").first.inner_text()
    assert tab.locator("#views canvas").count() == len(records) + 1
    for chart in ("speed", "time", "sequences"):
        assert tab.locator(f"#{chart} svg.main-svg").count() > 0
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")

    # The table sorts both ways.
    def shown(order: str) -> list[float]:
        tab.locator("#figures thead button", has_text="J recall").click()
        assert tab.locator("#figures th[aria-sort]").get_attribute("aria-sort") == order
        return [float(value) for value in tab.locator("#figures tbody tr td:nth-child(4)").all_inner_texts()]

    down, up = shown("descending"), shown("ascending")
    assert down == sorted(down, reverse=True)
    assert up == sorted(up)

    # The scrubber moves all views and the line in the chart; without masks all views are alike.
    draw = "() => [...document.querySelectorAll('#views canvas')].map((c) => c.toDataURL())"
    before = tab.evaluate(draw)
    tab.locator("#scrubber").fill("3")
    assert tab.locator("#number").inner_text() == "frame 3"
    after = tab.evaluate(draw)
    assert all(one != other for one, other in zip(before, after, strict=True))
    assert len(set(after)) > 1
    assert tab.evaluate("document.getElementById('time').layout.shapes[0].x0") == 3
    tab.locator("#opacity").fill("0")
    assert len(set(tab.evaluate(draw))) == 1

    # Another sequence, and a bar that leads back to the first.
    names = tab.locator("#sequence option").all_inner_texts()
    assert names == by_interest(records)
    tab.locator("#sequence").select_option(names[1])
    tab.wait_for_function("document.getElementById('number').textContent === 'frame 2'")
    assert tab.locator("#time .legend").count() > 0
    tab.evaluate(
        "(name) => document.getElementById('sequences').emit('plotly_click', { points: [{ y: name }] })", names[0]
    )
    assert tab.locator("#sequence").input_value() == names[0]
    assert complaints == []
    assert [url for url in requests if not url.startswith(("data:", "blob:", "file:"))] == []
    tab.close()


def test_page_of_one_record_without_pictures(records: list[Record], browser: Any, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(records[0].folder.root, folder, ignore=shutil.ignore_patterns("clips"))
    path = tmp_path / "comparison.html"
    path.write_text(page([dataclasses.replace(records[0], folder=ResultsFolder(folder))]), encoding="utf-8")
    tab, complaints, _ = opened(browser, path)
    assert tab.locator("#no-clip").is_visible()
    assert not tab.locator("#player").is_visible()
    assert complaints == []
    tab.close()
