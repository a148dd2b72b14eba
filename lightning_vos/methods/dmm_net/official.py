"""The authors' released weights: their names for our names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_vos.blocks.backbone import Trunk
from lightning_vos.released import check_released, read_released

if TYPE_CHECKING:
    from lightning_vos.methods.dmm_net.module import DMMNet

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


def official_trunk(*paths: str) -> Trunk:
    """Which ResNet the released files hold; arguments and errors as for :func:`load_official`."""
    return "resnet101" if "encoder.base.layer3.22.conv1.weight" in _read(paths) else "resnet50"


def load_official(model: DMMNet, *paths: str) -> DMMNet:
    """Load the released encoder and decoder, every entry in its place; the detector is not part of them and stays.

    Args:
        model: a DMMNet with the trunk of the files and the default widths.
        paths: one file with entries ``encoder.*`` and ``decoder.*``, or encoder and decoder without these prefixes in
            two files, in any order; all with or without the prefix ``module.``.

    Returns:
        ``model``, in evaluation mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: something else, damaged, or entries missing, unexpected, given twice or of another shape; it names
            them.
    """
    released = _read(paths)
    own = {source(name): name for name in model.state_dict() if name.startswith(("encoder.", "decoder."))}
    state = model.state_dict()
    missing = [f"{entry} is missing" for entry in (*own, *UNUSED) if entry not in released]
    for entry, name in own.items():
        if entry in released and released[entry].shape != state[name].shape:
            missing.append(f"{entry} is {tuple(released[entry].shape)} instead of {tuple(state[name].shape)}")
    unexpected = [f"{entry} is unexpected" for entry in released if entry not in own and entry not in UNUSED]
    check_released(" and ".join(paths), "DMMNet", WANTED, missing, unexpected)
    model.load_state_dict({**state, **{name: released[entry] for entry, name in own.items()}})
    if model.hparams["proposal_weights"] is None:
        rank_zero_warn(
            "the released files hold no detector, so the proposals are random: give proposal_weights=coco (or a file), "
            "or train them with trains=proposals"
        )
    return model.eval()


def _read(paths: tuple[str, ...]) -> dict[str, Tensor]:
    """Entries of all files, each with its part in front of its name."""
    released: dict[str, Tensor] = {}
    for path in paths:
        for name, value in read_released(path, WANTED).items():
            part = next((f"{part}." for part, pattern in PARTS.items() if re.match(pattern, name)), "")
            if part + name in released:
                raise ValueError(f"{path}: {part}{name} is in another file too; give {WANTED}")
            released[part + name] = value
    return released
