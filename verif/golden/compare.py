# SPDX-License-Identifier: Apache-2.0
"""Exact comparison of two traces of a network, layer by layer and value by value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Layer", "Mismatch", "first_mismatch"]


class Layer(NamedTuple):
    """Output of one execution of an operation.

    `iteration` counts from 0 and is 0 outside loops. `values` are integers [N, H, W, C], or
    [N, classes] for logits.
    """

    name: str
    iteration: int
    values: NDArray[np.integer]


@dataclass(frozen=True)
class Mismatch:
    """First difference between two traces.

    The place is None where a trace differs in its form: then `expected` and `found` describe the
    forms. In logits `channel` is the label, and `y` and `x` are None.
    """

    layer: str
    iteration: int
    image: int | None
    channel: int | None
    y: int | None
    x: int | None
    expected: int | str
    found: int | str

    def __str__(self) -> str:
        place = f"layer '{self.layer}', iteration {self.iteration}"
        for name in ("image", "channel", "y", "x"):
            value = getattr(self, name)
            if value is not None:
                place += f", {name} {value}"
        return f"{place}: expected {self.expected}, found {self.found}"


def first_mismatch(expected: Sequence[Layer], actual: Sequence[Layer]) -> Mismatch | None:
    """The first difference in order of layer, image, y, x, channel; None when all are equal.

    Layers must have the same names, iterations and shapes in the same order. Integer types may
    differ. Items may be any tuples (name, iteration, values).
    """
    for (name, iteration, golden), other in zip(expected, actual, strict=False):
        other_name, other_iteration, subject = other
        if (name, iteration) != (other_name, other_iteration):
            form = f"layer '{other_name}', iteration {other_iteration}"
            return _form(name, iteration, "this layer", form)
        values, found = np.asarray(golden), np.asarray(subject)
        for array in (values, found):
            if not np.issubdtype(array.dtype, np.integer):
                raise TypeError(f"Values of layer '{name}' must be integers, not {array.dtype}")
        if values.shape != found.shape:
            return _form(name, iteration, f"shape {values.shape}", f"shape {found.shape}")
        different = values != found
        if different.any():
            place = tuple(int(i) for i in np.unravel_index(np.argmax(different), values.shape))
            image, *pixel, channel = place
            y, x = pixel or (None, None)
            return Mismatch(
                name, iteration, image, channel, y, x, int(values[place]), int(found[place])
            )
    if len(expected) != len(actual):
        longer = expected if len(expected) > len(actual) else actual
        name, iteration, _ = longer[min(len(expected), len(actual))]
        return _form(name, iteration, f"{len(expected)} layers", f"{len(actual)} layers")
    return None


def _form(name: str, iteration: int, expected: str, found: str) -> Mismatch:
    return Mismatch(name, iteration, None, None, None, None, expected, found)
