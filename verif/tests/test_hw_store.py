# SPDX-License-Identifier: Apache-2.0
"""hw/store.py: words in, beats out, nothing lost under back-pressure."""

import random

import pytest

from hiddenfold.hw.actmem import READ_LATENCY
from hiddenfold.hw.store import Store
from hiddenfold.verif.bench.sim_actmem import ActivationReads
from hiddenfold.verif.bench.sim_stream import Collector, always, simulate, sometimes


@pytest.mark.parametrize("pattern", [always, sometimes(0.5, 1), sometimes(0.1, 2)])
@pytest.mark.parametrize("counts", [[1], [2], [30], [3, 1, 7]], ids=str)
@pytest.mark.parametrize(("lanes", "bus_bits"), [(8, 64), (16, 128), (16, 64), (64, 64), (64, 128)])
def test_words_become_beats(lanes, bus_bits, counts, pattern):
    dut = Store(lanes=lanes, bus_bits=bus_bits, act_addr_bits=9)
    generator = random.Random(lanes)
    words = {address: generator.getrandbits(8 * lanes) for address in range(512)}
    memory = ActivationReads(dut, words)
    collector = Collector(dut.o, pattern)
    beats_per_word = 8 * lanes // bus_bits
    expected = []

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
            # Done comes after the last beat, and once.
            assert collector.received == expected
            for _ in range(30):
                _, _, done = await ctx.tick().sample(dut.done)
                assert not done
            if pattern is always:
                assert cycles == count * (beats_per_word + READ_LATENCY + 1) + 2

    simulate(dut, testbench, memory.run, collector.run)
    assert collector.received == expected
    assert memory.count == sum(counts)
