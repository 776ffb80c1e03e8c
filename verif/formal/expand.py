# SPDX-License-Identifier: Apache-2.0
"""Expansion of partly frozen masks against docs/spec.md section 2.1, for every input."""

from amaranth.hdl import Assert, Cover, Module, Mux

from hiddenfold.hw.expand import FREE_VALUES, GROUP, GroupExpander
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
