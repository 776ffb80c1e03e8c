# SPDX-License-Identifier: Apache-2.0
"""Random masks, and random requantization constants that keep activations alive.

The arithmetic is that of docs/spec.md section 4 in plain int64, apart from the golden model's.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from hiddenfold.sw import signs
from hiddenfold.sw.affine import SHIFTS, Affine
from hiddenfold.sw.model import Model
from hiddenfold.sw.operations import Classifier, MaxPool, Unfold
from hiddenfold.sw.shapes import Execution

__all__ = ["random_constants", "random_masks"]

_BIAS = 1 << 23
_TRIES = 10


def random_masks(
    rng: np.random.Generator, model: Model, top_k: float
) -> dict[int, NDArray[np.uint64]]:
    """Masks that keep `top_k` of each layer's weights, at least one, at random places.

    What `model` freezes is as its seed says; of the other weights about `top_k` are kept.
    """
    masks = {}
    for stream, shape in model.weight_shapes().items():
        kept = np.zeros(shape.weights, dtype=bool)
        kept[: max(1, round(top_k * shape.weights))] = True
        rng.shuffle(kept)
        bits = kept.reshape(shape.out_channels, shape.in_channels, shape.kernel, shape.kernel)
        made = model.pattern(stream)
        masks[stream] = signs.pack(bits).reshape(shape.words) & made.free | made.kept
    return masks


def random_constants(
    rng: np.random.Generator, model: Model, image: NDArray[np.uint8]
) -> list[Affine]:
    """Constants for each execution of a convolution.

    `model` has operations and masks, and its constants are ignored. Each execution gets the
    constants that spread its outputs for this image; some channels and some executions get
    extremes.
    """
    result = []
    tensors = {"image": image.astype(np.int64).transpose(2, 0, 1)}
    for execution in model.executions():
        op = execution.op
        source = tensors[op.input]
        if isinstance(op, Classifier):
            break
        if isinstance(op, Unfold):
            windows = _windows(source, op.kernel, op.stride)
            output = windows.reshape(-1, *windows.shape[2:])
        elif isinstance(op, MaxPool):
            output = _windows(source, op.kernel, op.stride).max(axis=0)
        else:
            acc = _accumulate(source, model.weights(op.stream), op.stride)
            residual = np.zeros_like(acc) if op.residual is None else tensors[op.residual]
            affine, output = _choose(rng, execution, acc, residual)
            result.append(affine)
        tensors[op.output] = output
    return result


def _windows(source: NDArray[np.int64], kernel: int, stride: int) -> NDArray[np.int64]:
    """[K*K, C, h, w] of a tensor [C, H, W], padded with 0."""
    _, height, width = source.shape
    pad = (kernel - 1) // 2
    padded = np.pad(source, ((0, 0), (pad, pad), (pad, pad)))
    return np.stack(
        [
            padded[:, ky : ky + height : stride, kx : kx + width : stride]
            for ky in range(kernel)
            for kx in range(kernel)
        ]
    )


def _accumulate(
    source: NDArray[np.int64], weights: NDArray[np.int8], stride: int
) -> NDArray[np.int64]:
    acc = F.conv2d(
        torch.from_numpy(source[None].astype(np.float64)),
        torch.from_numpy(weights.astype(np.float64)),
        stride=stride,
        padding=(weights.shape[-1] - 1) // 2,
    )
    return acc[0].numpy().astype(np.int64)


def _choose(
    rng: np.random.Generator,
    execution: Execution,
    acc: NDArray[np.int64],
    residual: NDArray[np.int64],
) -> tuple[Affine, NDArray[np.int64]]:
    """Constants and the outputs that they make of these accumulators."""
    has_residual = execution.residual is not None
    for _ in range(_TRIES):
        affine = _spread(rng, acc, residual, has_residual, execution.out_bits)
        if rng.random() < 0.3:
            affine = _with_extremes(rng, affine)
        output = _requantize(affine, acc, residual, execution.out_bits)
        if np.ptp(output):
            break
    return affine, output


def _spread(
    rng: np.random.Generator,
    acc: NDArray[np.int64],
    residual: NDArray[np.int64],
    has_residual: bool,
    bits: int,
) -> Affine:
    """Constants for outputs around a quarter to the middle of the range, in each channel."""
    channels = len(acc)
    steps = (1 << bits) * 256
    flat = acc.reshape(channels, -1)
    # Integers up to the last division, so that each machine gets the same constants.
    mean = flat.sum(axis=1) // flat.shape[1]
    deviation = np.abs(flat - mean[:, None]).sum(axis=1) / flat.shape[1]
    deviation = np.maximum(deviation, 1 + np.abs(flat).max(axis=1) / 16)
    gain = steps * rng.uniform(0.1, 0.6, channels) / deviation
    gain *= rng.choice([-1, 1, 1], channels)
    factor = 0
    if has_residual and (top := int(residual.max())):
        factor = min(int(steps * rng.uniform(0.1, 0.7) / top), (1 << 16) - 1)
    elif rng.random() < 0.5:
        # Without a residual the multiplier must not matter.
        factor = int(rng.integers(0, 1 << 16))
    largest = np.abs(gain).max()
    # Mostly the most exact shift.
    fitting = [shift for shift in SHIFTS if largest * 2**shift < 1 << 15] or [0]
    shift = fitting[-1] if rng.random() < 0.7 else int(rng.choice(fitting))
    multiplier = np.clip(np.round(gain * 2**shift), -(1 << 15), (1 << 15) - 1)
    centre = steps * rng.uniform(0.1, 0.7, channels)
    added = factor * has_residual * (residual.reshape(channels, -1).sum(axis=1) // flat.shape[1])
    bias = centre - multiplier * mean / 2**shift - added
    return Affine(
        shift,
        factor,
        multiplier.astype(np.int16),
        np.clip(np.round(bias), -_BIAS, _BIAS - 1).astype(np.int32),
    )


def _with_extremes(rng: np.random.Generator, affine: Affine) -> Affine:
    """The same constants with some replaced by anything that is legal, mostly the ends."""
    channels = len(affine.bias)
    multiplier, bias = affine.multiplier.copy(), affine.bias.copy()
    chosen = rng.random(channels) < 0.3
    ends = rng.choice([-(1 << 15), (1 << 15) - 1, -1, 0, 1], channels)
    multiplier[chosen] = ends[chosen]
    chosen = rng.random(channels) < 0.3
    ends = rng.choice([-_BIAS, _BIAS - 1, -1, 0, 255, 256], channels)
    bias[chosen] = ends[chosen]
    shift, factor = affine.shift, affine.residual
    if rng.random() < 0.2:
        factor = int(rng.choice([0, 1, (1 << 16) - 1]))
    if rng.random() < 0.2:
        shift = int(rng.choice(SHIFTS))
    return Affine(shift, factor, multiplier, bias)


def _requantize(
    affine: Affine, acc: NDArray[np.int64], residual: NDArray[np.int64], bits: int
) -> NDArray[np.int64]:
    multiplier = affine.multiplier.astype(np.int64)[:, None, None]
    v = (acc * multiplier >> affine.shift) + residual * affine.residual
    v += affine.bias.astype(np.int64)[:, None, None]
    return np.clip(v >> 8, 0, (1 << bits) - 1)
