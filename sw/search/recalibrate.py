# SPDX-License-Identifier: Apache-2.0
"""Batch norms measured anew after rounding.

Rounded and clipped activations change mean and spread of what the next layers add up: with few bits
noticeably, and always in the same direction. A batch norm's statistics are to be those of the
network that is shipped, so each channel gets the mean and the spread back that it has without
rounding (for the mean this is the bias correction of Nagel et al., arXiv 1906.04721).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiddenfold.sw.model import Model
from hiddenfold.sw.search.float_network import FloatConstants, FloatNetwork
from hiddenfold.sw.search.quantize import Scale

__all__ = ["recalibrate"]

#: Pixels of the images that are used: a layer's output for all of them lies in memory.
_PIXELS = 1 << 23


def recalibrate(
    model: Model, constants: list[FloatConstants], scales: Sequence[Scale], images: Tensor
) -> list[FloatConstants]:
    """Constants with which the rounded network has the moments of the one in real numbers.

    `scales` are those of the outputs, one an execution as in `constants`; `images` uint8
    [N, 3, H, W] are some to measure on. Mean and standard deviation of each
    channel, before a residual is added, become those without rounding; layer by layer, so that
    each one sees those before as they will be.
    """
    images = images[: max(1, _PIXELS // images[0, 0].numel())]
    wanted: list[NDArray[np.float64]] = []

    def look(index: int, sums: Tensor) -> FloatConstants:
        mean, deviation = _moments(sums)
        c = constants[index]
        wanted.append(np.stack([c.scale * mean + c.shift, np.abs(c.scale) * deviation]))
        return c

    made: list[FloatConstants] = []

    def match(index: int, sums: Tensor) -> FloatConstants:
        c = _match(constants[index], wanted[index], _moments(sums))
        made.append(c)
        return c

    FloatNetwork(model, constants).forward(images, choose=look)
    rounded = [replace(c, output=scale) for c, scale in zip(constants, scales, strict=True)]
    FloatNetwork(model, rounded).forward(images, choose=match)
    return made


def _match(
    constants: FloatConstants, wanted: NDArray[np.float64], found: NDArray[np.float64]
) -> FloatConstants:
    """Give accumulators with moments `found` the `wanted` ones; all are [2, channels]."""
    (mean, deviation), (found_mean, found_deviation) = wanted, found
    # A channel that does not change has no spread that could be set.
    live = (deviation > 0.0) & (found_deviation > 0.0)
    scale = constants.scale.astype(np.float64)
    gain = np.divide(np.copysign(deviation, scale), found_deviation, out=scale, where=live)
    shift = mean - gain * found_mean
    return replace(constants, scale=gain.astype(np.float32), shift=shift.astype(np.float32))


def _moments(sums: Tensor) -> NDArray[np.float64]:
    """Mean and standard deviation, [2, channels], of accumulators [N, channels, H, W]."""
    deviation, mean = torch.std_mean(sums, (0, 2, 3), correction=0)
    return torch.stack([mean, deviation]).double().cpu().numpy()
