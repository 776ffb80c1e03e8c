# SPDX-License-Identifier: Apache-2.0
"""hw/fifo.py against a list."""

import random

import pytest

from hiddenfold.hw.fifo import ShortQueue, StreamFifo
from hiddenfold.verif.bench.sim_stream import Collector, always, send, simulate, sometimes

PATTERNS = {
    "both always": (always, always),
    "slow producer": (sometimes(0.3, 1), always),
    "slow consumer": (always, sometimes(0.3, 2)),
    "both random": (sometimes(0.6, 3), sometimes(0.6, 4)),
}


QUEUES = [(StreamFifo, 2), (StreamFifo, 4), (StreamFifo, 16)] + [
    (ShortQueue, depth) for depth in (1, 2, 3, 8)
]


@pytest.mark.parametrize(("queue", "depth"), QUEUES)
@pytest.mark.parametrize("patterns", PATTERNS)
def test_order_and_completeness(queue, depth, patterns):
    producing, consuming = PATTERNS[patterns]
    dut = queue(shape=12, depth=depth)
    sent = [random.Random(depth).randrange(1 << 12) for _ in range(300)]
    collector = Collector(dut.o, consuming)

    async def testbench(ctx):
        await send(ctx, dut.i, sent, producing)
        await collector.wait(ctx, len(sent), 3000)
        await ctx.tick().repeat(40)

    simulate(dut, testbench, collector.run)
    assert collector.received == sent


@pytest.mark.parametrize(("queue", "latency"), [(StreamFifo, 3), (ShortQueue, 1)])
def test_one_word_per_cycle_after_latency(queue, latency):
    dut = queue(shape=8, depth=4)
    collector = Collector(dut.o)
    cycles = []

    async def testbench(ctx):
        cycles.append(await collector.wait(ctx, 100, 1000))

    async def feed(ctx):
        await send(ctx, dut.i, range(100))

    simulate(dut, testbench, feed, collector.run)
    assert cycles == [100 + latency]


@pytest.mark.parametrize(("queue", "capacity"), [(StreamFifo, 6), (ShortQueue, 4)])
def test_capacity(queue, capacity):
    dut = queue(shape=8, depth=4)
    taken = []

    async def testbench(ctx):
        ctx.set(dut.i.valid, 1)
        for _ in range(20):
            _, _, ready = await ctx.tick().sample(dut.i.ready)
            taken.append(ready)

    simulate(dut, testbench)
    assert sum(taken) == capacity
