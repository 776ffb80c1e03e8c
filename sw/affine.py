# SPDX-License-Identifier: Apache-2.0
"""Requantization constants (docs/spec.md section 4.3) and their bytes in a model file."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiddenfold.sw.operations import check_integer, shorten

__all__ = ["FULL", "FORMS", "SHIFTS", "SHORT", "Affine", "check_array", "check_form"]

#: How constants are stored: 5 or 3 bytes per output channel.
FULL, SHORT = "full", "short"
FORMS = (FULL, SHORT)

# Shift and residual multiplier; short constants have the shift of the biases as well.
_HEADS = {FULL: struct.Struct("<BH"), SHORT: struct.Struct("<BHB")}
_BYTES_PER_CHANNEL = {FULL: 5, SHORT: 3}

SHIFTS = (0, 4, 8, 12, 16, 20, 24, 28)
MAX_RESIDUAL = (1 << 16) - 1
MAX_BIAS = (1 << 23) - 1

# Fields of a short channel.
_BIAS_BITS, _MULTIPLIER_BITS = 12, 9
_MAX_BIAS_SHIFT, _MAX_EXPONENT = 12, 7


@dataclass(frozen=True, eq=False)
class Affine:
    """Constants of one execution of a convolution (docs/spec.md section 4.3)."""

    shift: int
    residual: int
    multiplier: NDArray[np.int16]
    bias: NDArray[np.int32]

    def validate(self, name: str, out_channels: int, form: str = FULL) -> None:
        """Raise `ValueError` unless these are legal constants for the operation `name`."""
        subject = f"Operation '{name}'"
        if self.shift not in SHIFTS:
            raise ValueError(
                f"{subject}: shift must be one of {', '.join(map(str, SHIFTS))}, not {self.shift!r}"
            )
        check_integer(f"{subject}: residual multiplier", self.residual, 0, MAX_RESIDUAL)
        check_array(f"{subject}: multiplier", self.multiplier, np.int16, (out_channels,))
        check_array(f"{subject}: bias", self.bias, np.int32, (out_channels,))
        extreme = int(self.bias[np.argmax(np.abs(self.bias.astype(np.int64)))])
        check_integer(f"{subject}: bias", extreme, -MAX_BIAS - 1, MAX_BIAS)
        if form == SHORT:
            rounded = self.shortened()
            for field in ("multiplier", "bias"):
                found, allowed = getattr(self, field), getattr(rounded, field)
                if (different := np.flatnonzero(found != allowed)).size:
                    channel = different[0]
                    raise ValueError(
                        f"{subject}: {field} of channel {channel} must have a short form such as "
                        f"{allowed[channel]}, not be {found[channel]}"
                    )

    def shortened(self) -> Affine:
        """The nearest constants that have a short form; those that have one stay as they are."""
        m, e = _mantissas(self.multiplier, _MULTIPLIER_BITS, _MAX_EXPONENT)
        b, f = _mantissas(self.bias, _BIAS_BITS, _MAX_BIAS_SHIFT)
        top = (1 << (_BIAS_BITS - 1)) - 1
        f = f.max(initial=0)
        b = np.minimum(_rounded(self.bias.astype(np.int64), f), top)
        return replace(self, multiplier=(m << e).astype(np.int16), bias=(b << f).astype(np.int32))

    @staticmethod
    def size(out_channels: int, form: str = FULL) -> int:
        """Bytes in a model file."""
        return _HEADS[form].size + _BYTES_PER_CHANNEL[form] * out_channels

    def to_bytes(self, form: str = FULL) -> bytes:
        """The bytes in a model file."""
        if form == SHORT:
            m, e = _mantissas(self.multiplier, _MULTIPLIER_BITS, _MAX_EXPONENT)
            f = int(_mantissas(self.bias, _BIAS_BITS, _MAX_BIAS_SHIFT)[1].max(initial=0))
            words = (self.bias >> f & 0xFFF) | (m & 0x1FF) << 12 | e << 21
            channels = words.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :3]
            return _HEADS[form].pack(self.shift, self.residual, f) + channels.tobytes()
        bias = self.bias.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3]
        head = _HEADS[form].pack(self.shift, self.residual)
        return head + self.multiplier.astype("<i2").tobytes() + bias.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, form: str = FULL) -> Affine:
        """Inverse of `to_bytes`; `data` has a length that `size` gives."""
        shift, residual, *rest = _HEADS[form].unpack_from(data)
        start = _HEADS[form].size
        channels = (len(data) - start) // _BYTES_PER_CHANNEL[form]
        if form == SHORT:
            (f,) = rest
            check_integer("Shift of short biases", f, 0, _MAX_BIAS_SHIFT)
            words = _integers(data[start:])
            multiplier = (words << 11 >> 23) << (words >> 21 & 7)
            return cls(shift, residual, multiplier.astype(np.int16), (words << 20 >> 20) << f)
        split = start + 2 * channels
        multiplier = np.frombuffer(data[start:split], "<i2").astype(np.int16)
        return cls(shift, residual, multiplier, _integers(data[split:]))


def _integers(data: bytes) -> NDArray[np.int32]:
    """Signed integers of 24 bits."""
    # The three bytes go to the upper end of a word; an arithmetic shift brings the sign down.
    words = np.zeros((len(data) // 3, 4), dtype=np.uint8)
    words[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return words.view("<i4")[:, 0].astype(np.int32) >> 8


def _rounded(values: NDArray[np.int64], shift: Any) -> NDArray[np.int64]:
    """values / 2**shift, to the nearest integer, halves up."""
    return values + (1 << shift >> 1) >> shift


def _mantissas(
    values: NDArray[np.integer], bits: int, largest: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Integers m of `bits` bits and e in 0 .. `largest` with m << e nearest to each value.

    e is the smallest with which m fits; where none does, m is the largest number.
    """
    wide = values.astype(np.int64)
    top = (1 << (bits - 1)) - 1
    e = np.full(wide.shape, largest)
    for exponent in range(largest - 1, -1, -1):
        m = _rounded(wide, exponent)
        e[(m >= -top - 1) & (m <= top)] = exponent
    return np.minimum(_rounded(wide, e), top), e


def check_form(form: Any) -> None:
    """Raise `ValueError` unless constants can be stored like that."""
    if form not in FORMS:
        raise ValueError(
            f"Model: constants must be one of {', '.join(map(repr, FORMS))}, not {shorten(form)}"
        )


def check_array(subject: str, array: Any, dtype: type, shape: tuple[int, ...]) -> None:
    """Raise `ValueError` unless `array` is a numpy array of this type and shape."""
    expected = f"{np.dtype(dtype)}{list(shape)}"
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{subject} must be an array {expected}, not {shorten(array)}")
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(
            f"{subject} must be an array {expected}, not {array.dtype}{list(array.shape)}"
        )
