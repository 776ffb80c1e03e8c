# SPDX-License-Identifier: Apache-2.0
"""From real numbers to the integers of docs/spec.md section 4.3.

An activation is `step * (q - zero)` with q in 0 .. 2**bits - 1; `zero` is 0 after a relu.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hiddenfold.sw.affine import MAX_BIAS, MAX_RESIDUAL, SHIFTS, Affine

__all__ = [
    "FRACTION",
    "MAX_RESIDUAL",
    "Scale",
    "affine_constants",
    "choose_scale",
    "residual_multiplier",
    "short_constants",
]

FRACTION = 256  # v of the specification has 8 fraction bits
MAX_MULTIPLIER = (1 << 15) - 1
# Clipping points that are tried, as shares of the largest value.
_SHARES = np.linspace(0.2, 1.0, 81)


@dataclass(frozen=True)
class Scale:
    """Real value of one step of a tensor, and the integer that stands for 0."""

    step: float
    zero: int = 0


def choose_scale(values: NDArray[np.float32], bits: int, signed: bool) -> Scale:
    """The scale of `bits` bits with the least mean square error on sample `values`.

    Unsigned values are clipped at the top, signed ones at both ends of their range.
    """
    levels = (1 << bits) - 1
    real = values.astype(np.float64)
    high = max(float(real.max()), 0.0)
    low = min(float(real.min()), 0.0) if signed else 0.0
    if high - low <= 0.0:
        return Scale(1.0)
    best, best_error = Scale(1.0), np.inf
    for share in _SHARES:
        step = share * (high - low) / levels
        scale = Scale(step, round(-share * low / step))
        q = np.clip(np.rint(real / step) + scale.zero, 0, levels)
        error = float(np.mean(((q - scale.zero) * step - real) ** 2))
        if error < best_error:
            best, best_error = scale, error
    return best


def residual_multiplier(name: str, residual: Scale, wanted: Scale) -> tuple[int, Scale]:
    """Residual multiplier R, and the output scale nearest to `wanted` that makes it exact.

    Raises `ValueError` when the residual's step is too large or too small for R.
    """
    multiplier = round(FRACTION * residual.step / wanted.step)
    if not 1 <= multiplier <= MAX_RESIDUAL:
        raise ValueError(
            f"Operation '{name}': residual multiplier must be 1 to {MAX_RESIDUAL}, not {multiplier}"
        )
    return multiplier, Scale(FRACTION * residual.step / multiplier, wanted.zero)


def affine_constants(
    name: str,
    gain: NDArray[np.float64],
    offset: NDArray[np.float64],
    residual: int,
    residual_zero: int,
) -> Affine:
    """Constants of one execution so that its output is about `gain * acc + offset` steps.

    `offset` includes the output's zero point, not the residual's. Raises `ValueError` when the
    numbers do not fit the specification's fields.
    """
    largest = FRACTION * float(np.abs(gain).max())
    fitting = [shift for shift in SHIFTS if round(largest * 2**shift) <= MAX_MULTIPLIER]
    if not fitting:
        raise ValueError(
            f"Operation '{name}': multiplier must be at most {MAX_MULTIPLIER}, not {largest:.0f}"
        )
    shift = fitting[-1]
    multiplier = np.rint(FRACTION * gain * 2.0**shift).astype(np.int16)
    # Half a step for rounding half up, and half a fraction for the floor after the multiplication.
    bias = np.rint(FRACTION * offset + FRACTION / 2 + 0.5) - residual * residual_zero
    if np.abs(bias).max() > MAX_BIAS:
        raise ValueError(
            f"Operation '{name}': bias must be at most {MAX_BIAS}, not {np.abs(bias).max():.0f}"
        )
    return Affine(shift, residual, multiplier, bias.astype(np.int32))


def short_constants(constants: Affine, mean: NDArray[np.float64]) -> Affine:
    """The nearest constants that have a short form (docs/spec.md section 5).

    `mean` is that of each channel's output before the bias, in steps: the bias makes up for what
    the rounded multiplier changes in it.
    """
    exact = constants.multiplier.astype(np.float64)
    rounded = constants.shortened().multiplier
    lost = 1.0 - np.divide(rounded, exact, out=np.ones_like(exact), where=exact != 0.0)
    bias = np.rint(constants.bias + FRACTION * mean * lost)
    bias = np.clip(bias, -MAX_BIAS - 1, MAX_BIAS).astype(np.int32)
    return replace(constants, bias=bias).shortened()
