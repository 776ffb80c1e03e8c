# SPDX-License-Identifier: Apache-2.0
"""Splits wide stream words into narrow ones and joins narrow ones to wide ones."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


class Splitter(wiring.Component):
    """Passes each word of ``in_bits`` on as ``in_bits // out_bits`` words, lowest bits first.

    Combinational from ``i`` to ``o``; one narrow word a cycle.

    Members
    -------
    i, o
        Streams of ``in_bits`` and ``out_bits``.
    """

    def __init__(self, *, in_bits: int, out_bits: int):
        if in_bits % out_bits:
            raise ValueError(f"width {in_bits!r} must be a multiple of {out_bits!r}")
        super().__init__({"i": In(stream.Signature(in_bits)), "o": Out(stream.Signature(out_bits))})

    def elaborate(self, platform):
        m = Module()
        parts = len(self.i.payload) // len(self.o.payload)
        part = Signal(range(parts))
        m.d.comb += [
            self.o.valid.eq(self.i.valid),
            self.o.payload.eq(self.i.payload.word_select(part, len(self.o.payload))),
            self.i.ready.eq(self.o.ready & (part == parts - 1)),
        ]
        if parts > 1:
            with m.If(self.o.valid & self.o.ready):
                m.d.sync += part.eq(part + 1)
        return m


class Joiner(wiring.Component):
    """Joins ``out_bits // in_bits`` words of ``in_bits`` to one, the first in the lowest bits.

    One word in a cycle; without words to join it is combinational from ``i`` to ``o``.

    Members
    -------
    i, o
        Streams of ``in_bits`` and ``out_bits``.
    """

    def __init__(self, *, in_bits: int, out_bits: int):
        if out_bits % in_bits:
            raise ValueError(f"width {out_bits!r} must be a multiple of {in_bits!r}")
        super().__init__({"i": In(stream.Signature(in_bits)), "o": Out(stream.Signature(out_bits))})

    def elaborate(self, platform):
        m = Module()
        parts = len(self.o.payload) // len(self.i.payload)
        if parts == 1:
            wiring.connect(m, wiring.flipped(self.i), wiring.flipped(self.o))
            return m
        left = Signal(range(parts), init=parts - 1)  # words to come, minus one
        word = Signal.like(self.o.payload, reset_less=True)
        m.d.comb += [self.o.payload.eq(word), self.i.ready.eq(~self.o.valid | self.o.ready)]
        with m.If(self.i.ready):
            m.d.sync += self.o.valid.eq(0)
            with m.If(self.i.valid):
                m.d.sync += [
                    word.eq(Cat(word[len(self.i.payload) :], self.i.payload)),
                    self.o.valid.eq(left == 0),
                    left.eq(Mux(left == 0, parts - 1, left - 1)),
                ]
        return m
