"""The authors' released weights: their names for our names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lightning_vos.released import check_released, read_released

if TYPE_CHECKING:
    from lightning_vos.methods.hmmn.module import HMMN

WANTED = "the released checkpoint of HMMN (HMMN_weights.pth)"
ENCODERS = {"query_encoder": "Encoder_Q", "memory_encoder": "Encoder_M"}
STAGES = {"stem.0": "conv1", "stem.1": "bn1", "layer1": "res2", "layer2": "res3", "layer3": "res4"}
HEADS = {16: "r4", 8: "r3", 4: "r2"}
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


def sources(name: str, has_value: bool = True) -> list[str]:
    """Entries of the released state dict that make up one of ours, in the order in which they are joined.

    Args:
        name: entry of HMMN's state dict.
        has_value: whether the head that it may belong to gives a value.
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
    return [f"{head}.Key.{kind}", *([f"{head}.Value.{kind}"] if has_value else [])]


def load_official(model: HMMN, path: str) -> HMMN:
    """Load the released checkpoint into a network of the paper's size, every entry of both in its place.

    Args:
        model: an HMMN with the default trunks and widths.
        path: the file; entries with or without the prefix ``module.``.

    Returns:
        ``model``, in evaluation mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: something else, damaged, or entries missing, unexpected or of another shape; it names them.
    """
    released = read_released(path, WANTED)
    state, missing, used = {}, [], set()
    for name, own in model.state_dict().items():
        part = model.get_submodule(name.partition(".")[0])
        theirs = sources(name, has_value=getattr(part, "dims", [0, 1])[1] > 0)
        used.update(theirs)
        absent = [entry for entry in theirs if entry not in released]
        missing += [f"{entry} is missing" for entry in absent]
        if not absent:
            # Stems are joined along their inputs, key and value along their outputs.
            dim = 1 if "stem" in name else 0
            tensors = [released[entry] for entry in theirs]
            sizes = [(*tensor.shape[:dim], *tensor.shape[dim + 1 :]) for tensor in tensors]
            if len(tensors) == 1:
                state[name] = tensors[0]
            elif len(set(sizes)) == 1:
                state[name] = torch.cat(tensors, dim)
            if name not in state or state[name].shape != own.shape:
                found = " and ".join(f"{entry} {tuple(released[entry].shape)}" for entry in theirs)
                missing.append(f"{found} cannot make {tuple(own.shape)}")
    for encoder in ENCODERS.values():
        for entry, constant in ((f"{encoder}.mean", model.mean), (f"{encoder}.std", model.std)):
            used.add(entry)
            value = released.get(entry)
            if value is None:
                missing.append(f"{entry} is missing")
            elif value.numel() != 3 or not torch.allclose(value.flatten().to(constant), constant.flatten(), atol=1e-6):
                missing.append(f"{entry} is not ImageNet's")
    unexpected = [f"{entry} is unexpected" for entry in released if entry not in used]
    check_released(path, "HMMN", WANTED, missing, unexpected)
    model.load_state_dict(state)
    return model.eval()
