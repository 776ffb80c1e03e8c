# SPDX-License-Identifier: Apache-2.0
"""Requantization constants (docs/spec.md section 4.3) and their bytes in a model file."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiddenfold.sw.operations import check_integer, shorten

__all__ = ["SHIFTS", "Affine", "check_array"]

# Shift and residual multiplier; then 2 + 3 bytes per output channel.
_HEAD = struct.Struct("<BH")
_BYTES_PER_CHANNEL = 5

SHIFTS = (0, 4, 8, 12, 16, 20, 24, 28)
MAX_RESIDUAL = (1 << 16) - 1
MAX_BIAS = (1 << 23) - 1


@dataclass(frozen=True, eq=False)
class Affine:
    """Constants of one execution of a convolution (docs/spec.md section 4.3)."""

    shift: int
    residual: int
    multiplier: NDArray[np.int16]
    bias: NDArray[np.int32]

    def validate(self, name: str, out_channels: int) -> None:
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

    @staticmethod
    def size(out_channels: int) -> int:
        """Bytes in a model file."""
        return _HEAD.size + _BYTES_PER_CHANNEL * out_channels

    def to_bytes(self) -> bytes:
        """The bytes in a model file."""
        bias = self.bias.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3]
        head = _HEAD.pack(self.shift, self.residual)
        return head + self.multiplier.astype("<i2").tobytes() + bias.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Affine:
        """Inverse of `to_bytes`; `data` has a length that `size` gives."""
        shift, residual = _HEAD.unpack_from(data)
        channels = (len(data) - _HEAD.size) // _BYTES_PER_CHANNEL
        split = _HEAD.size + 2 * channels
        multiplier = np.frombuffer(data[_HEAD.size : split], "<i2").astype(np.int16)
        # The three bytes go to the upper end of a word; an arithmetic shift brings the sign down.
        bias = np.zeros((channels, 4), dtype=np.uint8)
        bias[:, 1:] = np.frombuffer(data[split:], np.uint8).reshape(channels, 3)
        return cls(shift, residual, multiplier, bias.view("<i4")[:, 0].astype(np.int32) >> 8)


def check_array(subject: str, array: Any, dtype: type, shape: tuple[int, ...]) -> None:
    """Raise `ValueError` unless `array` is a numpy array of this type and shape."""
    expected = f"{np.dtype(dtype)}{list(shape)}"
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{subject} must be an array {expected}, not {shorten(array)}")
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(
            f"{subject} must be an array {expected}, not {array.dtype}{list(array.shape)}"
        )
