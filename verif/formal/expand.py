# SPDX-License-Identifier: Apache-2.0
"""Expansion of partly frozen masks against docs/spec.md section 2.1, for every input."""

from amaranth.hdl import Assert, Cover, Module, Mux

from hiddenfold.hw.expand import FREE_VALUES, GROUP, Expander, GroupExpander
from hiddenfold.verif.formal.prover import inputs


def harness() -> tuple[Module, list]:
    """Stored bits come to their channels, the others are the freeze word's: nothing is lost."""
    dut = GroupExpander()
    m = Module()
    m.submodules.dut = dut
    rotation = (dut.sign ^ dut.freeze)[:3]
    for free in range(FREE_VALUES):
        count = GROUP >> free
        with m.If(dut.free == free):
            for j in range(GROUP):
                bit = Mux(free == 0, j, (rotation + j) % GROUP)
                expected = dut.stored[j] if j < count else dut.freeze.bit_select(bit, 1)
                m.d.comb += Assert(dut.mask.bit_select(bit, 1) == expected)
            m.d.comb += Cover((dut.mask == 0xA5) & (rotation == 3))
    return m, inputs(dut)


def harness_row(width: int = 64) -> tuple[Module, list]:
    """The stored bits of a row lie one group behind the other, without gaps."""
    dut = Expander(width=width)
    m = Module()
    m.submodules.dut = dut
    for number in range(width // GROUP):
        one = GroupExpander()
        m.submodules[f"one{number}"] = one
        sign, freeze, mask = (
            part.word_select(number, GROUP) for part in (dut.sign, dut.freeze, dut.mask)
        )
        m.d.comb += [one.free.eq(dut.free), one.sign.eq(sign), one.freeze.eq(freeze)]
        for free in range(FREE_VALUES):
            count = GROUP >> free
            with m.If(dut.free == free):
                m.d.comb += one.stored.eq(dut.stored[number * count : (number + 1) * count])
        m.d.comb += Assert(mask == one.mask)
    m.d.comb += Cover((dut.free == 2) & (dut.mask == 0xA5))
    return m, inputs(dut)
