# SPDX-License-Identifier: Apache-2.0
"""The data parts of a memory image: affine stream and mask streams (docs/spec.md section 6)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hiddenfold.gen.checksum import repeated_signature, signature
from hiddenfold.gen.plan import stored_eighths
from hiddenfold.gen.target import Target
from hiddenfold.gen.tiling import mask_words
from hiddenfold.sw.affine import Affine
from hiddenfold.sw.frozen import rotated
from hiddenfold.sw.model import Model
from hiddenfold.sw.program import ALIGNMENT
from hiddenfold.sw.shapes import Execution

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

    def __init__(self, model: Model, target: Target) -> None:
        self.section = Section()
        self._words: dict[int, NDArray[np.uint64]] = {}
        self._offsets: dict[int, int] = {}
        self._fields: dict[int, dict[str, int]] = {}
        self._stored: dict[int, int] = {}
        for stream, shape in model.weight_shapes().items():
            m, pattern = model.free_eighths(stream), model.pattern(stream)
            stored = stored_eighths(shape, m, target)
            mask = model.masks[stream]
            groups = rotated(mask, pattern) if stored < 8 else mask.astype("<u8").view(np.uint8)
            words = mask_words(groups, shape.in_channels, target.rows, target.lanes, stored)
            self._stored[stream] = stored
            self._words[stream] = words
            self._offsets[stream] = self.section.add(words.astype("<u8").tobytes(), ALIGNMENT)
            self._fields[stream] = {
                "frozen": int(m < 8),
                "free": (8 // stored).bit_length() - 1,
                "count": words.shape[1],
            }

    def eighths(self, execution: Execution) -> int:
        """How many of 8 mask bits the program stores; 8 for an operation without weights."""
        return 8 if execution.stream is None else self._stored[execution.stream]

    def offset(self, stream: int) -> int:
        """Where a stream starts in the section."""
        return self._offsets[stream]

    def bytes(self, stream: int) -> int:
        """Bytes of a stream."""
        return self._words[stream].nbytes

    def fields(self, stream: int) -> dict[str, int]:
        """Fields of CONV that are the same for all layers with the stream."""
        return self._fields[stream]

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
