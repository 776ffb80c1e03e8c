# SPDX-License-Identifier: Apache-2.0
"""The data parts of a memory image: affine stream and mask streams (docs/spec.md section 6)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hiddenfold.gen.checksum import repeated_signature, signature
from hiddenfold.gen.tiling import mask_words
from hiddenfold.sw.affine import Affine
from hiddenfold.sw.program import ALIGNMENT

__all__ = ["MaskStreams", "Section", "affine_record"]


@dataclass
class Section:
    """Part of the memory image: chunks one after the other from an aligned offset."""

    size: int = 0
    _chunks: list[bytes] = field(default_factory=list)

    def add(self, data: bytes, alignment: int = 1) -> int:
        """Append `data` and return where it starts."""
        padding = -self.size % alignment
        self._chunks += [bytes(padding), data]
        start = self.size + padding
        self.size = start + len(data)
        return start

    def bytes(self) -> bytes:
        """All chunks, filled up to a multiple of `ALIGNMENT`."""
        return b"".join(self._chunks) + bytes(-self.size % ALIGNMENT)


class MaskStreams:
    """The mask streams of all layers; those of layers with one stream number are one."""

    def __init__(self, rows: int, lanes: int) -> None:
        self.section = Section()
        self._rows = rows
        self._lanes = lanes
        self._words: dict[int, NDArray[np.uint64]] = {}
        self._offsets: dict[int, int] = {}

    def add(self, stream: int, mask: NDArray[np.uint64], channels: int) -> None:
        """Add the mask uint64[Cout, taps, CW] of a stream for `channels` input channels."""
        if stream in self._words:
            return
        words = mask_words(mask, channels, self._rows, self._lanes)
        self._words[stream] = words
        self._offsets[stream] = self.section.add(words.astype("<u8").tobytes(), ALIGNMENT)

    def offset(self, stream: int) -> int:
        """Where a stream starts in the section."""
        return self._offsets[stream]

    def block_words(self, stream: int) -> int:
        """Words of 64 bits of one block."""
        return self._words[stream].shape[1]

    def signature(self, stream: int, pixel_tiles: int) -> int:
        """Signature of the words as they are read: a block once per pixel tile."""
        return repeated_signature(self._words[stream], pixel_tiles)


def affine_record(constants: Affine, rows: int) -> bytes:
    """Affine record of one execution of a convolution on `rows` output channels a block."""
    channels = len(constants.bias)
    words = np.zeros(2 + -(-channels // rows) * rows, dtype=np.uint64)
    words[0] = constants.residual | constants.shift << 16
    multiplier = constants.multiplier.astype(np.int64) & 0xFFFF
    bias = constants.bias.astype(np.int64) & 0xFFFFFF
    words[2 : 2 + channels] = (multiplier | bias << 16).astype(np.uint64)
    words[1] = signature(np.delete(words, 1))
    return words.astype("<u8").tobytes()
