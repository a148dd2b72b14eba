"""A trained network as an ONNX graph: ``python -m lightning_vos.export last.ckpt remn.onnx --size 480x854``.

One graph, one frame: what :meth:`Segmenter.step` takes and gives, with the state of the sequence as inputs and outputs.
``docs/predict.md`` says how to run it, ``docs/onnx_video.py`` is a whole program.

A method can be exported if its package has a module ``export`` that holds one class derived from
:class:`~lightning_vos.frame_step.FrameStep`.
"""

from __future__ import annotations

import argparse
import pkgutil
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx_ir
import torch

import lightning_vos.methods as methods
from lightning_vos.atomic import unfinished
from lightning_vos.checkpoint import read_checkpoint, restore
from lightning_vos.cli import run
from lightning_vos.command_line import at_home
from lightning_vos.frame_step import Entry, FrameStep
from lightning_vos.networks import locate
from lightning_vos.quiet import quieten

EXAMPLE = {"objects": 2, "slots": 3}  # sizes of the inputs that the exporter traces; 0 and 1 would count as fixed
OPSET = 18  # that of the exporter's own functions; it converts to others afterwards


def export(checkpoint: str, graph: str | Path, size: tuple[int, int], capacity: int | None = None) -> None:
    """Write a network's frame as an ONNX graph, weights included, in float32.

    Args:
        checkpoint: a path, or the name of a released network.
        graph: the file to write, ``<name>.onnx``.
        size: ``(H, W)`` of the frames.
        capacity: stored frames at most, of a method that has a memory; ``None``: as the network was trained.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: the method or one of its settings cannot be exported, or the checkpoint cannot be read; nothing is
            written then.
        ModuleNotFoundError: the exporter is not installed.
    """
    if Path(graph).suffix != ".onnx":
        raise ValueError(f"{graph}: not the name of a graph's file; give one like {Path(graph).stem}.onnx")
    if min(size) < 1:
        raise ValueError(f"--size={size[0]}x{size[1]}: not a size of frames; give HxW, such as 480x854")
    path = locate(checkpoint)
    saved = read_checkpoint(path)
    settings = {"channels_last": False} | ({} if capacity is None else {"capacity": capacity})
    model = restore(saved, path, saved["network"], settings)
    step, translations = frame_step(model, size, path)
    with unfinished(graph) as beside:
        program = traced(step, translations)
        program.model.metadata_props.update(
            network=saved["network"], size=f"{size[0]}x{size[1]}", torch=torch.__version__
        )
        program.save(beside, external_data=False)


def frame_step(model: Any, size: tuple[int, int], what: str) -> tuple[FrameStep, dict[Any, Any]]:
    """The frame of a network, and what its module says of operators of its own.

    Args:
        model: the network.
        size: ``(H, W)`` of the frames.
        what: where the network comes from, for the message.

    Raises:
        ValueError: the method has no module ``export``, or one of the network's settings cannot be exported.
    """
    package = type(model).__module__.rpartition(".")[0]
    if find_spec(f"{package}.export") is None:
        folders = pkgutil.iter_modules(methods.__path__)
        able = [name for _, name, _ in folders if find_spec(f"{methods.__name__}.{name}.export")]
        raise ValueError(
            f"{what}: {type(model).__name__} cannot be exported, {package} has no module `export`; give a network of "
            f"{' or '.join(able)}"
        )
    module = import_module(f"{package}.export")
    cls = next(c for c in vars(module).values() if getattr(c, "__module__", "") == module.__name__ and _is_step(c))
    try:
        return cls(model, size).eval(), getattr(module, "TRANSLATIONS", {})
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error


def _is_step(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, FrameStep)


@torch.no_grad()
def traced(step: FrameStep, translations: Mapping[Any, Any]) -> torch.onnx.ONNXProgram:
    """The graph of a frame: inputs ``frame``, ``mask`` and the state, outputs ``logits`` and the state.

    Args:
        step: see there.
        translations: operators of the method's own -> functions of ONNX Script.
    """
    entries = step.state()
    mask = Entry(torch.float32, (1, "objects", *step.size))
    inputs = {"frame": Entry(torch.uint8, (1, 3, *step.size)), "mask": mask, **entries}
    outputs = {"logits": Entry(torch.float32, (1, "objects + 1", *step.size)), **entries}
    example = {name: entry.zeros(**EXAMPLE) for name, entry in inputs.items()}
    open_sizes = {name: _open(entry) for name, entry in inputs.items()}
    program = torch.export.export(step, (), _called(example, entries), dynamic_shapes=_called(open_sizes, entries))
    graph = torch.onnx.export(
        program,
        input_names=list(inputs),
        output_names=["logits", *(f"next_{name}" for name in entries)],
        opset_version=OPSET,
        custom_translation_table=dict(translations),
        verbose=False,
    )
    assert graph is not None
    for values, known in ((graph.model.graph.inputs, inputs), (graph.model.graph.outputs, outputs)):
        for value, entry in zip(values, known.values(), strict=True):
            value.shape = onnx_ir.Shape(entry.shape)  # by our names
    return graph


def _open(entry: Entry) -> dict[int, Any]:
    return {axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(entry.shape) if isinstance(size, str)}


def _called(values: Mapping[str, Any], entries: Mapping[str, Entry]) -> dict[str, Any]:
    """As the arguments of :meth:`FrameStep.forward`."""
    return {"frame": values["frame"], "mask": values["mask"], "state": {name: values[name] for name in entries}}


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width)


def main(args: list[str] | None = None) -> None:
    """Read the checkpoint, write the graph.

    Raises:
        FileNotFoundError, ValueError: see :func:`export`; nothing is written then.
    """
    parser = argparse.ArgumentParser(prog="python -m lightning_vos.export", description=__doc__)
    parser.add_argument("checkpoint", help="a path, or the name of a released network")
    parser.add_argument("graph", help="file to write, <name>.onnx")
    parser.add_argument("--size", type=_size, default=(480, 854), metavar="HxW", help="of the frames; %(default)s")
    parser.add_argument("--capacity", type=int, help="stored frames at most; as trained, if not given")
    words = [at_home(word) for word in (sys.argv[1:] if args is None else args)]
    options = parser.parse_args(words)
    quieten()
    export(options.checkpoint, options.graph, options.size, options.capacity)
    sys.stdout.write(f"{options.graph}: {Path(options.graph).stat().st_size / 1e6:.1f} MB\n")


if __name__ == "__main__":
    run(main)
