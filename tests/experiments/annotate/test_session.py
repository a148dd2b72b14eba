"""The page's server without a browser: what is on disk, what is refused, and who may ask."""

from __future__ import annotations

import io
import json
import resource
from pathlib import Path

import numpy as np
import pytest
from movie_files import moving_square, write_frames, write_mask
from PIL import Image
from starlette.testclient import TestClient

from datamodules.movies import open_movie
from experiments.annotate.__main__ import begin, main
from experiments.annotate.propagation import Ended
from experiments.annotate.server import application
from experiments.annotate.session import Refused, Session
from lightning_vos.lease import FolderInUse, Lease

FRAMES, SIZE = 6, (48, 64)


class Propagation:
    """In place of a process: what was started, and how it is told to have ended."""

    def __init__(self) -> None:
        self.words: list[tuple[str, ...]] = []
        self.running = False
        self.end: Ended | None = None

    def prepare(self) -> None: ...

    def start(self, *options: str) -> None:
        self.words.append(options)
        self.running = True

    def stop(self) -> None:
        self.end = Ended(True, "")

    def ended(self) -> Ended | None:
        told, self.end = self.end, None
        self.running = self.running and told is None
        return told


def session(folder: Path, direction: str = "forward") -> Session:
    video = folder / "clip"
    if not video.exists():
        write_frames(video, moving_square(FRAMES, SIZE)[0])
    return Session(open_movie(video, 24), "clip", folder / "out", Propagation(), "a.yaml", direction)  # type: ignore[arg-type]


def square(id_: int = 1) -> np.ndarray:
    labels = np.zeros(SIZE, dtype=np.uint8)
    labels[4:20, 6:30] = id_
    return labels


def say(folder: Path, *lines: dict[str, object]) -> None:
    """What a prediction reports."""
    path = folder / "out" / "objects" / "clip.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps({"time": 0.0, **line}) + "\n" for line in lines)


def predicted(folder: Path, t: int, labels: np.ndarray, confidence: float = 0.9) -> None:
    write_mask(folder / "out" / "masks" / "clip" / f"{t:05d}.png", labels)
    objects = {int(id_): [int((labels == id_).sum()), confidence] for id_ in np.unique(labels[labels > 0])}
    say(folder, {"pass": 0, "frame": f"{t:05d}", "time": 0.5 * (t + 1), "objects": objects})


# ---------------------------------------------------------------- what is on disk


