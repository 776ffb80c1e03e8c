# SPDX-License-Identifier: Apache-2.0
"""hw/axi_write.py against a memory: data, bursts, errors, windows, throughput."""

import random

import pytest

from hiddenfold.hw.axi_write import WriteChannel
from hiddenfold.verif.bench.sim_axi import DECERR, OKAY, SLVERR, AxiMemory, settle
from hiddenfold.verif.bench.sim_stream import Counter, send, simulate, sometimes, wait_until

BASE = 0x1000_0000
SIZE = 3 * 4096

WRITE_CASES = {
    # byte offset of the pointer, groups of beats with a flush after each
    "one beat": (0, [1]),
    "one burst": (0, [16]),
    "burst and rest": (16, [35]),
    "crosses 4 KiB": (4096 - 40, [200]),
    "many flushes": (4096 - 64, [1, 2, 15, 16, 17, 31, 33, 3]),
    "up to the limit": (SIZE - 8 * 50, [50]),
}


@pytest.mark.parametrize(
    "gaps",
    [
        {},
        {"shy": True},
        {"aw": sometimes(0.3, 1), "w": sometimes(0.5, 2), "b": sometimes(0.2, 3)},
        {"aw": sometimes(0.1, 4)},
        {"b": sometimes(0.03, 5)},
    ],
    ids=["no gaps", "shy", "gaps", "late addresses", "late responses"],
)
@pytest.mark.parametrize("case", WRITE_CASES)
@pytest.mark.parametrize("data_bits", [64, 128])
def test_write_data(case, gaps, data_bits):
    offset, groups = WRITE_CASES[case]
    size = data_bits // 8
    offset -= offset % size
    if case == "up to the limit":
        offset = SIZE - size * sum(groups)
    dut = WriteChannel(data_bits=data_bits)
    memory = AxiMemory(dut, bytes(SIZE), base=BASE, data_bits=data_bits, **gaps)
    generator = random.Random(offset)
    words = [[generator.getrandbits(data_bits) for _ in range(group)] for group in groups]
    counter = Counter(dut.beat)

    async def testbench(ctx):
        assert ctx.get(dut.idle)
        ctx.set(dut.address, BASE + offset)
        ctx.set(dut.limit, BASE + SIZE)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        ctx.set(dut.address, 0)
        ctx.set(dut.limit, 0)
        for group in words:
            await send(ctx, dut.i, group, sometimes(0.6, len(group)))
            ctx.set(dut.flush, 1)
            await settle(ctx, dut, 4000)
            ctx.set(dut.flush, 0)
        assert not ctx.get(dut.error_bus) and not ctx.get(dut.error_window)

    simulate(dut, testbench, memory.run_writes, counter.run)
    flat = b"".join(word.to_bytes(size, "little") for group in words for word in group)
    expected = bytearray(SIZE)
    expected[offset : offset + len(flat)] = flat
    assert memory.content == expected
    assert memory.finished_writes == len(memory.writes)
    assert counter.values == [sum(groups)]


def test_write_waits_for_a_burst():
    dut = WriteChannel(data_bits=64)
    memory = AxiMemory(dut, bytes(SIZE), base=BASE, data_bits=64)

    async def testbench(ctx):
        ctx.set(dut.address, BASE)
        ctx.set(dut.limit, BASE + SIZE)
        await ctx.tick()
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        await send(ctx, dut.i, range(15))
        await ctx.tick().repeat(50)
        assert memory.writes == [] and not ctx.get(dut.idle)
        await send(ctx, dut.i, range(1))
        await ctx.tick().repeat(50)
        assert ctx.get(dut.idle)

    simulate(dut, testbench, memory.run_writes)
    assert [burst.beats for burst in memory.writes] == [16]


def test_write_throughput():
    dut = WriteChannel(data_bits=64)
    memory = AxiMemory(dut, bytes(SIZE), base=BASE, data_bits=64)
    cycles = []

    async def count(ctx):
        while True:
            await ctx.tick()
            cycles.append(1)

    async def testbench(ctx):
        ctx.set(dut.address, BASE)
        ctx.set(dut.limit, BASE + SIZE)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        await send(ctx, dut.i, range(1024))

    simulate(dut, testbench, count, memory.run_writes)
    assert len(cycles) <= 1024 * 17 // 16 + 16


@pytest.mark.parametrize("response", [SLVERR, DECERR])
@pytest.mark.parametrize("bad_burst", [0, 1, 4])
def test_write_error_response(response, bad_burst):
    bad = BASE + 128 * bad_burst
    dut = WriteChannel(data_bits=64)
    memory = AxiMemory(
        dut,
        bytes(SIZE),
        base=BASE,
        data_bits=64,
        b=sometimes(0.3, 1),
        write_error=lambda address: response if address == bad else OKAY,
    )

    async def feed(ctx):
        await send(ctx, dut.i, range(1000))

    async def testbench(ctx):
        ctx.set(dut.address, BASE)
        ctx.set(dut.limit, BASE + SIZE)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        await wait_until(ctx, dut.error_bus)
        begun = len(memory.writes) + 1
        await settle(ctx, dut)
        assert len(memory.writes) <= begun
        assert ctx.get(dut.error_bus) and not ctx.get(dut.error_window)

    simulate(dut, testbench, feed, memory.run_writes)
    assert bad_burst < memory.finished_writes == len(memory.writes) < 1000 // 16


@pytest.mark.parametrize(
    ("address", "limit", "good_bursts"),
    [
        (BASE, BASE + 127, 0),
        (BASE, BASE + 128, 1),
        (BASE, BASE + 384, 3),
        (0xFFFF_FF80, 1 << 32, 1),
        (0xFFFF_FF80, (1 << 33) - 1, 1),
    ],
)
def test_write_window(address, limit, good_bursts):
    dut = WriteChannel(data_bits=64)
    memory = AxiMemory(dut, bytes(SIZE), base=address, data_bits=64)

    async def feed(ctx):
        await ctx.tick().repeat(3)
        await send(ctx, dut.i, range(1000))

    async def testbench(ctx):
        ctx.set(dut.address, address)
        ctx.set(dut.limit, limit)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        await wait_until(ctx, dut.error_window)
        await settle(ctx, dut)
        assert ctx.get(dut.error_window) and not ctx.get(dut.error_bus)

    simulate(dut, testbench, feed, memory.run_writes)
    assert memory.finished_writes == len(memory.writes) == good_bursts


def test_write_stop():
    dut = WriteChannel(data_bits=64)
    memory = AxiMemory(
        dut, bytes(SIZE), base=BASE, data_bits=64, w=sometimes(0.5, 1), b=sometimes(0.1, 2)
    )

    async def feed(ctx):
        await ctx.tick().repeat(3)
        await send(ctx, dut.i, range(1000))

    async def testbench(ctx):
        ctx.set(dut.address, BASE)
        ctx.set(dut.limit, BASE + SIZE)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        await ctx.tick().repeat(150)
        ctx.set(dut.stop, 1)
        begun = len(memory.writes) + ctx.get(dut.m_axi_awvalid)
        await settle(ctx, dut)
        assert len(memory.writes) == begun > 0

    simulate(dut, testbench, feed, memory.run_writes)
    assert memory.finished_writes == len(memory.writes)
