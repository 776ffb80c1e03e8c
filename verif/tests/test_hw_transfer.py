# SPDX-License-Identifier: Apache-2.0
"""hw/transfer.py and hw/axi_merge.py between memories: nothing is lost beside busy units."""

import random

import pytest
from amaranth.hdl import Elaboratable, Module, Mux, Signal
from amaranth.lib.wiring import Out, connect

from hiddenfold.hw.actmem import READ_LATENCY, ActivationMemory
from hiddenfold.hw.axi import axi4_ports
from hiddenfold.hw.axi_merge import WriteMerger, connect_master
from hiddenfold.hw.axi_read import ReadChannel
from hiddenfold.hw.axi_write import WriteChannel
from hiddenfold.hw.transfer import DEPTH, Load, Save
from hiddenfold.verif.bench.sim_axi import AxiMemory
from hiddenfold.verif.bench.sim_stream import Pattern, simulate, sometimes, wait_until

BASE = 0x2000_0000
WORDS = 256


class Bench(Elaboratable):
    """Both directions with the parts around them, and units that use ports at random.

    ``busy_w``, ``busy_a``, ``busy_b``: a unit needs the write port, port a of the bank of
    ``a_addr``, port b in this cycle. ``output``: beats to be appended at ``output_at``.
    """

    def __init__(self, lanes: int, bus_bits: int, part_bits: int):
        address_bits = 8
        self.memory = ActivationMemory(
            lanes=lanes,
            write_lanes=part_bits // 8,
            part_bits=part_bits,
            banks=4,
            bank_words=WORDS // 4,
        )
        shape = {"lanes": lanes, "bus_bits": bus_bits, "act_addr_bits": address_bits}
        self.load = Load(**shape, part_bits=part_bits)
        self.save = Save(**shape, part_bits=part_bits)
        self.reader = ReadChannel(ports=1, data_bits=bus_bits, depths=(64,))
        self.saver = WriteChannel(data_bits=bus_bits)
        self.writer = WriteChannel(data_bits=bus_bits)
        self.merger = WriteMerger(data_bits=bus_bits)
        self.busy_w, self.busy_a, self.busy_b = Signal(), Signal(), Signal()
        self.setup_en, self.setup_data = Signal(), Signal(lanes * 8)
        self.address = Signal(address_bits)
        self.limit = 0x1_0000
        for name, member in axi4_ports("m_axi", data_bits=bus_bits).items():
            setattr(self, name, Signal(member.shape, name=name))

    def elaborate(self, platform):
        m = Module()
        memory, load, save = self.memory, self.load, self.save
        for name in ("memory", "load", "save", "reader", "saver", "writer", "merger"):
            setattr(m.submodules, name, getattr(self, name))
        connect(m, load.cmd, self.reader.cmd0)
        connect(m, self.reader.data0, load.data)
        connect_master(m, self.writer, self.merger, 0)
        connect_master(m, self.saver, self.merger, 1)
        m.d.comb += [
            self.reader.base0.eq(BASE),
            self.reader.limit0.eq(BASE + self.limit),
            self.saver.limit.eq(BASE + self.limit),
            self.saver.start.eq(save.start),
            self.saver.address.eq(save.address),
            self.saver.flush.eq(save.flush),
            self.saver.i.valid.eq(save.o_valid),
            self.saver.i.payload.eq(save.o_data),
            save.room.eq(self.saver.room),
            save.idle.eq(self.saver.idle),
            load.w_ready.eq(~self.busy_w & ~self.setup_en),
            memory.w_en.eq((load.w_en & load.w_ready) << load.w_part),
            memory.w_addr.eq(Mux(self.setup_en, self.address, load.w_addr)),
            memory.w_data.eq(load.w_data.replicate(len(memory.w_en))),
            memory.a_en.eq(self.busy_a),
            memory.a_addr.eq(self.address),
            memory.b_en.eq(self.busy_b | save.r_en),
            memory.b_addr.eq(Mux(self.busy_b, self.address, save.r_addr)),
            memory.b_part.eq(save.r_part),
            save.r_ready.eq(memory.b_ready & ~self.busy_b),
            save.r_data.eq(memory.b_data),
        ]
        with m.If(self.setup_en):
            m.d.comb += [memory.w_en.eq(-1), memory.w_data.eq(self.setup_data)]
        for name, member in self.reader.signature.members.items():
            if name.startswith("m_axi_"):
                inner, outer = getattr(self.reader, name), getattr(self, name)
                m.d.comb += outer.eq(inner) if member.flow == Out else inner.eq(outer)
        for name, member in self.merger.signature.members.items():
            if name.startswith("m_axi_"):
                inner, outer = getattr(self.merger, name), getattr(self, name)
                m.d.comb += outer.eq(inner) if member.flow == Out else inner.eq(outer)
        return m


async def ask(ctx, port, word: int, words: int, offset: int) -> None:
    ctx.set(port.i.p.word, word)
    ctx.set(port.i.p.words, words)
    ctx.set(port.i.p.address, BASE + offset)
    ctx.set(port.i.valid, 1)
    await wait_until(ctx, port.i.ready)
    ctx.set(port.i.valid, 0)


