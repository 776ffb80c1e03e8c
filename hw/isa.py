# SPDX-License-Identifier: Apache-2.0
"""Instruction set (docs/spec.md section 7): the one table that compiler and sequencer share."""

from enum import IntEnum
from typing import NamedTuple

WORDS = 8
BYTES = 8 * WORDS
#: Cycles within which the array must not be given the same pixel twice (field ``gap``).
PIXEL_SPACING = 8


class Opcode(IntEnum):
    """What an instruction does."""

    BEGIN = 0x01
    END = 0x02
    CONV = 0x10
    IMAGE = 0x11
    POOL = 0x12
    STORE = 0x13
    LOAD = 0x14
    SAVE = 0x15
    LOOP = 0x20
    ENDLOOP = 0x21


#: Opcodes that a unit executes, in the order of the bits of ``Sequencer.unit_start``.
UNIT_OPCODES = (Opcode.CONV, Opcode.IMAGE, Opcode.POOL, Opcode.STORE)
#: Opcodes that are done beside the units' work.
TRANSFER_OPCODES = (Opcode.LOAD, Opcode.SAVE)


class Error(IntEnum):
    """Error codes of register ERROR (docs/spec.md section 9)."""

    NONE = 0
    OPCODE = 1
    INSTRUCTION_SIGNATURE = 2
    MASK_SIGNATURE = 3
    AFFINE_SIGNATURE = 4
    BUS_READ = 5
    BUS_WRITE = 6
    WINDOW = 7
    WATCHDOG = 8
    TARGET = 9
    LOOP = 10
    ABORTED = 11
    FIELD = 12


class Field(NamedTuple):
    """A bit field: ``width`` bits from bit ``lsb`` of 64-bit word ``word``."""

    word: int
    lsb: int
    width: int


FIELDS = {
    "opcode": Field(0, 0, 8),
    "kernel": Field(0, 8, 4),
    "stride": Field(0, 12, 4),
    "passes": Field(0, 16, 4),
    "out_bits": Field(0, 20, 4),
    "residual": Field(0, 24, 1),
    "logits": Field(0, 25, 1),
    "gap": Field(0, 26, 1),
    "cached": Field(0, 27, 1),
    "free": Field(0, 28, 2),
    "advance": Field(0, 30, 1),
    "frozen": Field(0, 31, 1),
    "blocks": Field(0, 32, 12),
    "in_words": Field(0, 44, 10),
    "fence_loads": Field(0, 54, 2),
    "fence_saves": Field(0, 56, 2),
    "top": Field(0, 58, 4),
    "in_h": Field(1, 0, 12),
    "in_w": Field(1, 12, 12),
    "out_h": Field(1, 24, 12),
    "out_w": Field(1, 36, 12),
    "images": Field(1, 48, 8),
    "tile_images": Field(1, 56, 8),
    "src": Field(2, 0, 24),
    "dst": Field(2, 24, 24),
    "cache": Field(2, 48, 16),
    "res": Field(3, 0, 24),
    "tile_rows": Field(3, 24, 12),
    "out_words": Field(3, 36, 10),
    "seed": Field(4, 0, 64),
    "offset": Field(5, 0, 32),
    "count": Field(5, 32, 32),
    "mask_signature": Field(6, 0, 64),
    "signature": Field(7, 0, 64),
}

#: Widths of the numbers that units count with: rows and columns of a map, lane words of a pixel,
#: blocks of output channels.
MAP_BITS = FIELDS["in_h"].width
WORD_BITS = FIELDS["in_words"].width
BLOCK_BITS = FIELDS["blocks"].width


def logit_parts(rows: int, bus_bits: int) -> int:
    """Return in how many cycles a pixel is added to the logits: a part of the rows in each."""
    return min(4, rows * 32 // bus_bits)
