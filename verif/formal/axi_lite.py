# SPDX-License-Identifier: Apache-2.0
"""AXI4-Lite slave and status flags of hw/registers.py, for any master and any core."""

from amaranth.hdl import Assert, Cat, Cover, Module, Signal

from hiddenfold.hw import regmap
from hiddenfold.hw.registers import Registers
from hiddenfold.verif.formal.prover import assert_stable, before, inputs, open_up


def harness() -> tuple[Module, list]:
    """Registers of a small target; master and core are free."""
    dut = Registers(target_id=5, rows=8, lanes=16, planes=2, bus_bits=64)
    m = Module()
    m.submodules.dut, inner = open_up(dut)

    assert_stable(m, dut.s_axi_bvalid, dut.s_axi_bready, dut.s_axi_bresp)
    assert_stable(m, dut.s_axi_rvalid, dut.s_axi_rready, Cat(dut.s_axi_rdata, dut.s_axi_rresp))

    # Transfers that lack their response. Every write is answered once, and so is every read.
    addresses, words, reads = Signal(3), Signal(3), Signal(3)
    address = dut.s_axi_awvalid & dut.s_axi_awready
    word = dut.s_axi_wvalid & dut.s_axi_wready
    read = dut.s_axi_arvalid & dut.s_axi_arready
    write_answer = dut.s_axi_bvalid & dut.s_axi_bready
    read_answer = dut.s_axi_rvalid & dut.s_axi_rready
    m.d.sync += [
        addresses.eq(addresses + address - write_answer),
        words.eq(words + word - write_answer),
        reads.eq(reads + read - read_answer),
    ]
    m.d.comb += [
        Assert(addresses == ~dut.s_axi_awready + dut.s_axi_bvalid),
        Assert(words == ~dut.s_axi_wready + dut.s_axi_bvalid),
        Assert(reads == (inner["held"] | dut.s_axi_rvalid)),
        Assert(~(inner["held"] & dut.s_axi_rvalid)),
    ]
    with m.If(dut.s_axi_bvalid):
        m.d.comb += [Assert(addresses != 0), Assert(words != 0)]
    with m.If(dut.s_axi_rvalid):
        m.d.comb += Assert(reads != 0)
    # Nothing waits for long: a complete write or read is answered in the next cycle.
    with m.If(before(m, (addresses != 0) & (words != 0) & ~dut.s_axi_bvalid)):
        m.d.comb += Assert(dut.s_axi_bvalid)
    with m.If(before(m, (reads != 0) & ~dut.s_axi_rvalid)):
        m.d.comb += Assert(dut.s_axi_rvalid)
    m.d.comb += [Assert(dut.s_axi_bresp == 0), Assert(dut.s_axi_rresp == 0)]
    _read_back(m, dut, inner)

    # START and ABORT, configuration, interrupt.
    m.d.comb += [
        Assert(~(dut.start & before(m, dut.busy | dut.start))),
        Assert(~(dut.abort & ~before(m, dut.busy | dut.start))),
        Assert(~(dut.start & dut.abort)),
    ]
    configuration = Cat(
        getattr(dut, name.lower())
        for name, register in regmap.REGISTERS.items()
        if register.access == "RW"
    )
    with m.If(before(m, dut.busy | dut.start)):
        m.d.comb += Assert(configuration == before(m, configuration))
    first = before(m, 0, init=1)
    with m.If(before(m, dut.done) & ~first):
        m.d.comb += Assert(inner["status_done"])
    with m.If(before(m, dut.fail) & ~first):
        m.d.comb += [Assert(inner["status_error"]), Assert(inner["error"] == before(m, dut.error))]
    m.d.comb += [
        Assert(dut.irq == (inner["irq_enable"] & (inner["status_done"] | inner["status_error"]))),
        Cover(write_answer & (addresses == 2) & (words == 2)),
        Cover(dut.start & before(m, dut.irq)),
        Cover(dut.abort & dut.s_axi_rvalid),
    ]
    return m, inputs(dut)


def _read_back(m: Module, dut: Registers, inner) -> None:
    """Assert that RDATA is the register at the address; the halves of a counter fit together."""
    held, index = inner["held"], Signal(len(dut.s_axi_araddr) - 2)
    with m.If(dut.s_axi_arvalid & dut.s_axi_arready):
        m.d.sync += index.eq(dut.s_axi_araddr[2:])
    own = ("CONTROL", "STATUS", "ERROR", "ERROR_PC")
    constants = {
        "ID": regmap.ID_VALUE,
        "VERSION": regmap.VERSION_VALUE,
        "TARGET": 5,
        "SHAPE": 8 | 16 << 8 | 2 << 16 | 8 << 24,
    }
    kept, kept_of, kept_valid = Signal(32), Signal.like(index), Signal()
    word, counter, counter_read = Signal(32), Signal.like(dut.counter), Signal()
    wide = [register.offset // 4 for register in regmap.REGISTERS.values() if register.wide]
    with m.Switch(index):
        for name, register in regmap.REGISTERS.items():
            if register.wide:
                continue
            value = constants.get(name)
            if value is None:
                value = inner[name.lower()] if name in own else getattr(dut, name.lower())
            with m.Case(register.offset // 4):
                m.d.comb += word.eq(value)
        for number, low in enumerate(wide):
            with m.Case(low):
                m.d.comb += [counter_read.eq(1), counter.eq(number)]
                m.d.comb += word.eq(dut.counter_value[:32])
                with m.If(held):
                    m.d.sync += [kept.eq(dut.counter_value[32:]), kept_of.eq(low)]
                    m.d.sync += kept_valid.eq(1)
            with m.Case(low + 1):
                m.d.comb += [counter_read.eq(1), counter.eq(number)]
                m.d.comb += word.eq(dut.counter_value[32:])
                with m.If(kept_valid & (kept_of == low)):
                    m.d.comb += word.eq(kept)
                with m.If(held):
                    m.d.sync += kept_valid.eq(0)
    with m.If(before(m, held)):
        m.d.comb += Assert(dut.s_axi_rdata == before(m, word))
    m.d.comb += Assert(dut.counter_read == (held & counter_read))
    with m.If(dut.counter_read):
        m.d.comb += Assert(dut.counter == counter)

    # For induction: what the slave has kept.
    m.d.comb += Assert(inner["high_valid"] == kept_valid)
    with m.If(kept_valid):
        m.d.comb += [
            Assert(inner["high"] == kept),
            Assert(inner["high_of"] == ((kept_of >> 1) - (wide[0] >> 1))[: len(dut.counter)]),
            Assert(Cat(kept_of == low for low in wide).any()),
        ]
    m.d.comb += [
        Cover(held & kept_valid & (index == kept_of + 1) & (kept != dut.counter_value[32:])),
        Cover(dut.s_axi_rvalid & (dut.s_axi_rdata == regmap.ID_VALUE)),
    ]
