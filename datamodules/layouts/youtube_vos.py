"""YouTube-VOS, and the sets that took over its layout: MOSE, LVOS."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from datamodules.foreign_json import array, identifier, read_json, shown, table
from datamodules.frame_names import frame_number, natural
from datamodules.layouts.sequence_set import Readers, SequenceSet, find_frames, find_masks, nowhere
from datamodules.layouts.video_files import VideoFiles
from datamodules.listing import folders
from lightning_vos.types import VOID

BASES = ("", "all_frames", "YouTube", "YouTube/all_frames", "YouTubeVOS", "YouTubeVOS/all_frames")


class YouTubeVOSSet(SequenceSet):
    """Sequences in the layout of YouTube-VOS.

    ``<split>/JPEGImages/<video>/<frame>.jpg``, ``<split>/Annotations/<video>/<frame>.png`` and ``<split>/meta.json``.
    Objects start on the first frame listed for them; without ``meta.json`` (MOSE, LVOS) on the first annotated frame
    that shows them. Frames may lack annotation. A split ``valid_all_frames`` without masks of its own takes those of
    ``valid``.

    Args:
        root: folder of the set, relative to the data module's ``root``.
        split: name of the folder: ``train``, ``valid``, ``valid_all_frames``.
        repeat: how often the set is seen in one pass over the training data.
        single_object: take every label above 0, 255 included, as one object; it starts where it is first seen.
    """

    def find(self, root: Path, dense: bool) -> Readers:
        """The videos of ``meta.json``, or those of the folder, see :meth:`SequenceSet.find`; ``dense`` has no effect.

        Raises:
            FileNotFoundError: no frames, or no masks, in any of the places tried.
            ValueError: ``meta.json`` has no list of videos.
        """
        tried = [root / base / self.split for base in BASES]
        base = next((base for base in tried if (base / "JPEGImages").is_dir()), None)
        if base is None:
            raise nowhere(tried, "JPEGImages")
        source = base
        if not (base / "Annotations").is_dir():
            split = self.split.removesuffix("_all_frames")
            places = [base, base.with_name(split), base.parent.parent / split]
            source = next((place for place in places if (place / "Annotations").is_dir()), base)
            if source is base:
                raise nowhere(places, "Annotations")
        meta, file = None, source / "meta.json"
        if file.is_file():
            meta = table(table(read_json(file), str(file)).get("videos"), f"{file}, videos")
        names = sorted(meta or (path.name for path in folders(base / "JPEGImages")))
        listed = {} if meta is None or self.single_object else {name: entry or {} for name, entry in meta.items()}
        return {name: partial(self._video, base, source, name, listed.get(name)) for name in names}

    def _video(self, base: Path, source: Path, name: str, meta: object) -> VideoFiles:
        frames = find_frames(base / "JPEGImages" / name)
        masks = find_masks(source / "Annotations" / name, frames)
        if not masks:
            raise ValueError(f"{source / 'Annotations' / name}: no mask; add the masks or remove the video")
        listed = None if meta is None else _listed(meta, frames, source / "meta.json")
        return VideoFiles(name, frames, masks, dict.fromkeys(masks) if listed is None else listed, self.single_object)


def _listed(video: object, frames: Sequence[Path], meta: Path) -> dict[int, list[int]]:
    """Frame number -> ids that start there, rising."""
    stems = [frame.stem for frame in frames]
    where = f"{meta}, video {frames[0].parent.name!r}"
    objects = table(table(video, where).get("objects"), f"{where}, objects")
    starts: dict[int, list[int]] = defaultdict(list)
    for key in sorted(objects, key=natural):
        place = f"{where}, object {shown(key)}"
        if not (key.isdecimal() and len(key) < 4 and 1 <= int(key) < VOID):
            raise ValueError(f"{place}: ids are whole numbers from 1 to {VOID - 1}; correct it")
        listed = table(objects[key], place).get("frames")
        if not listed:
            raise ValueError(
                f"{place}: no frames; name them, or remove {meta.name}: objects start where masks show them"
            )
        names = [str(identifier(name, f"{place}, frames")) for name in array(listed, f"{place}, frames")]
        first = min(names, key=natural)
        t = frame_number(first, stems)
        if t is None:
            raise ValueError(f"{place} starts on {shown(first)}, not a frame of {frames[0].parent}; correct it")
        if any(int(key) in ids for ids in starts.values()):
            raise ValueError(f"{place}: another one has the same id; keep one of the two")
        starts[t].append(int(key))
    return dict(sorted(starts.items()))
