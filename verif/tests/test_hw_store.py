# SPDX-License-Identifier: Apache-2.0
"""hw/store.py and hw/beats.py: words in, beats out, nothing lost under back-pressure."""

import random
from collections import deque

import pytest
from amaranth.hdl import Elaboratable, Module

from hiddenfold.hw.actmem import READ_LATENCY
from hiddenfold.hw.beats import BeatReader
from hiddenfold.hw.fifo import StreamFifo
from hiddenfold.hw.store import Store
from hiddenfold.verif.bench.sim_stream import Collector, always, simulate, sometimes

#: A FIFO that has room for what is on its way and for one beat more.
DEPTH = 8


class Bench(Elaboratable):
    """A Store and the FIFO that it sends its beats to."""

    def __init__(self, **shape):
        self.store = Store(**shape, act_addr_bits=9)
        self.fifo = StreamFifo(shape=shape["bus_bits"], depth=DEPTH)

    def elaborate(self, platform):
        m = Module()
        m.submodules.store = store = self.store
        m.submodules.fifo = fifo = self.fifo
        m.d.comb += [
            fifo.i.valid.eq(store.o_valid),
            fifo.i.payload.eq(store.o_data),
            store.room.eq(fifo.room),
        ]
        return m


@pytest.mark.parametrize("grants", [always, sometimes(0.6, 3)], ids=["alone", "refused"])
@pytest.mark.parametrize("pattern", [always, sometimes(0.5, 1), sometimes(0.1, 2)])
@pytest.mark.parametrize("counts", [[1], [2], [30], [3, 1, 7]], ids=str)
@pytest.mark.parametrize(
    ("lanes", "bus_bits", "part_bits"),
    [(8, 64, 64), (16, 128, 128), (16, 64, 128), (64, 64, 64), (64, 64, 256), (64, 128, 512)],
)
def test_words_become_beats(lanes, bus_bits, part_bits, counts, pattern, grants):
    bench = Bench(lanes=lanes, bus_bits=bus_bits, part_bits=part_bits)
    dut = bench.store
    generator = random.Random(lanes)
    words = {address: generator.getrandbits(8 * lanes) for address in range(512)}
    collector = Collector(bench.fifo.o, pattern)
    beats_per_word = 8 * lanes // bus_bits
    expected = []
    lost = []

    async def memory(ctx):
        pipeline: deque = deque([0] * READ_LATENCY)
        while True:
            ready = grants()
            ctx.set(dut.r_ready, ready)
            _, _, enabled, address, part = await ctx.tick().sample(dut.r_en, dut.r_addr, dut.r_part)
            read = words[address] >> part * part_bits & (1 << part_bits) - 1
            pipeline.append(read if enabled and ready else 0)
            pipeline.popleft()
            ctx.set(dut.r_data, pipeline[0])
            if ctx.get(bench.fifo.i.valid) and not ctx.get(bench.fifo.i.ready):
                lost.append(address)

    async def testbench(ctx):
        for count in counts:
            src = generator.randrange(512 - count)
            for address in range(src, src + count):
                expected.extend(
                    words[address] >> shift & (1 << bus_bits) - 1
                    for shift in range(0, 8 * lanes, bus_bits)
                )
            ctx.set(dut.src, src)
            ctx.set(dut.count, count)
            ctx.set(dut.start, 1)
            cycles = 0
            done = False
            while not done:
                _, _, done = await ctx.tick().sample(dut.done)
                ctx.set(dut.start, 0)
                cycles += 1
                assert cycles < 30000
            # Once, and not before the last beat has been sent.
            for _ in range(30):
                _, _, done = await ctx.tick().sample(dut.done)
                assert not done
            await collector.wait(ctx, len(expected), 5000)
            assert collector.received == expected
            if pattern is always and grants is always:
                assert cycles == count * beats_per_word + READ_LATENCY + 2

    simulate(bench, testbench, memory, collector.run)
    assert collector.received == expected
    assert not lost


@pytest.mark.parametrize("part_bits", [32, 256])
def test_parts_hold_beats_and_words_hold_parts(part_bits):
    with pytest.raises(
        ValueError, match=f"part bits must be from 64, .* to 128, .*not {part_bits}"
    ):
        BeatReader(lanes=16, bus_bits=64, part_bits=part_bits, act_addr_bits=9, count_bits=10)
