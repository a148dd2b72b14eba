"""The authors' released weights: which of their entries is which of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from lightning_vos.released import check_released, read_released

WANTED = "the released checkpoint of DMM-Net (trainer.pt), or its encoder and its decoder in two files"
PARTS = {"encoder": r"(base|(sk|bn|prop)[2-5])\.", "decoder": r"(clstm_list|conv_out)\."}
"""What the entries of a part begin with in a file of its own."""

LEVELS = list(enumerate((5, 4, 3, 2)))  # ours and theirs, strides 32 to 4
NAMES = {
    "encoder.trunk.stem.0.": "encoder.base.conv1.",
    "encoder.trunk.stem.1.": "encoder.base.bn1.",
    "encoder.trunk.layer": "encoder.base.layer",
    **{f"encoder.skips.{ours}.0.": f"encoder.sk{theirs}." for ours, theirs in LEVELS},
    **{f"encoder.skips.{ours}.1.": f"encoder.bn{theirs}." for ours, theirs in LEVELS},
    **{f"encoder.matching.{ours}.": f"encoder.prop{theirs}." for ours, theirs in LEVELS},
    **{f"decoder.cells.{level}.gates.": f"decoder.clstm_list.{level}.Gates." for level, _ in LEVELS},
    "decoder.predict.": "decoder.conv_out.",
}
UNUSED = ("encoder.base.fc.weight", "encoder.base.fc.bias")  # the head of ImageNet


def source(name: str) -> str:
    """Entry of the released state dict for one of our encoder or decoder."""
    prefix = next(ours for ours in NAMES if name.startswith(ours))
    return NAMES[prefix] + name.removeprefix(prefix)


def read_official(*paths: str) -> dict[str, Tensor]:
    """Entries of all files, each with its part in front of its name.

    Args:
        paths: one file with entries ``encoder.*`` and ``decoder.*``, or encoder and decoder without these prefixes in
            two files, in any order; all with or without the prefix ``module.``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file is something else or damaged, or an entry is given twice.
    """
    released: dict[str, Tensor] = {}
    for path in paths:
        for name, value in read_released(path, WANTED).items():
            part = next((f"{part}." for part, pattern in PARTS.items() if re.match(pattern, name)), "")
            if part + name in released:
                raise ValueError(f"{path}: {part}{name} is in another file too; give {WANTED}")
            released[part + name] = value
    return released


def official_trunk(released: Mapping[str, Tensor]) -> str:
    """Which ResNet the entries are of."""
    return "resnet101" if "encoder.base.layer3.22.conv1.weight" in released else "resnet50"


def official_state(released: Mapping[str, Tensor], own: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """The released encoder and decoder by our names, every entry in its place.

    Args:
        released: as :func:`read_official` gives them.
        own: state dict of a network with the same trunk and the default widths; its detector is not looked at.
        what: where the entries come from, for the message.

    Raises:
        ValueError: entries missing, unexpected or of another shape; it names them.
    """
    sources = {source(name): name for name in own if name.startswith(("encoder.", "decoder."))}
    missing = [f"{entry} is missing" for entry in (*sources, *UNUSED) if entry not in released]
    for entry, name in sources.items():
        if entry in released and released[entry].shape != own[name].shape:
            missing.append(f"{entry} is {tuple(released[entry].shape)} instead of {tuple(own[name].shape)}")
    unexpected = [f"{entry} is unexpected" for entry in released if entry not in sources and entry not in UNUSED]
    check_released(what, "DMMNet", WANTED, missing, unexpected)
    return {name: released[entry] for entry, name in sources.items()}