@pytest.mark.parametrize(
    ("busy", "gaps"),
    [
        (lambda: False, {}),
        (sometimes(0.6, 1), {"latency": 30}),
        (
            sometimes(0.3, 2),
            {name: sometimes(0.5, n) for n, name in enumerate(("ar", "r", "aw", "w", "b"))},
        ),
    ],
    ids=["free", "busy units", "slow memory"],
)
@pytest.mark.parametrize(
    ("lanes", "bus_bits", "part_bits"),
    [(16, 64, 64), (64, 64, 64), (64, 64, 256), (16, 128, 128), (8, 64, 64)],
)
def test_what_is_saved_comes_back(lanes, bus_bits, part_bits, busy: Pattern, gaps):
    dut = Bench(lanes, bus_bits, part_bits)
    generator = random.Random(lanes)
    content = [generator.randbytes(lanes) for _ in range(WORDS)]
    outside = bytearray(generator.randbytes(dut.limit))
    memory = AxiMemory(dut, bytes(outside), base=BASE, data_bits=bus_bits, **gaps)
    output_at = dut.limit - 4096
    beats = [generator.getrandbits(bus_bits) for _ in range(50)]
    # Words 0..99 are saved in three parts, then loaded to 100..199 in three others, while words
    # 200..239 are loaded from elsewhere and beats of an output are written.
    saves = [(0, 41), (41, 1), (42, 58)]
    loads = [(0, 7), (7, 80), (87, 13)]

    working = False

    async def units(ctx):
        noise = random.Random(1)
        while True:
            if working:
                ctx.set(dut.busy_w, busy())
                ctx.set(dut.busy_a, busy())
                ctx.set(dut.busy_b, busy())
                ctx.set(dut.address, noise.randrange(WORDS))
            await ctx.tick()

    async def output(ctx):
        ctx.set(dut.writer.address, BASE + output_at)
        ctx.set(dut.writer.limit, BASE + dut.limit)
        ctx.set(dut.writer.start, 1)
        await ctx.tick()
        ctx.set(dut.writer.start, 0)
        for beat in beats:
            ctx.set(dut.writer.i.payload, beat)
            ctx.set(dut.writer.i.valid, 1)
            await wait_until(ctx, dut.writer.i.ready)
        ctx.set(dut.writer.i.valid, 0)
        ctx.set(dut.writer.flush, 1)

    async def testbench(ctx):
        nonlocal working
        ctx.set(dut.setup_en, 1)
        for place, word in enumerate(content):
            ctx.set(dut.address, place)
            ctx.set(dut.setup_data, int.from_bytes(word, "little"))
            await ctx.tick()
        ctx.set(dut.setup_en, 0)
        working = True
        for word, words in saves:
            await ask(ctx, dut.save, word, words, 48 * lanes + word * lanes)
        await ask(ctx, dut.load, 200, 40, 4 * lanes)
        await wait_until(ctx, (dut.save.unfinished == 0), 20000)
        for word, words in loads:
            assert ctx.get(dut.load.unfinished) <= DEPTH
            await ask(ctx, dut.load, 100 + word, words, 48 * lanes + word * lanes)
        await wait_until(ctx, dut.load.unfinished == 0, 20000)
        await wait_until(ctx, dut.writer.idle & dut.saver.idle & dut.reader.idle, 20000)
        assert not ctx.get(dut.reader.error_window | dut.saver.error_window)
        working = False
        await ctx.tick()
        ctx.set(dut.busy_a, 1)
        for place in range(WORDS):
            ctx.set(dut.address, place)
            await ctx.tick().repeat(READ_LATENCY)
            found.append(ctx.get(dut.memory.a_data))

    found: list[int] = []
    simulate(dut, testbench, memory.run_reads, memory.run_writes, units, output)
    saved = b"".join(content[:100])
    outside[48 * lanes : 148 * lanes] = saved
    outside[output_at : output_at + 50 * bus_bits // 8] = b"".join(
        beat.to_bytes(bus_bits // 8, "little") for beat in beats
    )
    assert memory.content == outside
    elsewhere = [bytes(outside[(4 + n) * lanes : (5 + n) * lanes]) for n in range(40)]
    expected = content[:100] + content[:100] + elsewhere + content[240:]
    assert found == [int.from_bytes(word, "little") for word in expected]


def test_full_speed():
    """Beside idle units a bus of an eighth of a word's width never waits."""
    dut = Bench(64, 64, 64)
    memory = AxiMemory(dut, bytes(dut.limit), base=BASE, data_bits=64)
    cycles = []

    async def count(ctx):
        while True:
            await ctx.tick()
            cycles.append(1)

    async def testbench(ctx):
        await ask(ctx, dut.load, 0, 100, 0)
        await wait_until(ctx, dut.load.unfinished == 0)
        loaded = len(cycles)
        await ask(ctx, dut.save, 0, 100, 8192)
        await wait_until(ctx, dut.save.unfinished == 0)
        assert loaded < 100 * 8 + 30
        # A burst of 16 beats takes three cycles more.
        assert len(cycles) - loaded < 100 * 8 * 19 // 16 + 40

    simulate(dut, testbench, memory.run_reads, memory.run_writes, count)
