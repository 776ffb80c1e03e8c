# SPDX-License-Identifier: Apache-2.0
"""hw/axi_read.py against a memory: data, bursts, errors, windows, throughput."""

import random

import pytest

from hiddenfold.hw.axi_read import ReadChannel
from hiddenfold.verif.bench.sim_axi import DECERR, OKAY, SLVERR, AxiMemory, settle
from hiddenfold.verif.bench.sim_stream import (
    Collector,
    Counter,
    always,
    send,
    simulate,
    sometimes,
    wait_until,
)

BASE = 0x1000_0000
SIZE = 3 * 4096
CONTENT = random.Random(7).randbytes(SIZE)


def beats_at(address: int, beats: int, data_bits: int) -> list[int]:
    """Return what a linear fetch must deliver."""
    size = data_bits // 8
    return [
        int.from_bytes(CONTENT[place : place + size], "little")
        for place in range(address - BASE, address - BASE + beats * size, size)
    ]


def open_windows(ctx, dut, ports: int) -> None:
    for i in range(ports):
        ctx.set(getattr(dut, f"base{i}"), BASE)
        ctx.set(getattr(dut, f"limit{i}"), BASE + SIZE)


READ_CASES = {
    # ports' commands as (byte offset, beats), by bus bytes of 8
    "one beat": [[(0, 1)]],
    "no beats": [[(64, 0), (8, 3), (0, 0)]],
    "exactly one burst": [[(4096, 32)]],
    "crosses 4 KiB": [[(4096 - 24, 9), (8192 - 8, 2), (8192 - 264, 80)]],
    "whole memory": [[(0, SIZE // 8)]],
    "ends at the limit": [[(SIZE - 40, 5)]],
    "two ports": [[(0, 5), (4000, 200), (16, 1)], [(8192, 300), (4096, 1), (8, 100)]],
    "three ports": [[(n * 24, n + 1) for n in range(12)], [(2048, 400)], [(4088, 33), (0, 64)]],
}

PATTERNS = {
    "no gaps": {"latency": 1},
    "long latency": {"latency": 40, "shy": True},
    "gaps in the memory": {"latency": 7, "ar": sometimes(0.3, 1), "r": sometimes(0.5, 2)},
}


@pytest.mark.parametrize("consuming", [1.0, 0.4])
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("case", READ_CASES)
def test_read_data(case, pattern, consuming):
    commands = READ_CASES[case]
    ports = len(commands)
    dut = ReadChannel(ports=ports, data_bits=64, depths=(64, 32, 16)[:ports])
    memory = AxiMemory(dut, CONTENT, base=BASE, data_bits=64, **PATTERNS[pattern])
    beat_counter = Counter(dut.beat)
    collectors = [
        Collector(getattr(dut, f"data{i}"), always if consuming == 1 else sometimes(consuming, i))
        for i in range(ports)
    ]
    expected = [
        [word for offset, beats in port for word in beats_at(BASE + offset, beats, 64)]
        for port in commands
    ]

    def feeder(i):
        async def feed(ctx):
            stream = getattr(dut, f"cmd{i}")
            payloads = [{"address": BASE + at, "beats": beats} for at, beats in commands[i]]
            await send(ctx, stream, payloads, sometimes(0.7, i))

        return feed

    async def testbench(ctx):
        open_windows(ctx, dut, ports)
        for collector, words in zip(collectors, expected, strict=True):
            await collector.wait(ctx, len(words), 12000)
        await settle(ctx, dut)
        assert not ctx.get(dut.error_bus) and not ctx.get(dut.error_window)

    simulate(
        dut,
        testbench,
        memory.run_reads,
        beat_counter.run,
        *(feeder(i) for i in range(ports)),
        *(collector.run for collector in collectors),
    )
    for collector, words in zip(collectors, expected, strict=True):
        assert collector.received == words
    assert all(burst.beats <= 32 for burst in memory.reads)
    assert memory.finished_reads == len(memory.reads)
    assert beat_counter.values == [sum(map(len, expected))]


@pytest.mark.parametrize("data_bits", [32, 128])
def test_read_other_widths(data_bits):
    dut = ReadChannel(ports=1, data_bits=data_bits, depths=(16,), max_burst=16)
    memory = AxiMemory(dut, CONTENT, base=BASE, data_bits=data_bits, latency=5)
    collector = Collector(dut.data0, sometimes(0.7, 3))
    beats = 5000 // (data_bits // 8)

    async def testbench(ctx):
        open_windows(ctx, dut, 1)
        await send(ctx, dut.cmd0, [{"address": BASE + 4096 - 48, "beats": beats}])
        await collector.wait(ctx, beats, 4000)
        await settle(ctx, dut)

    simulate(dut, testbench, memory.run_reads, collector.run)
    assert collector.received == beats_at(BASE + 4096 - 48, beats, data_bits)
    assert max(burst.beats for burst in memory.reads) == 16


@pytest.mark.parametrize("latency", [1, 10, 40])
def test_read_sustains_a_beat_per_cycle(latency):
    dut = ReadChannel(ports=2, data_bits=64, depths=(16, 256))
    memory = AxiMemory(dut, CONTENT, base=BASE, data_bits=64, latency=latency)
    collector = Collector(dut.data1)
    counter = Counter(dut.beat, dut.waiting)
    beats = SIZE // 8
    cycles = []

    async def testbench(ctx):
        open_windows(ctx, dut, 2)
        await send(ctx, dut.cmd1, [{"address": BASE, "beats": beats}])
        cycles.append(await collector.wait(ctx, beats, 3000))

    simulate(dut, testbench, memory.run_reads, collector.run, counter.run)
    # 6 cycles of pipeline before the first address and behind the last beat, then no gap.
    assert cycles == [beats + latency + 6]
    assert counter.values == [beats, latency]


@pytest.mark.parametrize("latency", [1, 40])
def test_read_without_a_fifo(latency):
    """What is always taken needs no FIFO, and waits for no room; ports may share a window."""
    dut = ReadChannel(ports=3, data_bits=64, depths=(0, 16, 16), windows=(0, 0, 1), max_burst=16)
    memory = AxiMemory(dut, CONTENT, base=BASE, data_bits=64, latency=latency)
    collectors = [Collector(getattr(dut, f"data{i}")) for i in range(3)]

    async def testbench(ctx):
        open_windows(ctx, dut, 2)
        for i in range(3):
            await send(ctx, getattr(dut, f"cmd{i}"), [{"address": BASE + 8 * i, "beats": 300}])
        for collector in collectors:
            await collector.wait(ctx, 300, 3000)
        await settle(ctx, dut)
        assert not ctx.get(dut.error_window)
        ctx.set(dut.limit0, BASE + 8)
        await send(ctx, dut.cmd1, [{"address": BASE, "beats": 2}])
        await wait_until(ctx, dut.error_window)
        assert ctx.get(dut.error_ports) == 0b010

    simulate(dut, testbench, memory.run_reads, *(collector.run for collector in collectors))
    for i, collector in enumerate(collectors):
        assert collector.received == beats_at(BASE + 8 * i, 300, 64)


@pytest.mark.parametrize(
    ("count_bits", "longest"), [((24, 24), 8), ((24, 4), 8), ((24, 3), 32), ((6, 3), 32)]
)
def test_read_short_fifo_bounds_bursts(count_bits, longest):
    """A FIFO bounds the bursts of all ports, unless it holds its port's longest command."""
    dut = ReadChannel(ports=2, data_bits=64, depths=(32, 8), count_bits=count_bits)
    memory = AxiMemory(dut, CONTENT, base=BASE, data_bits=64)
    collectors = [Collector(dut.data0), Collector(dut.data1)]

    async def testbench(ctx):
        open_windows(ctx, dut, 2)
        await send(ctx, dut.cmd0, [{"address": BASE, "beats": 63}])
        await send(ctx, dut.cmd1, [{"address": BASE + 4096 - 8 * n, "beats": 7} for n in range(8)])
        for collector, beats in zip(collectors, (63, 56), strict=True):
            await collector.wait(ctx, beats, 3000)

    simulate(dut, testbench, memory.run_reads, *(collector.run for collector in collectors))
    assert max(burst.beats for burst in memory.reads) == longest
    assert collectors[1].received == [
        word for n in range(8) for word in beats_at(BASE + 4096 - 8 * n, 7, 64)
    ]


def test_read_short_commands_overlap():
    """Rows of an image: the memory's latency shows once, not once per command."""
    dut = ReadChannel(ports=1, data_bits=64, depths=(128,))
    memory = AxiMemory(dut, CONTENT, base=BASE, data_bits=64, latency=40)
    collector = Collector(dut.data0)
    counter = Counter(dut.beat, dut.waiting)

    async def testbench(ctx):
        open_windows(ctx, dut, 1)
        rows = [{"address": BASE + 128 * row, "beats": 16} for row in range(32)]
        await send(ctx, dut.cmd0, rows)
        await collector.wait(ctx, 512, 3000)
        await settle(ctx, dut)

    simulate(dut, testbench, memory.run_reads, collector.run, counter.run)
    assert len(memory.reads) == 32
    assert counter.values == [512, 40]


def test_read_full_fifo_does_not_block_the_others():
    dut = ReadChannel(ports=2, data_bits=64, depths=(16, 16))
    memory = AxiMemory(dut, CONTENT, base=BASE, data_bits=64)
    collector = Collector(dut.data1)

    async def testbench(ctx):
        open_windows(ctx, dut, 2)
        await send(ctx, dut.cmd0, [{"address": BASE, "beats": 100}])  # nobody takes the data
        await send(ctx, dut.cmd1, [{"address": BASE + 4096, "beats": 200}])
        await collector.wait(ctx, 200, 1000)
        await settle(ctx, dut)

    simulate(dut, testbench, memory.run_reads, collector.run)
    assert collector.received == beats_at(BASE + 4096, 200, 64)
    # Nobody took port 0's data, so no more than its FIFO's depth may have been asked for.
    assert sum(burst.beats for burst in memory.reads if burst.address < BASE + 4096) == 16


@pytest.mark.parametrize("response", [SLVERR, DECERR])
@pytest.mark.parametrize("bad_beat", [0, 5, 31, 32, 99])
def test_read_error_response(response, bad_beat):
    bad = BASE + 8 * bad_beat
    dut = ReadChannel(ports=1, data_bits=64, depths=(64,))
    memory = AxiMemory(
        dut,
        CONTENT,
        base=BASE,
        data_bits=64,
        latency=20,
        read_error=lambda address: response if address == bad else OKAY,
    )
    collector = Collector(dut.data0)

    async def testbench(ctx):
        open_windows(ctx, dut, 1)
        await send(ctx, dut.cmd0, [{"address": BASE, "beats": 1000}])
        await wait_until(ctx, dut.error_bus)
        begun = len(memory.reads) + 1  # at most the one whose address stands
        await settle(ctx, dut)
        assert len(memory.reads) <= begun
        assert ctx.get(dut.error_bus) and not ctx.get(dut.error_window)

    simulate(dut, testbench, memory.run_reads, collector.run)
    assert memory.finished_reads == len(memory.reads) < 1000 // 32
    assert len(collector.received) == sum(burst.beats for burst in memory.reads) > bad_beat


@pytest.mark.parametrize(
    ("address", "beats", "base", "limit", "good_bursts"),
    [
        (BASE, 100, BASE + 8, BASE + SIZE, 0),  # first byte below the window
        (BASE + SIZE - 8, 2, BASE, BASE + SIZE - 8, 0),  # starts at the limit
        (BASE + SIZE - 16, 2, BASE, BASE + SIZE - 1, 0),  # last byte above
        (BASE + 256, 64, BASE, BASE + 512 + 248, 1),  # second burst ends above
        (BASE + 512, 1, BASE, BASE, 0),  # empty window
        (0xFFFF_FFF8, 2, 0, 1 << 32, 1),  # must not wrap to address 0
        (0xFFFF_FFF8, 2, 0, (1 << 33) - 1, 1),
    ],
)
def test_read_window(address, beats, base, limit, good_bursts):
    dut = ReadChannel(ports=2, data_bits=64, depths=(64, 64))
    content = CONTENT if address < BASE + SIZE else CONTENT[-8:]
    memory = AxiMemory(dut, content, base=min(address, BASE + 256) & -256, data_bits=64)
    if address > BASE + SIZE:
        memory = AxiMemory(dut, content, base=address, data_bits=64)
    collector = Collector(dut.data1)

    async def testbench(ctx):
        ctx.set(dut.base1, base)
        ctx.set(dut.limit1, limit)
        ctx.set(dut.limit0, (1 << 33) - 1)
        await send(ctx, dut.cmd1, [{"address": address, "beats": beats}])
        await wait_until(ctx, dut.error_window)
        # The other port is stopped as well.
        ctx.set(dut.cmd0.payload, {"address": BASE + 256, "beats": 1})
        ctx.set(dut.cmd0.valid, 1)
        await settle(ctx, dut)
        assert ctx.get(dut.error_window) and not ctx.get(dut.error_bus)

    simulate(dut, testbench, memory.run_reads, collector.run)
    assert len(memory.reads) == good_bursts


def test_read_stop():
    dut = ReadChannel(ports=1, data_bits=64, depths=(256,))
    memory = AxiMemory(dut, CONTENT, base=BASE, data_bits=64, latency=30, ar=sometimes(0.3, 5))
    collector = Collector(dut.data0)

    async def testbench(ctx):
        open_windows(ctx, dut, 1)
        await send(ctx, dut.cmd0, [{"address": BASE, "beats": 1000}])
        await ctx.tick().repeat(37)
        ctx.set(dut.stop, 1)
        begun = len(memory.reads) + ctx.get(dut.m_axi_arvalid)
        await settle(ctx, dut)
        assert len(memory.reads) == begun > 0
        ctx.set(dut.stop, 0)
        await collector.wait(ctx, 1000, 4000)

    simulate(dut, testbench, memory.run_reads, collector.run)
    assert collector.received == beats_at(BASE, 1000, 64)
