# SPDX-License-Identifier: Apache-2.0
"""RunControl: each run ends in one way, and counters and watchdog never wrap unseen."""

from amaranth.hdl import Assert, Assume, Cover, Module

from hiddenfold.hw.isa import Error
from hiddenfold.hw.run import RunControl
from hiddenfold.verif.formal.prover import before, inputs, open_up


def harness() -> tuple[Module, list]:
    """RunControl of a 64-bit bus; engine and registers are free."""
    dut = RunControl(bus_bits=64)
    m = Module()
    m.submodules.dut, inner = open_up(dut)
    first = before(m, 0, init=1)
    # What hw/registers.py guarantees: no start while busy, an abort only then (axi_lite.py).
    m.d.comb += [Assume(~(dut.start & (dut.busy | before(m, dut.start))))]
    with m.If(dut.abort):
        m.d.comb += Assume(before(m, dut.busy))
    with m.If(before(m, dut.busy | dut.start) & ~first):
        m.d.comb += Assume(dut.watchdog == before(m, dut.watchdog))

    idle = inner.state("fsm", "IDLE")
    halted = inner.state("fsm", "HALT")
    running = inner.state("fsm", "RUN", "FLUSH")
    m.d.comb += [
        Assert(inner["fsm_state"] < len(inner.states["fsm"])),
        Assert(dut.busy == ~idle),
        # An end is good or bad, comes once, and no error is missed.
        Assert(~(dut.done & dut.fail)),
        Assert(dut.fail == (running & ((dut.error != Error.NONE) | inner["late"] | dut.abort))),
        Assert(dut.code != Error.NONE),
        # No bus transaction begins but in a run.
        Assert(dut.stop == (idle | halted)),
        Assert(dut.clear == (idle & dut.start)),
        Assert(dut.engine_start == inner.state("fsm", "START")),
    ]
    with m.If(before(m, dut.fail)):
        m.d.comb += Assert(halted)
    with m.If(before(m, halted & dut.idle)):
        m.d.comb += Assert(idle)
    with m.If(before(m, dut.done)):
        m.d.comb += Assert(idle)
    with m.If(before(m, running & (dut.watchdog != 0) & (dut.cycles >= dut.watchdog)) & ~first):
        m.d.comb += Assert(halted)

    # CYCLES counts each cycle of a run; every other counter counts one event or beat in a cycle,
    # and only then. All begin at 0 together: so none passes its end before CYCLES has come to
    # 2^61, which takes 700 years at 100 MHz. The watchdog compares all 64 bits.
    for name in RunControl.COUNTERS:
        counter = getattr(dut, name)
        old = before(m, counter)
        shift = 3 if name.endswith("bytes") else 0
        m.d.comb += Assert(counter[:shift] == 0)
        with m.If(before(m, dut.clear)):
            m.d.comb += Assert(counter == 0)
        with m.Elif(~first):
            step = (counter - old)[: len(counter)]
            m.d.comb += Assert((step == 0) | (step == 1 << shift))
            with m.If(before(m, ~dut.busy)):
                m.d.comb += Assert(counter == old)
    with m.If(before(m, dut.busy) & ~first):
        m.d.comb += Assert(dut.cycles == (before(m, dut.cycles) + 1)[:64])
    m.d.comb += [
        Cover(dut.done & (dut.read_bytes == 16)),
        Cover(dut.fail & (dut.code == Error.WATCHDOG)),
        Cover(dut.fail & (dut.code == Error.ABORTED) & (dut.cycles > 3)),
        Cover(dut.start & before(m, halted)),
    ]
    return m, inputs(dut)
