# SPDX-License-Identifier: Apache-2.0
"""Rules of hw/axi_read.py's ReadChannel, for any requesters and any memory that keeps to AXI4."""

from amaranth.hdl import Assert, Assume, Cat, Cover, Module, Mux, Signal

from hiddenfold.hw.axi_read import ReadChannel
from hiddenfold.verif.formal.prover import assert_stable, before, inputs, open_up

_BOUNDARY = 4096


def splitter_invariants(
    m: Module, inner, path: str, *, base, limit, beat_bits: int, longest: int
) -> None:
    """Assert what each state of a BurstSplitter knows about its registers."""
    fsm = f"{path}fsm"
    address, end = inner[f"{path}address"], inner[f"{path}end"]
    left, beats = inner[f"{path}left"], inner[f"{path}beats"]
    size = beats << beat_bits
    within = Signal(name="within")
    m.d.comb += within.eq(
        (beats != 0) & (beats <= longest) & (address[:12] + size <= _BOUNDARY) & (beats <= left)
    )
    m.d.comb += Assert(address[:beat_bits] == 0)
    m.d.comb += Assert(inner[f"{fsm}_state"] < len(inner.states[fsm]))
    with m.If(inner.state(fsm, "LENGTH", "END", "CHECK", "OFFER")):
        m.d.comb += Assert(left != 0)
    with m.If(inner.state(fsm, "END", "CHECK", "OFFER")):
        m.d.comb += Assert(within)
    with m.If(inner.state(fsm, "CHECK", "OFFER")):
        m.d.comb += Assert(end == (address + size)[: len(end)])
    window = Signal(name="window")
    m.d.comb += window.eq((address >= base) & (end <= limit) & ~address[32])
    with m.If(inner.state(fsm, "OFFER")):
        m.d.comb += Assert(window)


def harness(*, outstanding: int = 3) -> tuple[Module, list]:
    """ReadChannel with two ports of different depth and a 32-bit bus."""
    depths, longest, beat_bits = (8, 4), 8, 2
    dut = ReadChannel(
        ports=2, data_bits=32, depths=depths, max_burst=longest, outstanding=outstanding
    )
    m = Module()
    m.submodules.dut, inner = open_up(dut)
    count, oldest = inner["owners.count"], inner["owners.read__addr"]
    behind = inner["owners.write__addr"] - oldest
    m.d.comb += Assert(behind[: len(oldest)] == count[: len(oldest)])
    owners = [inner.word("owners.words", (oldest + j)[: len(oldest)]) for j in range(outstanding)]

    # The memory: answers the oldest burst whose address it took, with RLAST in its last beat.
    left = [Signal(4, name=f"left{j}") for j in range(outstanding)]
    begins = [inner[f"begin{i}"] for i in range(2)]
    begin = begins[0] | begins[1]
    begun_beats = Mux(begins[0], inner["splitter0.beats"], inner["splitter1.beats"])
    r_beat = dut.m_axi_rvalid & dut.m_axi_rready
    pop = r_beat & dut.m_axi_rlast
    with m.If(dut.m_axi_rvalid):
        m.d.comb += [
            Assume(count > dut.m_axi_arvalid),
            Assume(dut.m_axi_rlast == (left[0] == 1)),
        ]
    with m.If(pop):
        for mine, behind in zip(left, left[1:], strict=False):
            m.d.sync += mine.eq(behind)
    with m.Elif(r_beat):
        m.d.sync += left[0].eq(left[0] - 1)
    with m.If(begin), m.Switch(count - pop):
        for j in range(outstanding):
            with m.Case(j):
                m.d.sync += left[j].eq(begun_beats)
    m.d.comb += Assert(count <= outstanding)
    for j in range(outstanding):
        with m.If(count > j):
            m.d.comb += [Assert(left[j] != 0), Assert(left[j] <= longest)]

    # The address channel keeps AXI's rules.
    assert_stable(m, dut.m_axi_arvalid, dut.m_axi_arready, Cat(dut.m_axi_araddr, dut.m_axi_arlen))
    size = (dut.m_axi_arlen + 1) << beat_bits
    asking = Signal()  # of port 1
    with m.If(begin):
        m.d.sync += asking.eq(begins[1])
    with m.If(dut.m_axi_arvalid):
        m.d.comb += [
            Assert(dut.m_axi_araddr[:12] + size <= _BOUNDARY),
            Assert(dut.m_axi_araddr[:beat_bits] == 0),
            Assert(dut.m_axi_arlen < Mux(asking, depths[1], depths[0])),
            Assert(dut.m_axi_araddr >= Mux(asking, dut.base1, dut.base0)),
            Assert(dut.m_axi_araddr + size <= Mux(asking, dut.limit1, dut.limit0)),
            Assert(dut.m_axi_araddr + size <= 1 << 32),
            Assert(count != 0),
        ]
    halted = dut.stop | dut.error_bus | dut.error_window
    with m.If(before(m, halted & (~dut.m_axi_arvalid | dut.m_axi_arready))):
        m.d.comb += Assert(~dut.m_axi_arvalid)
    with m.If(before(m, r_beat & dut.m_axi_rresp[1])):
        m.d.comb += Assert(dut.error_bus)
    with m.If(before(m, dut.error_bus)):
        m.d.comb += Assert(dut.error_bus)
    with m.If(before(m, dut.error_window)):
        m.d.comb += Assert(dut.error_window)
    with m.If(dut.idle):
        m.d.comb += [Assert(count == 0), Assert(~dut.m_axi_arvalid), Assert(~dut.beat)]
    m.d.comb += [
        Assert(dut.m_axi_rready),
        Assert(dut.beat == before(m, r_beat)),
        Assert(dut.waiting == before(m, (count != 0) & ~r_beat)),
    ]

    first = before(m, 0, init=1)
    for i, depth in enumerate(depths):
        cmd, data = getattr(dut, f"cmd{i}"), getattr(dut, f"data{i}")
        base, limit = getattr(dut, f"base{i}"), getattr(dut, f"limit{i}")
        m.d.comb += Assume(cmd.payload.address[:beat_bits] == 0)
        with m.If(~first):
            m.d.comb += [Assume(base == before(m, base)), Assume(limit == before(m, limit))]
        splitter_invariants(
            m,
            inner,
            f"splitter{i}.",
            base=base,
            limit=limit,
            beat_bits=beat_bits,
            longest=min(depth, longest),
        )
        # Credit: every beat asked for has its place in the FIFO.
        fifo = f"fifo{i}."
        room = inner[f"room{i}"]
        held = inner[f"{fifo}stored"] + inner[f"{fifo}read_valid"] + data.valid
        coming = sum(Mux((count > j) & (owners[j] == i), left[j], 0) for j in range(outstanding))
        m.d.comb += [
            Assert(room + held + inner["r_valid"][i] + coming == depth),
            Assert(~inner["r_valid"][i] | (inner[f"{fifo}stored"] < depth)),
        ]
        with m.If(inner[f"splitter{i}.offer"]):
            m.d.comb += [
                Assert(inner.state(f"splitter{i}.fsm", "OFFER")),
                Assert(inner[f"splitter{i}.beats"] <= room),
            ]
        assert_stable(m, data.valid, data.ready, data.payload)

    m.d.comb += [
        Cover(begins[1] & (count == outstanding - 1)),
        Cover(dut.m_axi_arvalid & (dut.m_axi_arlen == longest - 1) & (count == 2)),
        Cover(dut.error_bus & dut.idle & dut.data1.valid),
        Cover(dut.error_window & dut.m_axi_rvalid),
    ]
    return m, inputs(dut)
