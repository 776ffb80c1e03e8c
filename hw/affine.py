# SPDX-License-Identifier: Apache-2.0
"""Reads a layer's affine record, holds the constants of one block (docs/spec.md section 6)."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hiddenfold.hw import isa
from hiddenfold.hw.signature import Signature


class AffineLoader(wiring.Component):
    """Shifts a block's ``rows`` entries into a shadow table while the active one is in use.

    Members
    -------
    start, blocks
        Begin a record of ``blocks * rows`` entries.
    i
        Words of the affine stream.
    full, take
        The shadow table is complete; copy it to the active one and go on with the next block.
    multiplier, bias
        The active table: ``rows`` numbers of 16 and 24 bits.
    shift, residual
        S and R of the layer, valid when ``full`` or later.
    error
        High from the end of a record whose signature was wrong to the next reset.
    """

    def __init__(self, *, rows: int):
        self._rows = rows
        super().__init__(
            {
                "start": In(1),
                "blocks": In(isa.BLOCK_BITS),
                "i": In(stream.Signature(64)),
                "full": Out(1),
                "take": In(1),
                "multiplier": Out(rows * 16),
                "bias": Out(rows * 24),
                "shift": Out(5),
                "residual": Out(16),
                "error": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.check = check = Signature()
        word = self.i.payload
        expected = Signal(64)
        block = Signal(isa.BLOCK_BITS)
        last_block = Signal.like(block)
        m.d.sync += last_block.eq(self.blocks - 1)
        row = Signal(range(self._rows))
        shadow_multiplier = Signal.like(self.multiplier, reset_less=True)
        shadow_bias = Signal.like(self.bias, reset_less=True)
        multiplier = Signal.like(self.multiplier, reset_less=True)
        bias = Signal.like(self.bias, reset_less=True)
        m.d.comb += [self.multiplier.eq(multiplier), self.bias.eq(bias)]
        m.d.comb += check.data.eq(word)
        with m.If(self.take):
            m.d.sync += [
                self.full.eq(0),
                multiplier.eq(shadow_multiplier),
                bias.eq(shadow_bias),
            ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += check.clear.eq(1)
                with m.If(self.start):
                    m.d.sync += [block.eq(0), row.eq(0)]
                    m.next = "HEAD"
            with m.State("HEAD"):
                m.d.comb += [self.i.ready.eq(1), check.en.eq(self.i.valid)]
                with m.If(self.i.valid):
                    m.d.sync += Cat(self.residual, self.shift).eq(word)
                    m.next = "SIGNATURE"
            with m.State("SIGNATURE"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    m.d.sync += expected.eq(word)
                    m.next = "ENTRIES"
            with m.State("ENTRIES"):
                m.d.comb += [self.i.ready.eq(~self.full), check.en.eq(self.i.valid & ~self.full)]
                with m.If(self.i.valid & ~self.full):
                    m.d.sync += [
                        row.eq(row + 1),
                        shadow_multiplier.eq(Cat(shadow_multiplier[16:], word[:16])),
                        shadow_bias.eq(Cat(shadow_bias[24:], word[16:40])),
                    ]
                    with m.If(row == self._rows - 1):
                        m.d.sync += [row.eq(0), block.eq(block + 1)]
                        with m.If(block == last_block):
                            m.next = "CHECK"
                        with m.Else():
                            m.d.sync += self.full.eq(1)
            with m.State("CHECK"):
                # The last block's constants become usable only when the whole record is proven.
                with m.If(check.value != expected):
                    m.d.sync += self.error.eq(1)
                with m.Else():
                    m.d.sync += self.full.eq(1)
                m.next = "IDLE"
        return m
