"""YouTube-VOS: where objects start, with and without its list; frames without masks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_files import block, picture, save, write_sequence

from datamodules import YouTubeVOSSet
from datamodules.sequences import EvaluationSet


def evaluation(root: Path, short_side: int | None = None, **arguments: Any) -> EvaluationSet:
    return EvaluationSet(YouTubeVOSSet("", **arguments).videos(root), short_side)


STEMS = [f"{5 * t:05d}" for t in range(6)]


def write_youtube(
    root: Path, split: str, masks: Sequence[np.ndarray | None], meta: dict[str, list[str]] | None
) -> Path:
    base = root / split
    write_sequence(base, "0a1b", masks, resolution="", stems=STEMS)
    if meta is not None:
        objects = {id_: {"category": "ape", "frames": frames} for id_, frames in meta.items()}
        (base / "meta.json").write_text(json.dumps({"videos": {"0a1b": {"objects": objects}}}), encoding="utf-8")
    return base


def test_youtube_vos_objects_start_later(tmp_path: Path) -> None:
    both = block({1: (2, 3), 4: (10, 20)})
    masks = [block({4: (10, 20)}), None, both, None, both, None]
    write_youtube(tmp_path, "valid", masks, {"1": STEMS[2:], "4": STEMS})
    data = evaluation(tmp_path, split="valid")
    assert data.object_ids == [(4, 1)]  # in the order in which they start
    video = data[0]
    assert {t: prompt.unique().tolist() for t, prompt in video.prompts.items()} == {0: [0, 1], 2: [0, 2]}
    assert np.array_equal(video.prompts[2] == 2, both == 1)
    assert [video.target(t) is None for t in range(6)] == [False, True, False, True, False, True]
    assert np.array_equal(video.target(4), np.select([both == 4, both == 1], [1, 2]))
    assert list(video.frame_names) == STEMS


def test_youtube_vos_without_meta_starts_where_an_id_is_first_seen(tmp_path: Path) -> None:
    both = block({1: (2, 3), 4: (10, 20)})
    write_youtube(tmp_path, "valid", [block({4: (10, 20)}), None, both, None, None, None], None)
    video = evaluation(tmp_path, split="valid")[0]
    assert video.object_ids == (4, 1)
    assert sorted(video.prompts) == [0, 2]
    assert [video.target(t) for t in range(6)] == [None] * 6  # the official valid split: no ground truth


def test_a_listed_set_is_known_without_opening_a_mask(tmp_path: Path) -> None:
    base = write_youtube(tmp_path, "valid", [block({4: (10, 20)})] + [None] * 5, {"4": STEMS})
    (base / "Annotations/0a1b/00000.png").write_text("no image", encoding="utf-8")
    data = evaluation(tmp_path, split="valid")
    assert data.object_ids == [(4,)]
    with pytest.raises(ValueError, match=r"00000\.png: not a readable image"):
        data[0]


@pytest.mark.parametrize("folder", ["valid_all_frames", "all_frames/valid_all_frames"])
def test_youtube_vos_all_frames_take_masks_and_meta_of_valid(tmp_path: Path, folder: str) -> None:
    first = [block({4: (10, 20)})]
    for t in range(26):
        save(tmp_path / folder / f"JPEGImages/0a1b/{t:05d}.jpg", picture(t))
    write_youtube(tmp_path, "valid", first + [None] * 5, {"4": STEMS})
    (video,) = YouTubeVOSSet("", split="valid_all_frames").videos(tmp_path)
    assert len(video.frames) == 26
    assert video.starts == {0: [4]}


def test_errors_of_youtube_vos(tmp_path: Path) -> None:
    arguments = {"split": "valid"}
    with pytest.raises(FileNotFoundError, match=r"no folder JPEGImages in any of .*valid"):
        evaluation(tmp_path, **arguments)
    base = write_youtube(tmp_path, "valid", [block({4: (10, 20)})] + [None] * 5, {"4": ["00002"]})
    with pytest.raises(ValueError, match=r"meta\.json, video '0a1b', object '4' starts on '00002', not a frame"):
        evaluation(tmp_path, **arguments)
    write_youtube(tmp_path, "valid", [block({4: (10, 20)})] + [None] * 5, {"4": STEMS[1:]})
    with pytest.raises(
        ValueError, match=r"00005\.jpg: object 4 of video '0a1b' starts here, but the frame has no mask"
    ):
        evaluation(tmp_path, **arguments)
    write_youtube(tmp_path, "valid", [block({4: (10, 20)})] + [None] * 5, {"4": STEMS, "2": STEMS})
    with pytest.raises(ValueError, match=r"00000\.png: object 2 of video '0a1b' should start here"):
        evaluation(tmp_path, **arguments)[0]
    (base / "Annotations/0a1b/00000.png").unlink()
    with pytest.raises(ValueError, match=r"Annotations/0a1b: no mask"):
        evaluation(tmp_path, **arguments)
