"""The authors' released weights: their names for ours."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_vos.released import check_released
from lightning_vos.segmenter import IMAGENET_MEAN, IMAGENET_STD

SETTINGS = {"kernel": {"hop": "official"}}
"""With these the network computes what the released code does."""

WANTED = "the released checkpoint of HMMN (HMMN_weights.pth)"
ENCODERS = {"query_encoder": "Encoder_Q", "memory_encoder": "Encoder_M"}
STAGES = {"stem.0": "conv1", "stem.1": "bn1", "layer1": "res2", "layer2": "res3", "layer3": "res4"}
HEADS = {16: "r4", 8: "r3", 4: "r2"}
WITHOUT_VALUE = ("query8", "query4")
DECODER = {
    "compress": "convFM",
    "refine16": "ResMM",
    "predict": "pred2",
    **{
        f"fuse{stride}.{ours}": f"RF{number}.{theirs}"
        for stride, number in ((8, 3), (4, 2))
        for ours, theirs in (
            ("query", "convFS"),
            ("memory", "convMemory"),
            ("refine_skip", "ResFS"),
            ("refine", "ResMM"),
        )
    },
}


def sources(name: str) -> list[str]:
    """Entries of the released state dict that make up one of ours, in the order in which they are joined.

    Args:
        name: entry of the network's state dict.
    """
    part, _, rest = name.partition(".")
    if part in ENCODERS:
        stage = next(ours for ours in STAGES if rest.startswith(ours + "."))
        inner = rest[len(stage) :]
        joined = ["conv1", "conv1_m", "conv1_o"] if (part, stage) == ("memory_encoder", "stem.0") else [STAGES[stage]]
        return [f"{ENCODERS[part]}.{theirs}{inner}" for theirs in joined]
    if part == "decoder":
        layer = next(ours for ours in DECODER if rest.startswith(ours + "."))
        return [f"Decoder.{DECODER[layer]}{rest[len(layer) :]}"]
    stride = int(part.lstrip("querymo"))
    head = f"KV_{part[0].upper()}_{HEADS[stride]}"
    kind = rest.removeprefix("project.")
    return [f"{head}.{name}.{kind}" for name in (["Key"] if part in WITHOUT_VALUE else ["Key", "Value"])]


def official_state(released: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
    """The released checkpoint as a state dict of the network, every entry of both in its place.

    Args:
        released: its entries, without the prefix ``module.``.
        own: state dict of a network with the default trunks and widths.
        path: the released file, for the messages.

    Raises:
        ValueError: entries are missing, unexpected or of another shape; it names them.
    """
    state, missing, used = {}, [], set()
    for name, entry in own.items():
        theirs = sources(name)
        used.update(theirs)
        absent = [source for source in theirs if source not in released]
        missing += [f"{source} is missing" for source in absent]
        if absent:
            continue
        # Stems are joined along their inputs, key and value along their outputs.
        joined = _joined([released[source] for source in theirs], dim=1 if "stem" in name else 0)
        if joined is None or joined.shape != entry.shape:
            found = " and ".join(f"{source} {tuple(released[source].shape)}" for source in theirs)
            missing.append(f"{found} cannot make {tuple(entry.shape)}")
        else:
            state[name] = joined
    for source, constant in _constants().items():
        used.add(source)
        value = released.get(source)
        if value is None:
            missing.append(f"{source} is missing")
        elif value.numel() != 3 or not torch.allclose(value.flatten().to(constant), constant, atol=1e-6):
            missing.append(f"{source} is not ImageNet's")
    unexpected = [f"{source} is unexpected" for source in released if source not in used]
    check_released(path, "HMMN", WANTED, missing, unexpected)
    return state


def _joined(parts: list[Tensor], dim: int) -> Tensor | None:
    """One tensor, or None where the others of their dimensions differ."""
    if len(parts) == 1:
        return parts[0]
    sizes = {(*part.shape[:dim], *part.shape[dim + 1 :]) for part in parts}
    return torch.cat(parts, dim) if len(sizes) == 1 else None


def _constants() -> dict[str, Tensor]:
    """What the released file holds of the images' normalisation."""
    values = {"mean": torch.tensor(IMAGENET_MEAN), "std": torch.tensor(IMAGENET_STD)}
    return {f"{encoder}.{name}": value for encoder in ENCODERS.values() for name, value in values.items()}
