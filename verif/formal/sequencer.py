# SPDX-License-Identifier: Apache-2.0
"""The sequencer, for any memory contents: it stays inside its program and checks before it acts.

Instructions are free: whatever 64 bytes the memory gives, with a signature that fits or not.
"""

from amaranth.hdl import Assert, Assume, Cover, Module, Signal

from hiddenfold.hw.isa import BYTES, Error, Opcode
from hiddenfold.hw.sequencer import Sequencer
from hiddenfold.verif.formal.prover import before, inputs, open_up

_TARGET = 5
_CHECK = {
    "planes": 2,
    "depth": 64,
    "act_words": 8192,
    "image_width": 64,
    "stem_kernel": 7,
    "mask_cache": 4096,
    "lanes": 16,
    "bus_bits": 64,
}


def harness() -> tuple[Module, list]:
    """Sequencer of the target sim-tiny; memory, units and registers are free."""
    dut = Sequencer(target_id=_TARGET, rows=4, bus_bits=64, check=_CHECK)
    m = Module()
    m.submodules.dut, inner = open_up(dut)
    first = before(m, 0, init=1)
    i = dut.instruction
    begun, loop_left, loop_start = inner["begun"], inner["loop_left"], inner["loop_start"]
    fetch, next_pc, fetch_pc = inner["start"], inner["next_pc"], inner["fetch_pc"]
    # (The fetcher's inputs are driven here: they have no path.)
    execute = inner.state("fsm", "EXECUTE")

    # A run: start comes once and first; units are done only while one works; registers are stable.
    started, working = Signal(), Signal()
    with m.If(dut.start):
        m.d.comb += Assume(~started)
        m.d.sync += started.eq(1)
    with m.If(~started):
        m.d.comb += Assert(inner.state("fsm", "IDLE"))
    with m.If(dut.unit_start.any()):
        m.d.sync += working.eq(1)
    with m.Elif(dut.unit_done.any()):
        m.d.sync += working.eq(0)
    m.d.comb += Assume(~dut.unit_done.any() | working)
    with m.If(~first):
        for name in ("images", "program", "image", "scratch_size"):
            m.d.comb += Assume(getattr(dut, name) == before(m, getattr(dut, name)))

    # Where it fetches: the beginning, the next instruction, or the body of the open loop.
    m.d.comb += [
        Assert(inner["fsm_state"] < len(inner.states["fsm"])),
        Assert(dut.pc[:6] == 0),
        Assert(fetch_pc[:6] == 0),
        Assert(loop_start[:6] == 0),
        Assert(working == inner.state("fsm", "UNIT")),
    ]
    backward = Signal()
    m.d.comb += backward.eq(fetch & (next_pc != (dut.pc + BYTES)[:32]))
    with m.If(fetch):
        m.d.comb += Assert(inner["offset"] == next_pc)
    with m.If(backward):
        m.d.comb += Assert(
            inner.state("fsm", "IDLE")
            | (execute & (i.opcode == Opcode.END) & (next_pc == 0))
            | (execute & (i.opcode == Opcode.ENDLOOP) & (next_pc == loop_start))
        )
    with m.If(before(m, fetch)):
        m.d.comb += Assert(fetch_pc == before(m, next_pc))
        m.d.comb += [
            Assert(inner["fetcher.begin"]),
            Assert(inner["fetcher.offset"] == fetch_pc),
        ]
    with m.If(before(m, inner["fetcher.begin"] & ~fetch)):
        m.d.comb += Assert(dut.cmd.valid & (dut.cmd.p.address == (dut.program + fetch_pc)[:32]))
        m.d.comb += Assert(dut.cmd.p.beats == 8)

    # Why it ends: going back takes an iteration of the loop, or finishes images of the run.
    left, done = before(m, loop_left), before(m, dut.images_done)
    with m.If(before(m, execute & backward) & (dut.error == Error.NONE)):
        m.d.comb += Assert((loop_left < left) | (dut.images_done > done))
    m.d.comb += Assert(dut.images_done <= dut.images)
    with m.If(dut.repeated):
        m.d.comb += Assert(loop_left != 0)
    with m.If(dut.finished):
        m.d.comb += [
            Assert(i.opcode == Opcode.END),
            Assert((dut.loads == 0) & (dut.saves == 0)),
            Assert(loop_left == 0),
        ]
    with m.If(before(m, dut.finished)):
        m.d.comb += Assert(dut.images_done == dut.images)

    # What it does: one thing at a time, after BEGIN, with good fields, never after an error.
    dispatched = dut.unit_start.any() | dut.load_valid | dut.save_valid | dut.finished
    one = sum(dut.unit_start) + dut.load_valid + dut.save_valid + dut.finished
    with m.If(dispatched):
        m.d.comb += [
            Assert(one == 1),
            Assert(execute & begun & ~working),
            Assert(dut.error == Error.NONE),
            Assert(~inner["check.field_error"] & ~inner["check.window_error"]),
            Assert((i.fence_loads == 0) | (dut.loads < i.fence_loads)),
            Assert((i.fence_saves == 0) | (dut.saves < i.fence_saves)),
        ]
    with m.If(before(m, dut.error != Error.NONE)):
        m.d.comb += Assert(dut.error == before(m, dut.error))
    failed = inner.state("fsm", "FAILED")
    m.d.comb += Assert((dut.error != Error.NONE) == failed)
    with m.If(dut.upcoming_valid):
        m.d.comb += [
            Assert(dut.upcoming.opcode == Opcode.CONV),
            Assert(inner["fetcher.good"]),
            Assert(dut.upcoming_pc == (dut.pc + BYTES)[:32]),
        ]
    with m.If(inner.state("fsm", "UNIT")):
        m.d.comb += Assert(fetch_pc == (dut.pc + BYTES)[:32])
    m.d.comb += [
        Cover(begun),
        Cover(failed & (dut.error == Error.INSTRUCTION_SIGNATURE)),
    ]
    return m, inputs(dut)
