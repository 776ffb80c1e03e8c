# SPDX-License-Identifier: Apache-2.0
"""Rules of hw/axi_read.py's ReadChannel, for any requesters and any memory that keeps to AXI4."""

from amaranth.hdl import Assert, Assume, Cat, Const, Cover, Module, Mux, Signal

from hiddenfold.hw.axi_read import ReadChannel
from hiddenfold.verif.formal.prover import assert_stable, before, inputs, open_up

_BOUNDARY = 4096
#: Port 1 has short commands and a FIFO that is less than a burst, port 2 has none.
_DEPTHS = (8, 4, 0)
_COUNT_BITS = (24, 2, 24)
_WINDOWS = (0, 1, 0)


def maker_invariants(m: Module, dut, inner, *, beat_bits: int, longest: int) -> None:
    """Assert what each state of the BurstMaker knows about its registers."""
    fsm = "maker.fsm"
    address, left, bound = inner["maker.address"], inner["maker.left"], inner["maker.bound"]
    beats = dut.m_axi_arlen + 1
    m.d.comb += Assert(inner["maker.port"] < len(_DEPTHS))
    with m.If(inner.state(fsm, "CHECK")):
        m.d.comb += [
            Assert(~dut.m_axi_arvalid),
            Assert(dut.m_axi_araddr == (address << beat_bits)[:32]),
            Assert(dut.m_axi_araddr[:12] + (beats << beat_bits) <= _BOUNDARY),
            Assert(beats <= left),
            Assert(beats <= longest),
        ]
    for i, (window, count_bits) in enumerate(zip(_WINDOWS, _COUNT_BITS, strict=True)):
        base, limit = getattr(dut, f"base{window}"), getattr(dut, f"limit{window}")
        cmd = getattr(dut, f"cmd{i}")
        mine = inner["maker.port"] == i
        place = Const(i, len(inner["maker.port"]))
        rest = inner.word("maker.rest", place)[len(address) :]
        with m.If(inner["maker.pending"][i]):
            m.d.comb += [Assert(rest != 0), Assert(rest < 1 << count_bits)]
        with m.If(mine & inner.state(fsm, "TAKE")):
            m.d.comb += Assert(inner["maker.pending"][i] | cmd.valid)
        with m.If(mine & inner.state(fsm, "LENGTH")):
            m.d.comb += Assert(bound == Cat(base[:beat_bits].any(), base[beat_bits:]))
        with m.If(mine & inner.state(fsm, "LENGTH", "CHECK")):
            m.d.comb += Assert(left < 1 << count_bits)
        with m.If(mine & inner.state(fsm, "CHECK")):
            within = (address << beat_bits >= base) & ~address[-1]
            m.d.comb += [
                Assert(bound == Cat(Const(1, 1), limit[beat_bits:])),
                Assert(inner["maker.below"] == ~within),
            ]
        with m.If(mine & ~inner.state(fsm, "CHOOSE") & ~dut.error_window):
            m.d.comb += Assert(inner["room"][i])


def harness(*, outstanding: int = 3) -> tuple[Module, list]:
    """ReadChannel with three ports of different kinds and a 32-bit bus."""
    longest, beat_bits = 8, 2
    dut = ReadChannel(
        ports=len(_DEPTHS),
        data_bits=32,
        depths=_DEPTHS,
        count_bits=_COUNT_BITS,
        windows=_WINDOWS,
        max_burst=longest,
        outstanding=outstanding,
    )
    m = Module()
    m.submodules.dut, inner = open_up(dut)
    count, oldest = inner["owners.count"], inner["owners.read__addr"]
    behind = inner["owners.write__addr"] - oldest
    m.d.comb += Assert(behind[: len(oldest)] == count[: len(oldest)])
    owners = [inner.word("owners.words", (oldest + j)[: len(oldest)]) for j in range(outstanding)]

    # The memory: answers the oldest burst whose address it took, with RLAST in its last beat.
    left = [Signal(4, name=f"left{j}") for j in range(outstanding)]
    begin, port = inner["maker.begin"], inner["maker.port"]
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
                m.d.sync += left[j].eq(dut.m_axi_arlen + 1)
    m.d.comb += Assert(count <= outstanding)
    for j in range(outstanding):
        with m.If(count > j):
            m.d.comb += [Assert(left[j] != 0), Assert(left[j] <= longest)]

    # The address channel keeps AXI's rules.
    assert_stable(m, dut.m_axi_arvalid, dut.m_axi_arready, Cat(dut.m_axi_araddr, dut.m_axi_arlen))
    size = (dut.m_axi_arlen + 1) << beat_bits
    asking = Signal.like(port)  # the port of the address
    with m.If(begin):
        m.d.sync += asking.eq(port)
    with m.If(dut.m_axi_arvalid):
        m.d.comb += [
            Assert(dut.m_axi_araddr[:12] + size <= _BOUNDARY),
            Assert(dut.m_axi_araddr[:beat_bits] == 0),
            Assert(dut.m_axi_arlen < Mux(asking == 1, _DEPTHS[1], longest)),
            Assert(dut.m_axi_araddr >= Mux(asking == 1, dut.base1, dut.base0)),
            Assert(dut.m_axi_araddr + size <= Mux(asking == 1, dut.limit1, dut.limit0)),
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
    for window in range(2):
        base, limit = getattr(dut, f"base{window}"), getattr(dut, f"limit{window}")
        with m.If(~first):
            m.d.comb += [Assume(base == before(m, base)), Assume(limit == before(m, limit))]
    maker_invariants(m, dut, inner, beat_bits=beat_bits, longest=longest)
    for i, depth in enumerate(_DEPTHS):
        cmd, data = getattr(dut, f"cmd{i}"), getattr(dut, f"data{i}")
        with m.If(before(m, cmd.valid & ~cmd.ready)):
            m.d.comb += Assume(cmd.valid)
        if not depth:
            m.d.comb += Assert(data.valid == inner["r_valid"][i])
            continue
        # Credit: every beat asked for has its place in the FIFO. A burst outside its window takes
        # room and does not begin, nor does anything after it.
        fifo = f"fifo{i}."
        held = inner[f"{fifo}stored"] + inner[f"{fifo}read_valid"] + data.valid
        coming = sum(Mux((count > j) & (owners[j] == i), left[j], 0) for j in range(outstanding))
        taken = inner[f"room{i}"] + held + inner["r_valid"][i] + coming
        m.d.comb += [
            Assert(Mux(dut.error_window, taken <= depth, taken == depth)),
            Assert(~inner["r_valid"][i] | (inner[f"{fifo}stored"] < depth)),
        ]
        assert_stable(m, data.valid, data.ready, data.payload)

    m.d.comb += [
        Cover(begin & (port == 1) & (count == outstanding - 1)),
        Cover(begin & (port == 0) & inner["maker.pending"][0]),
        Cover(dut.m_axi_arvalid & (dut.m_axi_arlen == longest - 1) & (count == 2)),
        Cover(dut.error_bus & dut.idle & dut.data1.valid),
        Cover(dut.error_window & dut.m_axi_rvalid),
    ]
    return m, inputs(dut)
