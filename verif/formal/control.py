# SPDX-License-Identifier: Apache-2.0
"""RunControl: each run ends in one way, and no event or cycle of it is lost."""

from amaranth.hdl import Assert, Assume, Cat, Const, Cover, Module, Mux, Signal

from hiddenfold.hw.counters import Counters
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
    # And hw/engine.py makes ``failed`` and ``error`` of the same faults; that the sequencer's own
    # two agree is proved in sequencer.py.
    m.d.comb += [
        Assume(~(dut.start & (dut.busy | before(m, dut.start)))),
        Assume(dut.failed == (dut.error != Error.NONE)),
    ]
    with m.If(dut.abort):
        m.d.comb += Assume(before(m, dut.busy))
    with m.If(before(m, dut.busy | dut.start) & ~first):
        m.d.comb += Assume(dut.watchdog == before(m, dut.watchdog))

    idle = inner.state("fsm", "IDLE")
    halted = inner.state("fsm", "HALT")
    running = inner.state("fsm", "RUN", "FLUSH")
    settling = inner.state("fsm", "SETTLE")
    m.d.comb += [
        Assert(inner["fsm_state"] < len(inner.states["fsm"])),
        Assert(dut.busy == ~idle),
        # An end is good or bad, comes once, and no error is missed.
        Assert(~(dut.done & dut.fail)),
        Assert(dut.fail == (running & ((dut.error != Error.NONE) | inner["late"] | dut.abort))),
        Assert(dut.code != Error.NONE),
        # No bus transaction begins but in a run.
        Assert(dut.stop == (idle | halted | settling)),
        Assert(inner["clear"] == (idle & dut.start)),
        # The engine works in a run and for one cycle before it, and what it did stays readable.
        Assert(dut.rest == ((idle & ~dut.start) | settling)),
        Assert(dut.engine_start == inner.state("fsm", "START")),
    ]
    with m.If(before(m, dut.fail)):
        m.d.comb += Assert(halted)
    with m.If(before(m, halted & dut.idle)):
        m.d.comb += Assert(settling)
    with m.If(before(m, dut.done)):
        m.d.comb += Assert(idle)
    with m.If(dut.done):
        m.d.comb += Assert(settling & (inner["settle"] == Counters.SETTLE - 1))

    # CYCLES counts each cycle of a run until the counters settle, every other counter its event.
    # All begin at 0 together, so none passes its end before CYCLES has come to 2^61, which takes
    # 700 years at 100 MHz.
    counting = dut.busy & ~settling
    names = [name.removesuffix("s") for name in RunControl.COUNTERS[3:]]
    events = Cat(1, dut.read_beat, dut.write_beat, *(getattr(dut, name) for name in names))
    m.d.comb += [
        Assert(inner["events"] == Mux(counting, events, 0)),
        # They are read when all is in.
        Assert(~settling | (inner["settle"] == 0) | ~before(m, counting)),
        Assert(settling | (inner["settle"] == 0)),
    ]
    cycles = Signal(64)
    with m.If(inner["clear"]):
        m.d.sync += cycles.eq(0)
    with m.Elif(counting):
        m.d.sync += cycles.eq(cycles + 1)
    m.d.comb += Assume(~cycles.all())
    left = (dut.watchdog - cycles)[:32]
    with m.If(dut.busy):
        m.d.comb += [
            Assert(inner["clock_left"] == Mux(cycles >= dut.watchdog, 0, left) - 1),
            Assert(inner["watching"] == (dut.watchdog != 0)),
            Assert(inner["late"] == ((dut.watchdog != 0) & (cycles >= dut.watchdog))),
        ]
    with m.If(before(m, running & (dut.watchdog != 0) & (cycles >= dut.watchdog)) & ~first):
        m.d.comb += Assert(halted)
    m.d.comb += [
        Cover(settling & inner["well"]),
        Cover(dut.fail & (dut.code == Error.WATCHDOG)),
        Cover(dut.fail & (dut.code == Error.ABORTED) & (cycles > 3)),
        Cover(settling & ~inner["well"]),
    ]
    return m, inputs(dut)


def harness_counters() -> tuple[Module, list]:
    """Counters: what is shown, and what waits beside it, is every event since the last clear."""
    shifts = (0, 3, 0)
    dut = Counters(shifts=shifts)
    m = Module()
    m.submodules.dut, inner = open_up(dut)
    count = len(shifts)
    turn, number, amount = inner["turn"], inner["number"], inner["amount"]
    m.d.comb += [
        Assume(~(dut.read & before(m, dut.read))),
        Assume(dut.number < count),
        Assert(turn < count),
        Assert(number < count),
    ]
    for k, shift in enumerate(shifts):
        total = Signal(64, name=f"total{k}")
        with m.If(dut.clear):
            m.d.sync += total.eq(0)
        with m.Elif(dut.events[k]):
            m.d.sync += total.eq(total + (1 << shift))
        pending = inner[f"pending{k}"]
        shown = Mux(inner["fresh"][k], 0, inner.word("totals", Const(k, 2)))
        waiting = (pending << shift) + Mux(number == k, amount, 0)
        visits = (turn + count - k - 1) % count  # of other counters, since the last one of this
        m.d.comb += [
            Assert(total == (shown + waiting)[:64]),
            Assert(pending <= 1 + 2 * visits + before(m, dut.read)),
        ]
        with m.If(dut.read & (dut.number == k)):
            m.d.comb += Assert(dut.value == shown)
    m.d.comb += Cover(dut.read & (dut.value == 16))
    return m, inputs(dut)
