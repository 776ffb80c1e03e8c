# SPDX-License-Identifier: Apache-2.0
"""The generator's circuit against its serial definition (docs/spec.md 1.1), for every state."""

from amaranth.hdl import Assert, Cat, Cover, Module, Signal

from hiddenfold.hw.signature import Signature, leap
from hiddenfold.verif.formal.prover import before, inputs, open_up


def _serial_leap(m: Module, state) -> Signal:
    """Return ``state`` after 64 single steps: shift right, the parity of four bits comes in."""
    for step in range(64):
        stepped = Signal(64, name=f"step{step}")
        m.d.comb += stepped.eq(Cat(state[1:], state[0] ^ state[1] ^ state[3] ^ state[4]))
        state = stepped
    return state


def harness_leap() -> tuple[Module, list]:
    """One leap is 64 steps, and the zero state has no predecessor but itself."""
    state = Signal(64)
    m = Module()
    m.d.comb += [
        Assert(leap(state) == _serial_leap(m, state)),
        Assert((leap(state) == 0) == (state == 0)),
        Cover(leap(state) == 1),
    ]
    return m, [state]


def harness_signature() -> tuple[Module, list]:
    """The signature of two words a cycle is that of one word twice."""
    dut = Signature(words=2)
    m = Module()
    m.submodules.dut, _ = open_up(dut)
    old = before(m, dut.value, init=-1)
    low, high = before(m, dut.data[:64]), before(m, dut.data[64:])
    expected = _serial_leap(m, _serial_leap(m, old) ^ low) ^ high
    first = before(m, 0, init=1)
    with m.If(first | before(m, dut.clear)):
        m.d.comb += Assert(dut.value == (1 << 64) - 1)
    with m.Elif(before(m, dut.en)):
        m.d.comb += Assert(dut.value == expected)
    with m.Else():
        m.d.comb += Assert(dut.value == old)
    m.d.comb += Cover((dut.value == 0) & ~first)
    return m, inputs(dut)