def test_given_masks_are_on_disk_and_found_again(tmp_path: Path) -> None:
    first = session(tmp_path)
    first.give(2, square(7))
    with Image.open(tmp_path / "out" / "given" / "00002.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.array(image), square(7))
    again = session(tmp_path)
    assert again.given.ids == {2: [7]}
    assert again.changed == {2}
    assert np.array_equal(again.labels(2), square(7))
    again.give(2, np.zeros(SIZE, dtype=np.uint8))
    assert not (tmp_path / "out" / "given" / "00002.png").exists()


def test_what_is_given_lies_over_what_was_predicted(tmp_path: Path) -> None:
    """As the prediction will write it: a given object where it is given, others where nothing is given."""
    predicted(tmp_path, 1, np.where(np.arange(64) < 20, 1, 2).astype(np.uint8) * np.ones(SIZE, dtype=np.uint8))
    one = session(tmp_path)
    one.give(1, square(1))
    labels = one.labels(1)
    assert np.array_equal(labels == 1, square(1) == 1)
    assert np.array_equal(labels == 2, (np.arange(64) >= 20)[None] & (square() == 0))


def test_a_full_disk_leaves_what_was_given(tmp_path: Path) -> None:
    one = session(tmp_path)
    one.give(0, square())
    noise = np.random.default_rng(0).integers(0, 200, SIZE, dtype=np.uint8)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
    try:
        with pytest.raises(OSError, match="not written, the file is too large; make room"):
            one.give(0, noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert np.array_equal(one.labels(0), square())
    assert [path.name for path in (tmp_path / "out" / "given").iterdir()] == ["00000.png"]


def test_masks_of_another_video_are_refused(tmp_path: Path) -> None:
    write_mask(tmp_path / "out" / "given" / "00000.png", np.ones((10, 12), dtype=np.uint8))
    with pytest.raises(ValueError, match="is 10x12, the video 48x64"):
        session(tmp_path)


def test_what_the_command_line_gives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = write_mask(tmp_path / "m.png", square(3))
    one = session(tmp_path, "backward")
    begin(one, str(mask), ["predict"])
    assert one.given.ids == {FRAMES - 1: [3]}
    begin(one, str(mask), ["predict", "--data.frame=00001"])
    assert "has masks already" in capsys.readouterr().out
    one.give(FRAMES - 1, None)
    begin(one, str(mask), ["predict", "--data.frame=1"])
    assert one.given.ids == {1: [3]}


# ---------------------------------------------------------------- propagation


def test_a_propagation_as_the_page_sees_it(tmp_path: Path) -> None:
    one = session(tmp_path)
    with pytest.raises(Refused, match="no object is given"):
        one.propagate("forward")
    one.give(0, square())
    version = one.state()["version"]
    one.propagate("forward", until=2)
    assert one.propagation.words == [("--config=a.yaml", "--data.masks=all", "--data.direction=forward")]
    with pytest.raises(Refused, match="stop that first"):
        one.give(0, square())
    with pytest.raises(Refused, match="already"):
        one.propagate("forward")
    assert not one.state(version)["begun"]
    say(tmp_path, {"starts": [0], "lengths": [FRAMES]})
    predicted(tmp_path, 0, square(), 1.0)
    predicted(tmp_path, 1, square(), 0.6)
    seen = one.state(version)
    told = [seen[name] for name in ("running", "begun", "done", "total", "at")]
    assert told == ["propagate", True, 2, FRAMES, 1]
    assert seen["fps"] == pytest.approx(2)
    assert seen["changed"] == []
    assert seen["frames"][1] == {"mask": True, "given": [], "objects": {1: [int(square().sum()), 0.6]}}
    predicted(tmp_path, 2, square(), 0.8)
    one.state()
    ended = one.state(seen["version"])
    assert (ended["running"], ended["message"], ended["failed"]) == ("", "stopped", False)
    assert ended["look"] == 1
    assert not ended["complete"]
    with pytest.raises(Refused, match="propagate first"):
        one.export()


def test_a_change_is_remembered_until_a_prediction_has_seen_it(tmp_path: Path) -> None:
    one = session(tmp_path)
    for t in range(FRAMES):
        predicted(tmp_path, t, square())
    (tmp_path / "out" / "manifests").mkdir()
    (tmp_path / "out" / "manifests" / "clip.json").touch()
    assert one.state()["complete"]
    one.give(3, square(2))
    assert session(tmp_path).state()["changed"] == [3]
    one = session(tmp_path)
    one.propagate("both")
    one.propagation.end = Ended(False, "the network is gone")  # type: ignore[attr-defined]
    state = one.state()
    assert (state["message"], state["failed"], state["changed"]) == ("the network is gone", True, [3])


# ---------------------------------------------------------------- who may ask, and for what


def client(one: Session, host: str = "127.0.0.1:8000") -> TestClient:
    return TestClient(application(one, "token", 8000), f"http://{host}")


@pytest.mark.parametrize(
    ("host", "path", "headers"),
    [
        ("127.0.0.1:8000", "/api/state", {}),
        ("127.0.0.1:8000", "/tokem/api/state", {}),
        ("127.0.0.1:8000", "/", {}),
        ("evil.example:8000", "/token/api/state", {}),
        ("127.0.0.1:8001", "/token/api/state", {}),
        ("127.0.0.1:8000", "/token/api/state", {"origin": "http://evil.example"}),
    ],
)
def test_strangers_learn_nothing(host: str, path: str, headers: dict[str, str], tmp_path: Path) -> None:
    answer = client(session(tmp_path), host).get(path, headers=headers)
    assert answer.status_code == 403
    assert answer.json() == {"error": "open the address that the program has printed"}


def test_nothing_outside_of_page_and_video(tmp_path: Path) -> None:
    web = client(session(tmp_path))
    (tmp_path / "secret").write_text("secret")
    for path in ("../secret", "..%2Fserver.py", "%2e%2e/server.py", "api/frame/../../secret", "/etc/passwd"):
        assert web.get(f"/token/{path}").status_code in (403, 404)
    for path in ("frame/6", "labels/600", "frame/-1", "frame/x"):
        assert web.get(f"/token/api/{path}").status_code == 404
    assert "default-src 'self'" in web.get("/token/").headers["content-security-policy"]


def test_requests(tmp_path: Path) -> None:
    one = session(tmp_path)
    web = client(one)
    picture = Image.open(io.BytesIO(web.get("/token/api/frame/0").content))
    assert (picture.format, picture.size) == ("JPEG", (64, 48))
    tab = {"x-tab": web.post("/token/api/open").json()["tab"]}
    assert web.put("/token/api/given/1", content=square().tobytes(), headers=tab).status_code == 200
    assert np.array_equal(one.labels(1), square())
    assert web.get("/token/api/labels/1").content == square().tobytes()
    for content, message in (
        (b"x" * 100, "100 bytes; give 3072"),
        (b"\xff" * 3072, "id 255"),
        (b"x" * 3073, "at most"),
    ):
        answer = web.put("/token/api/given/1", content=content, headers=tab)
        assert (answer.status_code, message in answer.json()["error"]) == (422, True)
    said = {"object": 1, "width": 3, "inside": [[[10, 10], [20, 12]]], "outside": []}
    grown = web.post("/token/api/grow/1", json=said, headers=tab).content
    assert np.frombuffer(grown, np.uint8).reshape(SIZE)[10, 12] == 1
    for wrong in ({"inside": [[1, 2]]}, {"object": 0}, {"width": 5000}, {"inside": [[[1e9, 0]]]}):
        assert web.post("/token/api/grow/1", json={**said, **wrong}, headers=tab).status_code == 422
    assert web.post("/token/api/propagate", json={"direction": "up"}, headers=tab).status_code == 422
    assert web.post("/token/api/export", json={}, headers=tab).status_code == 409
    assert web.delete("/token/api/given/1", headers=tab).status_code == 200
    assert one.given.ids == {}
    newer = web.post("/token/api/open").json()["tab"]
    answer = web.put("/token/api/given/1", content=square().tobytes(), headers=tab)
    assert (answer.status_code, "another tab" in answer.json()["error"], newer != tab["x-tab"]) == (409, True, True)
    assert one.given.ids == {}


def test_a_second_server_on_the_folder_is_refused(tmp_path: Path) -> None:
    write_frames(tmp_path / "clip", moving_square(2, SIZE)[0])
    out = tmp_path / "out"
    words = [f"--video={tmp_path / 'clip'}", f"--out={out}", "--propagate=a.yaml", "--", "predict"]
    with Lease(out, "annotation"), pytest.raises(FolderInUse, match=r"in use by process .* \(annotation\)"):
        main(words)
    assert not out.exists()  # the first one had made it, and leaves nothing
