# SPDX-License-Identifier: Apache-2.0
"""Reads a layer's affine record, holds the constants of one block (docs/spec.md section 6)."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hiddenfold.hw import isa
from hiddenfold.hw.signature import Signature

#: Bits of a multiplier and of a bias: an entry.
MULTIPLIER_BITS = 16
BIAS_BITS = 24
ENTRY_BITS = MULTIPLIER_BITS + BIAS_BITS


class ConstantTable(wiring.Component):
    """The entries of a block, of which ``drain_rows`` are wanted at once; and those of the next.

    Without parts the shadow table is a shift register, whose contents the active one takes over.
    Else both lie in small memories, one for each of the ``drain_rows``, and change places.

    Members
    -------
    en, entry
        Put one more entry into the shadow table.
    take
        The shadow table is complete; make it the active one.
    part
        Which ``drain_rows`` of the active table are wanted. Not in the two cycles from ``take`` on.
    multiplier, bias
        Those of the ``part`` of the cycle before, and of that two cycles before.
    """

    def __init__(self, *, rows: int, drain_rows: int):
        self._parts = rows // drain_rows
        super().__init__(
            {
                "en": In(1),
                "entry": In(ENTRY_BITS),
                "take": In(1),
                "part": In(range(self._parts)),
                "multiplier": Out(drain_rows * MULTIPLIER_BITS),
                "bias": Out(drain_rows * BIAS_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        rows = len(self.multiplier) // MULTIPLIER_BITS
        multiplier = Signal.like(self.multiplier, reset_less=True)
        bias = Signal.like(self.bias, reset_less=True)
        m.d.comb += [self.multiplier.eq(multiplier), self.bias.eq(bias)]
        if self._parts == 1:
            shadow = [Signal.like(s, name=f"shadow_{s.name}") for s in (multiplier, bias)]
            ends = self.entry[:MULTIPLIER_BITS], self.entry[MULTIPLIER_BITS:]
            with m.If(self.en):
                m.d.sync += [s.eq(Cat(s[len(e) :], e)) for s, e in zip(shadow, ends, strict=True)]
            with m.If(self.take):
                m.d.sync += Cat(multiplier, bias).eq(Cat(shadow))
            return m

        active = Signal()
        row = Signal(range(rows))
        part = Signal.like(self.part)  # of the shadow table
        with m.If(self.en):
            m.d.sync += Cat(row, part).eq(Cat(row, part) + 1)
        with m.If(self.take):
            m.d.sync += active.eq(~active)
        early = Signal.like(bias, reset_less=True)
        m.d.sync += bias.eq(early)
        for number in range(rows):
            table = memory.Memory(shape=ENTRY_BITS, depth=2 * self._parts, init=[])
            m.submodules[f"table{number}"] = table
            write, read = table.write_port(), table.read_port(domain="comb")
            m.d.comb += [
                write.addr.eq(Cat(part, ~active)),
                write.data.eq(self.entry),
                write.en.eq(self.en & (row == number)),
                read.addr.eq(Cat(self.part, active)),
            ]
            m.d.sync += Cat(
                multiplier.word_select(number, MULTIPLIER_BITS),
                early.word_select(number, BIAS_BITS),
            ).eq(read.data)
        return m


class AffineLoader(wiring.Component):
    """Reads a block's ``rows`` entries into a shadow table while the active one is in use.

    Members
    -------
    start, blocks
        Begin a record of ``blocks * rows`` entries.
    i
        Words of the affine stream.
    full, take
        The shadow table is complete; copy it to the active one and go on with the next block.
    part, multiplier, bias
        The active table, see ``ConstantTable``.
    shift, residual
        S and R of the layer, valid when ``full`` or later.
    error
        High from the end of a record whose signature was wrong to the next reset.
    """

    def __init__(self, *, rows: int, drain_rows: int):
        self._rows = rows
        self._table = ConstantTable(rows=rows, drain_rows=drain_rows)
        super().__init__(
            {
                "start": In(1),
                "blocks": In(isa.BLOCK_BITS),
                "i": In(stream.Signature(64)),
                "full": Out(1),
                "take": In(1),
                "part": In(range(rows // drain_rows)),
                "multiplier": Out(drain_rows * MULTIPLIER_BITS),
                "bias": Out(drain_rows * BIAS_BITS),
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
        m.submodules.table = table = self._table
        m.d.comb += [
            table.entry.eq(word),
            table.take.eq(self.take),
            table.part.eq(self.part),
            self.multiplier.eq(table.multiplier),
            self.bias.eq(table.bias),
            check.data.eq(word),
        ]
        with m.If(self.take):
            m.d.sync += self.full.eq(0)
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
                    m.d.comb += table.en.eq(1)
                    m.d.sync += row.eq(row + 1)
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
