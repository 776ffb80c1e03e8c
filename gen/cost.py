# SPDX-License-Identifier: Apache-2.0
"""Cycles of instructions that leave the bus alone, and bytes of an image.

The constants are cycles of the hardware's state machines.
"""

from __future__ import annotations

from hiddenfold.gen.bus import ARRIVE, IMAGE, Bus
from hiddenfold.gen.target import Target
from hiddenfold.gen.tiling import Stripe
from hiddenfold.sw.shapes import Shape

__all__ = ["ask_image", "image_end", "image_pitch", "pool_cycles", "store_cycles"]

#: Cycles of POOL besides its taps and rows.
_POOL = 7
#: Cycles of STORE besides its beats.
_STORE = 3
#: Beats of an image that are looked at together.
_PART = 16
#: Cycles from a row's first pixel at the reader to its scan, and from the last scan to the end.
_SCAN = 1
_SCANNED = 3


def image_pitch(width: int) -> int:
    """Bytes of a row of an image in external memory: whole 16-byte units (spec section 6)."""
    return -(-4 * width // 16) * 16


def pool_cycles(width: int, result: Shape, rows: int, target: Target, kernel: int) -> int:
    """Cycles of a POOL that computes `rows` rows from maps of some width.

    A tap of a word, or of a part of it, takes a cycle, whether it is in the tensor or not; before
    that the words of a row are counted, in a cycle for each bit of the width.
    """
    words = -(-result.channels // target.lanes)
    parts = words * target.lanes // target.part_lanes
    setup = width.bit_length() + kernel // 2 + _POOL
    return setup + rows * (1 + result.width * parts * kernel**2)


def store_cycles(words: int, target: Target) -> int:
    """Cycles of a STORE to memory that takes what it gets."""
    beats = 8 * target.lanes // target.bus_bits
    return _STORE + words * beats


def _row_beats(width: int, target: Target) -> int:
    return image_pitch(width) * 8 // target.bus_bits


def ask_image(bus: Bus, start: int, width: int, stripe: Stripe, target: Target) -> int:
    """Ask for the rows of an IMAGE that starts in cycle `start`; return its first beat's number.

    Each row is a command of its own.
    """
    return bus.ports[IMAGE].command(start + 1, _row_beats(width, target), stripe.in_rows)


def image_end(
    bus: Bus,
    start: int,
    beat: int,
    width: int,
    stripe: Stripe,
    result: Shape,
    target: Target,
    kernel: int,
    stride: int,
) -> int:
    """The cycle in which an IMAGE that starts in cycle `start` is done; `beat` is its first one.

    The image is scanned with its padding; an output pixel takes a cycle for each word. It is
    written when the last pixel of its window comes.
    """
    beats = _row_beats(width, target)
    words = -(-result.channels // target.lanes)
    port = bus.ports[IMAGE]
    edge = kernel // 2
    scan = width + edge
    made = result.width * (words - 1)
    first = edge + stripe.top
    last = first + (stripe.rows - 1) * stride

    def row_cycles(row: int) -> int:
        writes = first <= row <= last and (row - first) % stride == 0
        return scan + (made if writes else 0)

    scanned = float(start + 1)
    for row in range(stripe.in_rows):
        # The reader goes through the padding of a row in memory pixel by pixel, too.
        cycles = max(row_cycles(row), image_pitch(width) // 4)
        # The FIFO may hold less than a row.
        for part in range(0, beats, _PART):
            count = min(_PART, beats - part)
            begin = bus.arrival(IMAGE, beat) + ARRIVE + _SCAN
            beat += count
            end = bus.arrival(IMAGE, beat - 1) + ARRIVE + _SCAN + target.bus_bits // 32
            scanned = max(max(scanned, begin) + cycles * count / beats, end)
            port.take(beat, round(scanned))
    below = range(stripe.in_rows, stripe.in_rows + edge)
    return round(scanned + sum(map(row_cycles, below))) + _SCANNED
