"""DAVIS 2016 and 2017."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

from datamodules.layouts.sequence_set import Readers, SequenceSet, find_frames, find_masks, nowhere
from datamodules.layouts.video_files import VideoFiles
from datamodules.listing import names_on

# Below the set's root: the official archive, beside it, the folders of the STCN family, those of AOT. DAVIS 2016 is
# often read from the 2017 archive, which carries its lists.
BASES = (
    "",
    "DAVIS",
    "DAVIS/{year}",
    "DAVIS/{year}/trainval",
    "DAVIS/{year}/test-dev",
    "{year}",
    "{year}/trainval",
    "{year}/test-dev",
    "datasets/DAVIS",
    "DAVIS/2017/trainval",
    "2017/trainval",
)


class DavisSet(SequenceSet):
    """Sequences in the layout of DAVIS.

    ``JPEGImages/<resolution>/<sequence>/<frame>.jpg``, ``Annotations/<resolution>/<sequence>/<frame>.png``, names of
    the sequences, one a line, in ``ImageSets/<year>/<split>.txt``. Found in ``root`` itself, in ``DAVIS``,
    ``DAVIS/<year>``, ``DAVIS/<year>/trainval``, ``DAVIS/<year>/test-dev`` or ``datasets/DAVIS`` below it. All objects
    start on the first frame; the other frames are all annotated, or none is (test-dev).

    Args:
        root: folder of the set, relative to the data module's ``root``.
        split: name of the list: ``train``, ``val``, ``test-dev``.
        year: 2016 has one object, every label above 0; in 2017 labels are ids and 255 is void.
        resolution: ``480p``, ``Full-Resolution``, or any folder of that kind.
        repeat: how often the set is seen in one pass over the training data.
        single_object: take every label above 0, 255 included, as one object; always so for 2016.
    """

    def __init__(
        self,
        root: str,
        split: str = "train",
        year: Literal["2016", "2017"] = "2017",
        resolution: str = "480p",
        repeat: int = 1,
        single_object: bool = False,
    ) -> None:
        super().__init__(root, split, repeat, single_object or year == "2016")
        self.year = year
        self.resolution = resolution

    def find(self, root: Path, dense: bool) -> Readers:
        """The sequences on the list, see :meth:`SequenceSet.find`.

        Raises:
            FileNotFoundError: no data in any of the places tried, or the list is missing.
            ValueError: the list is not text, or a name on it cannot be that of a folder, or is there twice.
        """
        tried = list(dict.fromkeys(root / base.format(year=self.year) for base in BASES))
        bases = [base for base in tried if (base / "JPEGImages" / self.resolution).is_dir()]
        if not bases:
            raise nowhere(tried, f"JPEGImages/{self.resolution}")
        entry = f"ImageSets/{self.year}/{self.split}.txt"
        base = next((base for base in bases if (base / entry).is_file()), None)
        if base is None:
            there = sorted(path.stem for base in bases for path in (base / f"ImageSets/{self.year}").glob("*.txt"))
            raise FileNotFoundError(
                f"{bases[0] / entry}: no such list; lists for year {self.year}: {', '.join(there) or 'none'}; "
                "correct split or year"
            )
        return {name: partial(self._video, base, name, dense) for name in names_on(base / entry)}

    def _video(self, base: Path, name: str, dense: bool) -> VideoFiles:
        frames = find_frames(base / "JPEGImages" / self.resolution / name)
        annotations = base / "Annotations" / self.resolution / name
        masks = find_masks(annotations, frames)
        if 0 not in masks or (len(masks) != len(frames) and (dense or len(masks) > 1)):
            lone = next(frame for t, frame in enumerate(frames) if t not in masks)
            raise ValueError(
                f"{annotations}: {len(masks)} masks for {len(frames)} frames (none for {lone.stem}); "
                "add the missing masks or take the sequence off the list"
            )
        return VideoFiles(name, frames, masks, {0: None}, self.single_object)
