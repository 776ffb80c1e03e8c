# SPDX-License-Identifier: Apache-2.0
"""Rules of hw/axi_write.py's WriteChannel, for any producer and any memory that keeps to AXI4."""

from amaranth.hdl import Assert, Assume, Cat, Cover, Module, Signal

from hiddenfold.hw.axi_write import WriteChannel
from hiddenfold.verif.formal.prover import assert_stable, before, inputs, open_up

_BOUNDARY = 4096


def harness(*, longest: int = 4, outstanding: int = 2) -> tuple[Module, list]:
    """WriteChannel with a 32-bit bus."""
    beat_bits = 2
    dut = WriteChannel(data_bits=32, max_burst=longest, outstanding=outstanding)
    m = Module()
    m.submodules.dut, inner = open_up(dut)
    pointer, end, limit = inner["pointer"], inner["end"], inner["limit"]
    beats, level, w_left = inner["length"] + 1, inner["level"], inner["w_left"]
    unanswered, begin = inner["unanswered"], inner["begin"]
    w_beat = dut.m_axi_wvalid & dut.m_axi_wready

    # The memory answers a burst after its address and its last beat: every begun burst but the one
    # that is being sent.
    sending = dut.m_axi_awvalid | (w_left != 0)
    with m.If(dut.m_axi_bvalid):
        m.d.comb += Assume(unanswered > sending)
    # The contract of start: while idle, before the first beat; a beat-aligned address.
    started = Signal()
    with m.If(dut.start):
        m.d.comb += [Assume(~started), Assume(dut.address[:beat_bits] == 0)]
        m.d.sync += started.eq(1)
    with m.If(dut.i.valid):
        m.d.comb += Assume(started)
    with m.If(~started):
        m.d.comb += [
            Assert(level == 0),
            Assert(~sending),
            Assert(inner.state("fsm", "LENGTH", "GATHER")),
        ]

    assert_stable(m, dut.m_axi_awvalid, dut.m_axi_awready, Cat(dut.m_axi_awaddr, dut.m_axi_awlen))
    assert_stable(m, dut.m_axi_wvalid, dut.m_axi_wready, Cat(dut.m_axi_wdata, dut.m_axi_wlast))

    # Beats of the burst sent so far; WLAST comes with the last of AWLEN + 1.
    sent = Signal(8)
    with m.If(begin):
        m.d.sync += sent.eq(0)
    with m.Elif(w_beat):
        m.d.sync += sent.eq(sent + 1)
    with m.If(sending):
        m.d.comb += Assert(w_left + sent == dut.m_axi_awlen + 1)
    with m.If(dut.m_axi_wvalid):
        m.d.comb += [
            Assert(dut.m_axi_wlast == (sent == dut.m_axi_awlen)),
            Assert(dut.m_axi_wstrb == 0xF),
            Assert(unanswered != 0),
        ]
    size = (dut.m_axi_awlen + 1) << beat_bits
    with m.If(dut.m_axi_awvalid):
        m.d.comb += [
            Assert(dut.m_axi_awaddr[:12] + size <= _BOUNDARY),
            Assert(dut.m_axi_awaddr[:beat_bits] == 0),
            Assert(dut.m_axi_awlen < longest),
            Assert(dut.m_axi_awaddr + size <= limit),
            Assert(dut.m_axi_awaddr + size <= 1 << 32),
            Assert(unanswered != 0),
        ]

    # What a burst sends is in the FIFO when it begins.
    held = inner["fifo.stored"] + inner["fifo.read_valid"] + inner["fifo.o__valid"]
    m.d.comb += [
        Assert(level + w_left == held),
        Assert(inner["fifo.stored"] <= 2 * longest),
        Assert(w_left <= longest),
        Assert(inner["sending"] == (w_left != 0)),
        Assert(unanswered <= outstanding),
        Assert(unanswered >= sending),
        Assert(pointer[:beat_bits] == 0),
        Assert(inner["fsm_state"] < len(inner.states["fsm"])),
    ]
    until_boundary = _BOUNDARY - pointer[:12]
    with m.If(inner.state("fsm", "GATHER") & started & ~before(m, dut.start)):
        m.d.comb += [
            Assert((inner["longest"] + 1) << beat_bits <= until_boundary),
            Assert(inner["longest"] < longest),
        ]
    with m.If(inner.state("fsm", "END", "CHECK", "SEND")):
        m.d.comb += [
            Assert(beats <= level),
            Assert(beats <= longest),
            Assert(beats << beat_bits <= until_boundary),
        ]
    with m.If(inner.state("fsm", "CHECK", "SEND")):
        m.d.comb += Assert(end == (pointer + (beats << beat_bits))[: len(end)])
    with m.If(inner.state("fsm", "SEND")):
        m.d.comb += Assert(dut.error_window | ((end <= limit) & ~pointer[32]))

    halted = dut.stop | dut.error_bus | dut.error_window
    with m.If(before(m, halted & ~sending)):
        m.d.comb += Assert(~sending)
    with m.If(before(m, dut.m_axi_bvalid & dut.m_axi_bresp[1])):
        m.d.comb += Assert(dut.error_bus)
    with m.If(before(m, dut.error_bus)):
        m.d.comb += Assert(dut.error_bus)
    with m.If(before(m, dut.error_window)):
        m.d.comb += Assert(dut.error_window)
    with m.If(dut.idle):
        m.d.comb += [Assert(unanswered == 0), Assert(~sending), Assert((level == 0) | halted)]
    m.d.comb += [
        Assert(dut.m_axi_bready),
        Assert(dut.beat == before(m, w_beat)),
        Cover(begin & (beats == longest) & (unanswered == outstanding - 1)),
        Cover(begin & (beats == 1) & (pointer[:12] == _BOUNDARY - 4)),
        Cover(dut.error_bus & dut.idle & (level != 0)),
        Cover(dut.error_window & dut.idle),
    ]
    return m, inputs(dut)
