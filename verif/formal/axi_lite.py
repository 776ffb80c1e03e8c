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
