# SPDX-License-Identifier: Apache-2.0
"""Where the router had wires in use more than once, as the annealing of the placement is told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

__all__ = ["Crowds", "crowds"]

#: Pins that a tile shall have less, by its column and row.
Crowds = Mapping[tuple[int, int], int]

#: Reach in tiles of a wire that is in use more than once: standard deviation, and end.
_SPREAD, _REACH = 2.0, 4
#: Pins that a tile shall have less for each such wire in it, and the most of them.
_PINS, _MOST = 0.3, 20


def crowds(heat_map: Path) -> Crowds:
    """How many pins the tiles shall have less that are crowded.

    ``heat_map`` is nextpnr's ``..._congestion_by_coordinate_N.csv``, a line for each column.
    """
    heat = np.nan_to_num(np.genfromtxt(heat_map, delimiter=",", ndmin=2))
    steps = np.arange(-_REACH, _REACH + 1)
    kernel = np.exp(-(steps**2) / (2 * _SPREAD**2))
    for axis in (0, 1):
        if heat.shape[axis] > len(kernel):
            heat = np.apply_along_axis(np.convolve, axis, heat, kernel, mode="same")
    less = np.minimum(np.rint(_PINS * heat), _MOST).astype(int)
    return {(int(x), int(y)): int(less[x, y]) for x, y in zip(*np.nonzero(less), strict=True)}
