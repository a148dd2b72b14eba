"""The boxes of largest parts as a graph: what :func:`tracking.largest_components` computes, for an export."""

# mypy: ignore-errors
# The types of ONNX Script are those of its operators, not of Python's.

from onnxscript import BOOL, FLOAT, script
from onnxscript import opset18 as op


@script()
def labelled(masks: BOOL["n", "h", "w"]) -> FLOAT["n", 4]:  # noqa: F821
    """Boxes of the largest 8-connected parts: every pixel takes the first pixel of its part that it hears of.

    A pixel's number counts down in reading order; the largest one spreads to its neighbours, and jumps to where that
    pixel itself has heard of a larger one, until nothing changes.
    """
    shape = op.Shape(masks)
    flat = op.Concat(shape[0:1], op.Constant(value_ints=[-1]), axis=0)
    planes = op.Concat(shape[0:1], op.Constant(value_ints=[1]), shape[1:3], axis=0)
    inside = op.Cast(op.Reshape(masks, flat), to=1)
    count = op.Cast(shape[1] * shape[2], to=1)
    labels = inside * (count - op.Range(0.0, count, 1.0))
    changed = op.Constant(value_int=1) == op.Constant(value_int=1)
    while changed:
        near = op.MaxPool(op.Reshape(labels, planes), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        near = op.Reshape(near, flat) * inside
        heard = op.Min(count - near, count - 1.0)
        far = op.GatherElements(near, op.Cast(heard, to=7), axis=1) * inside
        spread = op.Max(near, far)
        changed = op.ReduceMax(op.Abs(spread - labels), keepdims=0) > 0.0
        labels = op.Identity(spread)
    first = op.Cast(op.Min(count - labels, count - 1.0), to=7)
    areas = op.ScatterElements(op.Sub(inside, inside), first, inside, axis=1, reduction="add")
    part = op.Cast(first == op.ArgMax(areas, axis=1), to=1) * inside
    part = op.Reshape(part, shape)
    columns = op.ReduceMax(part, op.Constant(value_ints=[1]), keepdims=0)
    rows = op.ReduceMax(part, op.Constant(value_ints=[2]), keepdims=0)
    ends = op.Concat(
        op.ArgMax(columns, axis=1),
        op.ArgMax(rows, axis=1),
        op.ArgMax(columns, axis=1, select_last_index=1),
        op.ArgMax(rows, axis=1, select_last_index=1),
        axis=1,
    )
    return op.Cast(ends, to=1) * op.ReduceMax(columns, op.Constant(value_ints=[1]))
