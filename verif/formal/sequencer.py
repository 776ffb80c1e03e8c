# SPDX-License-Identifier: Apache-2.0
"""The sequencer, for any memory contents: it stays inside its program and checks before it acts.

Instructions are free: whatever 64 bytes the memory gives, with a signature that fits or not.
"""

from amaranth.hdl import Assert, Assume, Cover, Module, Signal

from hiddenfold.hw.isa import BYTES, TRANSFER_OPCODES, UNIT_OPCODES, Error, Opcode
from hiddenfold.hw.sequencer import Sequencer
from hiddenfold.verif.formal.prover import Internals, before, inputs, open_up

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
    with m.If(inner["goes"].any()):
        m.d.sync += working.eq(1)
    with m.Elif(dut.unit_done.any()):
        m.d.sync += working.eq(0)
    m.d.comb += Assume(~dut.unit_done.any() | working)
    with m.If(~first):
        for name in ("images", "program", "image", "scratch_size"):
            m.d.comb += Assume(getattr(dut, name) == before(m, getattr(dut, name)))

    _invariants(m, dut, inner)

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
        m.d.comb += [
            Assert(inner["offset"] == next_pc),
            Assert(inner.state("fsm", "IDLE") | execute),
        ]
    with m.If(before(m, execute) & inner.state("fsm", "FETCH", "UNIT")):
        m.d.comb += Assert(before(m, fetch))
    with m.If(backward):
        m.d.comb += Assert(
            (inner.state("fsm", "IDLE") & (next_pc == 0))
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
    goes = inner["goes"]  # a unit starts in the next cycle
    m.d.comb += Assert(dut.unit_start == before(m, goes))
    dispatched = goes.any() | dut.load_valid | dut.save_valid | dut.finished
    one = sum(goes) + dut.load_valid + dut.save_valid + dut.finished
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
    m.d.comb += [
        Assert((dut.error != Error.NONE) == failed),
        Assert(dut.failed == failed),
    ]
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


def _invariants(m: Module, dut: Sequencer, inner: Internals) -> None:
    """Assert what the registers between the check and the action hold, cycle by cycle."""
    i = dut.instruction
    begun, loop_left, loop_start = inner["begun"], inner["loop_left"], inner["loop_start"]
    execute = inner.state("fsm", "EXECUTE")
    armed = {opcode: inner[f"armed_{opcode.name.lower()}"] for opcode in Opcode}
    done = Signal(17)
    behind = Signal(32)
    begun_wrong = Signal()
    m.d.comb += [
        done.eq(dut.images_done + i.images),
        behind.eq(dut.pc + BYTES),
        begun_wrong.eq(begun != (i.opcode != Opcode.BEGIN)),
    ]
    # What docs/spec.md says of the instruction, from the instruction alone.
    wrong = Signal(Error)
    next_pc = Signal(32)
    goes_on = Signal(init=1)
    m.d.comb += next_pc.eq(behind)
    with m.Switch(i.opcode):
        with m.Case(Opcode.BEGIN):
            with m.If(i.seed != _TARGET):
                m.d.comb += wrong.eq(Error.TARGET)
        with m.Case(Opcode.END):
            m.d.comb += [next_pc.eq(0), goes_on.eq(done != dut.images)]
            with m.If(loop_left != 0):
                m.d.comb += wrong.eq(Error.LOOP)
            with m.Elif(done > dut.images):
                m.d.comb += wrong.eq(Error.FIELD)
        with m.Case(Opcode.LOOP):
            with m.If((loop_left != 0) | (i.count == 0) | (i.count > 255)):
                m.d.comb += wrong.eq(Error.LOOP)
        with m.Case(Opcode.ENDLOOP):
            with m.If(loop_left == 0):
                m.d.comb += wrong.eq(Error.LOOP)
            with m.If(loop_left != 1):
                m.d.comb += next_pc.eq(loop_start)
        with m.Case(*UNIT_OPCODES):
            pass
        with m.Case(*TRANSFER_OPCODES):
            m.d.comb += goes_on.eq(0)
        with m.Default():
            m.d.comb += wrong.eq(Error.OPCODE)

    with m.If(inner.state("fsm", "CHECK2", "CHECK3", "EXECUTE")):
        m.d.comb += [
            *(Assert(inner[code.name.lower()] == (i.opcode == code)) for code in Opcode),
            Assert(inner["begun_wrong"] == begun_wrong),
            Assert(inner["done"] == done),
            Assert(inner["behind"] == behind),
        ]
    with m.If(inner.state("fsm", "CHECK3", "EXECUTE")):
        m.d.comb += [
            Assert(inner["all_done"] == (done == dut.images)),
            Assert(inner["next_pc"] == next_pc),
            Assert(inner["goes_on"] == goes_on),
            Assert(inner["is_wrong"] == (wrong != Error.NONE)),
            Assert(~inner["is_wrong"] | (inner["wrong"] == wrong)),
        ]
    # Which error is told, if there are several; what waits for transfers is not judged yet.
    found = Signal(Error)
    m.d.comb += found.eq(wrong)
    with m.If(begun_wrong):
        m.d.comb += found.eq(Error.OPCODE)
    with m.Elif(inner["check.field_error"]):
        m.d.comb += found.eq(Error.FIELD)
    with m.Elif(inner["check.window_error"]):
        m.d.comb += found.eq(Error.WINDOW)
    with m.Elif(inner["waiting"]):
        m.d.comb += found.eq(Error.NONE)
    with m.If(before(m, execute)):
        m.d.comb += Assert(dut.error == before(m, found))
    # Only a right instruction is armed, and only to be executed.
    right = execute & ~begun_wrong & (wrong == Error.NONE)
    m.d.comb += [
        *(Assert(flag == (right & (i.opcode == code))) for code, flag in armed.items()),
        Assert(inner["goes_armed"] == (right & goes_on)),
        Assert(inner["behind"][:6] == 0),
        Assert(inner["next_pc"][:6] == 0),
    ]
    with m.If(inner.state("fsm", "IDLE")):
        m.d.comb += Assert(inner["next_pc"] == 0)
