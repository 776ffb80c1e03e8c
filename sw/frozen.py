# SPDX-License-Identifier: Apache-2.0
"""Partly frozen masks: the generator makes a part of the mask bits, the rest is stored.

The definitions are those of docs/spec.md section 2.1. Masks are always handled whole, as
uint64[Cout, taps, CW]; only a model file holds their stored form. (The idea is that of
arXiv 2402.14029.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiddenfold.sw import signs
from hiddenfold.sw.operations import shorten
from hiddenfold.sw.shapes import WeightShape

__all__ = [
    "FREE_EIGHTHS",
    "Pattern",
    "check_free",
    "compress",
    "expand",
    "pack",
    "pattern",
    "rotated",
    "stored_bits",
    "stored_bytes",
    "word_stride",
]

#: Values of m: how many of 8 neighbouring channels have a stored mask bit. 8: nothing is frozen.
FREE_EIGHTHS = (8, 4, 2, 1)

# Byte with the bits (rot + j) mod 8 set for j below m, by m and rot.
_FREE = {
    m: np.array([sum(1 << (rot + j) % 8 for j in range(m)) for rot in range(8)], dtype=np.uint8)
    for m in FREE_EIGHTHS
}


@dataclass(frozen=True, eq=False)
class Pattern:
    """What the generator says about a mask, in words uint64[Cout, taps, CW].

    A legal mask is `mask & free | kept`: `free` marks the weights with a stored mask bit, `kept`
    the frozen weights that are kept. Both are 0 for channels that do not exist. `rotation`,
    uint8[Cout, taps, 8 * CW], is the rot of each group.
    """

    m: int
    free: NDArray[np.uint64]
    kept: NDArray[np.uint64]
    rotation: NDArray[np.uint8]


def check_free(free: Any, streams: int) -> None:
    """Raise `ValueError` unless `free` has an allowed m for each of `streams` streams, or none."""
    if not isinstance(free, tuple):
        raise ValueError(f"Model: free must be a list, not {shorten(free)}")
    if free and len(free) != streams:
        raise ValueError(
            f"Model: free must have {streams} numbers, one per stream, not {len(free)}"
        )
    for m in free:
        if type(m) is not int or m not in FREE_EIGHTHS:
            raise ValueError(f"Model: free must hold 8, 4, 2 or 1, not {shorten(m)}")


def word_stride(m: int) -> int:
    """Generator words of a position."""
    return 1 if m == 8 else 2


def stored_bytes(shape: WeightShape, m: int) -> int:
    """Bytes of the stored form of a mask."""
    return -(-math.prod(shape.words) * m // 8) * 8


def stored_bits(seed_state: int, stream: int, shape: WeightShape, m: int) -> int:
    """Weights with a stored mask bit."""
    if shape.in_channels % 8 == 0 or m == 8:
        return shape.weights * m // 8
    return int(np.bitwise_count(pattern(seed_state, stream, shape, m).free).sum())


def pattern(seed_state: int, stream: int, shape: WeightShape, m: int) -> Pattern:
    """What is free and what is frozen in the mask of a stream; with m = 8 all of it is free."""
    channels = np.ones((1, shape.in_channels, shape.kernel, shape.kernel), dtype=bool)
    exists = signs.pack(channels).reshape(1, *shape.words[1:])
    size = *shape.words[:2], 8 * shape.words[2]
    if m == 8:
        free = np.broadcast_to(exists, shape.words)
        return Pattern(m, free, np.zeros_like(free), np.zeros(size, dtype=np.uint8))
    state = signs.layer_state(seed_state, stream)
    count = shape.words[1] * shape.words[2]
    sign = signs.sign_words(state, shape.out_channels, count, word_stride(m))
    freeze = signs.leap(sign).reshape(shape.words)
    rotation = (_bytes(sign.reshape(shape.words)) ^ _bytes(freeze)) & np.uint8(7)
    free = _words(_FREE[m][rotation])
    return Pattern(m, free & exists, freeze & ~free & exists, rotation)


def compress(mask: NDArray[np.uint64], frozen: Pattern) -> bytes:
    """The stored form of a mask that agrees with the pattern."""
    if frozen.m == 8:
        return mask.astype("<u8").tobytes()
    packed = pack(rotated(mask, frozen), frozen.m).tobytes()
    return packed + bytes(-len(packed) % 8)


def rotated(mask: NDArray[np.uint64], frozen: Pattern) -> NDArray[np.uint8]:
    """The mask's groups, uint8[Cout, taps, 8 * CW], with the stored bits in the low m bits."""
    mask_bytes, rotation = _bytes(mask).astype(np.uint16), frozen.rotation
    return (mask_bytes >> rotation | mask_bytes << (8 - rotation)).astype(np.uint8)


def pack(groups: NDArray[np.uint8], m: int) -> NDArray[np.uint8]:
    """The low m bits of all groups without gaps, from bit 0 of the first byte on."""
    bits = np.unpackbits(groups[..., None], axis=-1, count=m, bitorder="little")
    return np.packbits(bits, bitorder="little")


def expand(data: bytes, frozen: Pattern) -> NDArray[np.uint64]:
    """The mask of a stored form. With m < 8 `ValueError` when bits are set that hold nothing."""
    if frozen.m == 8:
        return np.frombuffer(data, "<u8").astype(np.uint64).reshape(frozen.free.shape)
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    count = frozen.rotation.size * frozen.m
    if bits[count:].any():
        raise ValueError(f"stored bits from {count} on must be 0, not 1")
    groups = np.packbits(bits[:count].reshape(-1, frozen.m), axis=-1, bitorder="little")
    stored = groups.reshape(frozen.rotation.shape).astype(np.uint16)
    mask = _words((stored << frozen.rotation | stored >> (8 - frozen.rotation)).astype(np.uint8))
    if (mask & ~frozen.free).any():
        raise ValueError("stored bits of input channels that do not exist must be 0, not 1")
    return mask | frozen.kept


def _bytes(words: NDArray[np.uint64]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(words, dtype="<u8").view(np.uint8)


def _words(values: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(values).view("<u8").astype(np.uint64)
