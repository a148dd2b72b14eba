"""What users give to a prediction: each case ends in the right masks, or in one line that says what to do."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
from conftest import small
from lightning import LightningModule, Trainer
from movie_files import SIZE, moving_square, predict, write_frames, write_mask, write_movie, written
from PIL import ExifTags, Image

from callbacks import OverlayVideo
from lightning_vos import VOSModule
from lightning_vos.frame_callback import FrameCallback
from lightning_vos.video import Video

COUNT = 3


@pytest.fixture(scope="module")
def model() -> VOSModule:
    return small("HMMN")


class Case(NamedTuple):
    """What is given: ``edit`` changes a good folder ``v`` of frames and a good mask ``m.png``, and returns settings.

    ``problem`` is a regular expression for the complaint; ``None``: there are masks of ``frames`` frames of ``size``.
    """

    name: str
    edit: Callable[[Path], dict[str, Any]]
    problem: str | None = None
    size: tuple[int, int] = SIZE
    frames: int = COUNT


def video(**changes: Any) -> Callable[[Path], dict[str, Any]]:
    """Other frames; the mask fits them unless ``mask`` says otherwise."""

    def edit(folder: Path) -> dict[str, Any]:
        size, count = changes.get("size", SIZE), changes.get("count", COUNT)
        frames, labels = moving_square(count, size)
        (folder / "v").rename(folder / "unused")
        convert = changes.get("convert", lambda image: image)
        for t, frame in enumerate(frames):
            name = changes["names"][t] if "names" in changes else f"{t:05d}.png"
            (folder / "v").mkdir(exist_ok=True)
            convert(Image.fromarray(frame)).save(folder / "v" / name, **changes.get("save", {}))
        labels = changes.get("turn", lambda mask: mask)(labels[0])
        write_mask(folder / "m.png", np.ascontiguousarray(labels))
        return {}

    return edit


def frame(content: Callable[[bytes], bytes], name: str = "00001.png") -> Callable[[Path], dict[str, Any]]:
    """One file of the frames with other content."""

    def edit(folder: Path) -> dict[str, Any]:
        path = folder / "v" / name
        path.write_bytes(content((folder / "v" / "00001.png").read_bytes()))
        return {}

    return edit


def movie(write: Callable[[Path, np.ndarray], object], name: str = "a.mp4") -> Callable[[Path], dict[str, Any]]:
    def edit(folder: Path) -> dict[str, Any]:
        write(folder / name, moving_square(COUNT)[0])
        return {"video": folder / name}

    return edit


def mask(values: Callable[[np.ndarray], np.ndarray], palette: bool = True) -> Callable[[Path], dict[str, Any]]:
    """Another picture as mask, made of the good labels."""

    def edit(folder: Path) -> dict[str, Any]:
        write_mask(folder / "m.png", values(moving_square(COUNT)[1][0]), palette)
        return {}

    return edit


def codes(content: object) -> Callable[[Path], dict[str, Any]]:
    def edit(folder: Path) -> dict[str, Any]:
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / "m.json").write_text(text)
        return {"mask": folder / "m.json"}

    return edit


def moved(name: str) -> Callable[[Path], dict[str, Any]]:
    """The good mask under another name."""

    def edit(folder: Path) -> dict[str, Any]:
        return {"mask": (folder / "m.png").rename(folder / name)}

    return edit


def _exif(orientation: int) -> Image.Exif:
    tag = Image.Exif()
    tag[ExifTags.Base.Orientation] = orientation
    return tag


def _sixteen(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def _cut_movie(path: Path, frames: np.ndarray) -> None:
    write_movie(path, frames)
    path.write_bytes(path.read_bytes()[:-400])  # the index is at the end


def _sound(path: Path, frames: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))


def _no_frames(path: Path, frames: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        container.start_encoding()


def _variable(path: Path, frames: np.ndarray) -> None:
    write_movie(path, frames, seconds=[0, 0.1, 0.9])


def _half_mask(folder: Path) -> dict[str, Any]:
    path = write_mask(folder / "m.png", np.random.default_rng(0).integers(0, 200, SIZE, dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:900])
    return {}


def _empty_mask_file(folder: Path) -> dict[str, Any]:
    (folder / "m.png").write_bytes(b"")
    return {}


def _soft_edges(labels: np.ndarray) -> np.ndarray:
    row, column = np.indices(labels.shape)
    return np.stack([row, column, 2 * row], axis=-1).astype(np.uint8)


def _half_jpeg(folder: Path) -> dict[str, Any]:
    video(names=[f"{t:05d}.jpg" for t in range(COUNT)])(folder)
    path = folder / "v" / "00002.jpg"
    path.write_bytes(path.read_bytes()[:-300])
    return {}


def _asked_for_more(folder: Path) -> dict[str, Any]:
    return {**_ground_truth_beside(folder), "masks": "0, 2", "mask": _only_first(folder)}


def _only_first(folder: Path) -> Path:
    for name in ("00001.png", "00002.png"):
        (folder / "masks" / name).unlink()
    return folder / "masks"


def _two_masks(folder: Path) -> dict[str, Any]:
    for suffix in ("png", "bmp"):
        write_mask(folder / "masks" / f"00000.{suffix}", moving_square(1)[1][0])
    return {"mask": folder / "masks"}


def _file_and_folder(folder: Path) -> dict[str, Any]:
    write_mask(folder / "masks" / "00000.png", moving_square(1)[1][0])
    write_mask(folder / "masks" / "00000" / "1.png", moving_square(1)[1][0])
    return {"mask": folder / "masks"}


def _objects(count: int) -> Callable[[Path], dict[str, Any]]:
    def edit(folder: Path) -> dict[str, Any]:
        for k in range(count):
            labels = np.zeros(SIZE, dtype=np.uint8)
            labels.flat[5 * k] = 1
            write_mask(folder / "masks" / f"object {k}.png", labels, palette=False)
        return {"mask": folder / "masks"}

    return edit


def _ground_truth_beside(folder: Path) -> dict[str, Any]:
    write_mask(folder / "masks" / "00000.png", moving_square(1)[1][0])
    for t in (1, 2):
        (folder / "masks" / f"{t:05d}.png").write_bytes(b"read by nobody")
    return {"mask": folder / "masks"}


def _jpeg_mask(folder: Path) -> dict[str, Any]:
    Image.fromarray(moving_square(1)[1][0] * 255).save(folder / "m.jpg")
    return {"mask": folder / "m.jpg"}


def _empty_folder(name: str) -> Callable[[Path], dict[str, Any]]:
    def edit(folder: Path) -> dict[str, Any]:
        (folder / "empty").mkdir()
        return {name: folder / "empty"}

    return edit


def _junk_beside(folder: Path) -> dict[str, Any]:
    for name in ("Thumbs.db", ".hidden.png", "notes.txt"):
        (folder / "v" / name).write_bytes(b"not a frame")
    return {}


def _movie_beside(folder: Path) -> dict[str, Any]:
    write_movie(folder / "v" / "extra.mp4", moving_square(2)[0])
    return {}


def _foreign_masks(folder: Path) -> dict[str, Any]:
    write_mask(folder / "out" / "masks" / "v" / "mine.png", moving_square(1)[1][0])
    return {}


def _file_for_output(folder: Path) -> dict[str, Any]:
    (folder / "out").write_text("a file")
    return {}


GOOD = {"size": list(SIZE), "counts": [0, 5, SIZE[0] * SIZE[1] - 5]}

CASES = [
    # frames
    Case("half a picture", frame(lambda content: content[: len(content) // 2]), r"00001\.png: not a readable image"),
    Case("picture of no bytes", frame(lambda content: b""), r"00001\.png: not a readable image"),
    Case("text called png", frame(lambda content: b"hello"), r"00001\.png: not a readable image"),
    Case("same frame twice", frame(lambda content: content, "00001.bmp"), r"00001\.(bmp|png): .* has the same name"),
    Case("half a JPEG", _half_jpeg, r"00002\.jpg: not a readable image"),
    Case("JPEG", video(names=["0.jpg", "1.jpeg", "2.JPG"])),
    Case("RGBA", video(convert=lambda image: image.convert("RGBA"))),
    Case("CMYK", video(convert=lambda image: image.convert("CMYK"), names=["0.jpg", "1.jpg", "2.jpg"])),
    Case("grey", video(convert=lambda image: image.convert("L"))),
    Case("palette", video(convert=lambda image: image.convert("P"))),
    Case("bilevel", video(convert=lambda image: image.convert("1"))),
    Case("16 bits", video(convert=_sixteen)),
    Case("EXIF rotation", video(save={"exif": _exif(6)}, turn=lambda m: np.rot90(m, -1)), size=SIZE[::-1]),
    Case(
        "mask not turned as EXIF says",
        video(save={"exif": _exif(8)}),
        r"the mask is 32x48, the video 48x32 .* upright",
    ),
    Case("1x1", video(size=(1, 1)), size=(1, 1)),
    Case("a single row", video(size=(1, 37)), size=(1, 37)),
    Case("odd sides", video(size=(17, 31)), size=(17, 31)),
    Case("8K", video(size=(4320, 7680), count=1), size=(4320, 7680), frames=1),
    Case("one frame", video(count=1), frames=1),
    Case("names", video(names=["größe 1.png", "größe 2.png", "größe 10.png"])),
    Case("other files beside", _junk_beside),
    Case("no frames in the folder", _empty_folder("video"), r"empty: no frames"),
    Case("frames and movies", _movie_beside, r"v: frames of a video, or videos such as extra\.mp4\?"),
    Case("no video", lambda folder: {"video": folder / "lost.mp4"}, r"lost\.mp4: no such video"),
    Case("fps", lambda folder: {"fps": 0.0}, r"data\.fps=0\.0, .* above 0"),
    # movies
    Case("variable rate", movie(_variable)),
    Case("movie cut off", movie(_cut_movie), r"a\.mp4: not a readable video"),
    Case("movie of no bytes", movie(lambda path, frames: path.write_bytes(b"")), r"a\.mp4: not a readable video"),
    Case("text called mp4", movie(lambda path, frames: path.write_text("hello")), r"a\.mp4: not a readable video"),
    Case("sound alone", movie(_sound, "a.wav"), r"a\.wav: no video in it, only audio"),
    Case("movie without frames", movie(_no_frames), r"a\.mp4: (no video in it; give|not a readable)"),
    Case("no time stamps", movie(write_movie, "a.h264"), r"a\.h264: frames without time stamps"),
    Case("lossless movie", movie(lambda path, frames: write_movie(path, frames, "ffv1"), "a.mkv")),
    # masks
    Case("no mask", lambda folder: {"mask": folder / "lost.png"}, r"lost\.png: no such mask"),
    Case("mask of another size", mask(lambda m: m[:-1]), r"m\.png: the mask is 31x48, the video 32x48"),
    Case("mask at half size", mask(lambda m: np.ascontiguousarray(m[::2, ::2])), r"the mask is 16x24"),
    Case("empty mask", mask(lambda m: m * 0), r"m\.png: the mask is empty"),
    Case("255 beside ids", mask(lambda m: np.where(m == 0, 255, m).astype(np.uint8))),
    Case(
        "grey 255 beside ids", mask(lambda m: np.where(m == 0, 255, m).astype(np.uint8), False), r"void, or soft edges"
    ),
    Case("0 and 255", mask(lambda m: m * 255, False)),
    Case("16 bits, small ids", mask(lambda m: m.astype(np.uint16), False)),
    Case("id 300", mask(lambda m: m.astype(np.uint16) * 300, False), r"m\.png: ids up to 300; ids are 1 to 254"),
    Case("soft edges", mask(_soft_edges, False), r"m\.png: \d+ colours; more than 32 are taken for soft edges"),
    Case("300 objects", _objects(300), r"300 objects, at most 254"),
    Case("mask of no bytes", _empty_mask_file, r"m\.png: not a readable image"),
    Case("half a mask", _half_mask, r"m\.png: not a readable image"),
    Case("JPEG mask", _jpeg_mask, r"m\.jpg: masks are .* save it as PNG"),
    Case("two masks of a frame", _two_masks, r"00000\.png: another mask of frame 00000"),
    Case("file and folder of a frame", _file_and_folder, r"another mask of frame 00000"),
    Case("no mask in the folder", _empty_folder("mask"), r"empty: no mask in it"),
    Case("mask of no frame", moved("00099.png"), r"00099\.png: the video has no frame 00099, only 00000 to 00002"),
    Case("mask that is not there", _asked_for_more, r"masks: no mask of frame 2, .* those of 00000"),
    Case("frame out of range", lambda folder: {"frame": "3"}, r"data\.frame=3: .* no such frame, only 00000 to 00002"),
    Case("ground truth beside", _ground_truth_beside),
    Case("not JSON", codes("{"), r"m\.json: not a JSON file"),
    Case("JSON of something else", codes({"masks": 1}), r"m\.json, entry 1: an entry without segmentation or counts"),
    Case("code of another size", codes({"size": [9, 9], "counts": [0, 81]}), r"m\.json, entry 1: the mask is 9x9"),
    Case(
        "damaged code",
        codes({"size": list(SIZE), "counts": "zzzzzz"}),
        r"m\.json, entry 1: (not a COCO|a damaged) run-length",
    ),
    Case(
        "uncompressed code cut off",
        codes({"size": list(SIZE), "counts": [0, 5]}),
        r"m\.json, entry 1: a damaged run-length",
    ),
    Case("code without size", codes({"counts": [3, 4]}), r"m\.json, entry 1: not a COCO run-length code"),
    Case("code of frame 9", codes({**GOOD, "frame": 9}), r"m\.json, entry 1: the video has no frame '9'"),
    Case("track 300", codes({**GOOD, "track_id": 300}), r"m\.json: id 300; ids are 1 to 254"),
    Case(
        "track by name", codes({**GOOD, "track_id": "dog"}), r"m\.json, entry 1: track_id='dog'; ids are whole numbers"
    ),
    Case("one object twice", codes([{**GOOD, "track_id": 2}] * 2), r"m\.json: two masks of object 2 on one frame"),
    # output
    Case("output is a file", _file_for_output, r"out"),
    Case("output cannot be written", lambda folder: {"out": Path("/proc/predictions")}, r"/proc/predictions"),
    Case("files of others in the output", _foreign_masks, r"masks/v: has files that are not of a prediction"),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_inputs(case: Case, model: VOSModule, tmp_path: Path) -> None:
    frames, labels = moving_square(COUNT)
    write_frames(tmp_path / "v", frames)
    write_mask(tmp_path / "m.png", labels[0])
    settings = {"video": tmp_path / "v", "mask": tmp_path / "m.png", **case.edit(tmp_path)}
    out = settings.pop("out", tmp_path / "out")
    if case.problem is not None:
        with pytest.raises((ValueError, OSError), match=case.problem) as error:
            predict(model, out, OverlayVideo(), **settings)
        assert "\n" not in str(error.value)
        assert not out.is_dir() or not {"manifests", "overlays"} & {path.name for path in out.iterdir()}
        return
    predict(model, out, OverlayVideo(), **settings)
    name = settings["video"].stem
    masks = written(out, name)
    assert len(masks) == case.frames
    assert {mask.shape for mask in masks.values()} == {case.size}
    given = next(iter(masks.values()))
    assert 0 < np.count_nonzero(given) < given.size or given.size == 1
    assert set(np.unique(given)) <= {0, 1}
    assert (out / "manifests" / f"{name}.json").is_file()
    assert (out / "overlays" / f"{name}.mp4").is_file()


class FullDisk(FrameCallback):
    """From its second frame on, no file may become longer than a few bytes."""

    def on_frame_start(self, trainer: Trainer, pl_module: LightningModule, video: Video, t: int) -> None:
        if t == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (16, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_a_full_disk_leaves_whole_files_only(model: VOSModule, tmp_path: Path) -> None:
    frames, labels = moving_square(COUNT)
    data = {"video": write_frames(tmp_path / "v", frames), "mask": write_mask(tmp_path / "m.png", labels[0])}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OSError, match="large"):
            predict(model, tmp_path / "out", FullDisk(), OverlayVideo(), **data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert list(written(tmp_path / "out", "v")) == ["00000"]
    assert not (tmp_path / "out" / "manifests").exists()
    predict(model, tmp_path / "out", OverlayVideo(), **data)
    assert len(written(tmp_path / "out", "v")) == COUNT
