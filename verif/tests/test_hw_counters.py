# SPDX-License-Identifier: Apache-2.0
"""hw/counters.py against plain Python."""

import random

import pytest

from hiddenfold.hw.counters import Counters
from hiddenfold.verif.bench.sim_stream import simulate


# Large shifts reach the high bits.
@pytest.mark.parametrize("shifts", [(0, 3, 4, 0, 0, 0, 0), (0,), (2, 0), (31, 0, 55)], ids=str)
def test_every_event_is_counted(shifts):
    rng = random.Random(len(shifts))
    dut = Counters(shifts=shifts)
    count = len(shifts)

    async def testbench(ctx):
        for density in (1.0, 0.5, 0.0):
            ctx.set(dut.clear, 1)
            ctx.set(dut.events, -1)
            await ctx.tick()
            ctx.set(dut.clear, 0)
            expected = [0] * count
            for cycle in range(300):
                events = [rng.random() < density for _ in shifts]
                expected = [
                    value + (event << shift)
                    for value, event, shift in zip(expected, events, shifts, strict=True)
                ]
                ctx.set(dut.events, sum(event << k for k, event in enumerate(events)))
                # As often as may be.
                ctx.set(dut.read, cycle % 2)
                ctx.set(dut.number, rng.randrange(count))
                await ctx.tick()
            ctx.set(dut.events, 0)
            for cycle in range(Counters.SETTLE):
                ctx.set(dut.read, cycle % 2)
                await ctx.tick()
            found = []
            for number in range(count):
                ctx.set(dut.read, 1)
                ctx.set(dut.number, number)
                found.append(ctx.get(dut.value))
                await ctx.tick()
                ctx.set(dut.read, 0)
                await ctx.tick()
            assert found == expected

    simulate(dut, testbench)
