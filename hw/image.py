# SPDX-License-Identifier: Apache-2.0
"""Reads the pixels of an image in external memory (layout: docs/spec.md section 6)."""

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hiddenfold.hw import isa
from hiddenfold.hw.axi import COMMAND

#: R, G, B.
PIXEL_BITS = 24

_MEMORY_PIXEL_BITS = 32
_ROW_ALIGNMENT = 16  # bytes
_ROW_PIXELS = 8 * _ROW_ALIGNMENT // _MEMORY_PIXEL_BITS


class PixelReader(wiring.Component):
    """Fetches an image row by row and delivers its pixels without the padding of the rows.

    Up to one pixel per cycle; up to three cycles are lost at the end of a padded row, but only if
    the next pixel is already waited for.

    Parameters
    ----------
    bus_bits
        64 or 128.

    Members
    -------
    start
        Begin; ``address``, ``in_h``, ``in_w`` must be valid from this cycle until ``finished``.
    cmd, data
        Read port: one command per row.
    o
        Pixels, R in bits 7:0, G in 15:8, B in 23:16.
    finished
        All beats of the image were taken; low from the cycle after ``start``.
    next_address
        End of the image's last row, valid while ``finished``.
    """

    def __init__(self, *, bus_bits: int):
        self._bus_bits = bus_bits
        super().__init__(
            {
                "start": In(1),
                "address": In(32),
                "in_h": In(isa.MAP_BITS),
                "in_w": In(isa.MAP_BITS),
                "cmd": Out(stream.Signature(COMMAND)),
                "data": In(stream.Signature(bus_bits)),
                "o": Out(stream.Signature(PIXEL_BITS)),
                "finished": Out(1),
                "next_address": Out(32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        beats_shift = exact_log2(8 * _ROW_ALIGNMENT // self._bus_bits)
        beat_pixels = self._bus_bits // _MEMORY_PIXEL_BITS
        row_units = Signal(isa.MAP_BITS - 1)  # of 16 bytes
        rows_to_ask = Signal(isa.MAP_BITS)
        rows_to_read = Signal(isa.MAP_BITS)
        m.d.comb += [
            row_units.eq((self.in_w + _ROW_PIXELS - 1) >> exact_log2(_ROW_PIXELS)),
            self.cmd.valid.eq(rows_to_ask != 0),
            self.cmd.payload.address.eq(self.next_address),
            self.cmd.payload.beats.eq(row_units << beats_shift),
            self.finished.eq(rows_to_read == 0),
        ]
        with m.If(self.cmd.valid & self.cmd.ready):
            m.d.sync += [
                rows_to_ask.eq(rows_to_ask - 1),
                self.next_address.eq(self.next_address + row_units * _ROW_ALIGNMENT),
            ]

        word = Signal(self._bus_bits)
        held = Signal(range(beat_pixels + 1))
        left = Signal(signed(isa.MAP_BITS + 1))  # pixels of the row, minus one
        place = Signal(range(_ROW_PIXELS))  # within 16 bytes
        padding = Signal()
        take = Signal()
        m.d.comb += [
            padding.eq(left[-1]),
            self.o.valid.eq((held != 0) & ~padding),
            self.o.payload.eq(word),
            take.eq((held != 0) & (padding | self.o.ready)),
            self.data.ready.eq((held == 0) | ((held == 1) & take)),
        ]
        with m.If(take):
            m.d.sync += [
                word.eq(word >> _MEMORY_PIXEL_BITS),
                held.eq(held - 1),
                place.eq(place + 1),
            ]
            with m.If((place == _ROW_PIXELS - 1) & (left <= 0)):
                m.d.sync += [left.eq(self.in_w - 1), rows_to_read.eq(rows_to_read - 1)]
            with m.Elif(~padding):
                m.d.sync += left.eq(left - 1)
        with m.If(self.data.valid & self.data.ready):
            m.d.sync += [word.eq(self.data.payload), held.eq(beat_pixels)]
        with m.If(self.start):
            m.d.sync += [
                self.next_address.eq(self.address),
                rows_to_ask.eq(self.in_h),
                rows_to_read.eq(self.in_h),
                left.eq(self.in_w - 1),
                place.eq(0),
            ]
        return m
