# SPDX-License-Identifier: Apache-2.0
"""hw/registers.py against docs/spec.md section 8."""

import random

import pytest
from amaranth.hdl import Array, Module, Mux, Signal

from hiddenfold.hw import regmap
from hiddenfold.hw.registers import Registers
from hiddenfold.verif.bench.sim_axi import OKAY, AxiLiteMaster
from hiddenfold.verif.bench.sim_stream import simulate

TARGET = 0x89AB_CDEF
OFFSET = {name: register.offset for name, register in regmap.REGISTERS.items()}
WRITABLE = {
    name: 0xFFFF if name == "IMAGES" else 0xFFFF_FFFF
    for name, register in regmap.REGISTERS.items()
    if register.access == "RW"
}
WIDE = [name for name, register in regmap.REGISTERS.items() if register.wide]
MAPPED = {offset for offset in OFFSET.values()} | {OFFSET[name] + 4 for name in WIDE}
CONSTANT = {"ID": 0x314E4648, "VERSION": 0x0002_0000, "TARGET": TARGET, "SHAPE": 0x0804_4020}


class Bench:
    """The register file, its bus and a core that only has inputs and outputs."""

    def __init__(self):
        self.dut = Registers(target_id=TARGET, rows=32, lanes=64, planes=4, bus_bits=64)
        self.bus = AxiLiteMaster(self.dut)
        self.starts = 0
        self.aborts = 0
        self.counters = {name: Signal(64, name=name) for name in WIDE}
        # The core shows a counter in the cycle of its read.
        self.top = Module()
        self.top.submodules.dut = self.dut
        value = Array(self.counters.values())[self.dut.counter]
        self.top.d.comb += self.dut.counter_value.eq(Mux(self.dut.counter_read, value, -1))

    async def watch(self, ctx):
        while True:
            _, _, start, abort = await ctx.tick().sample(self.dut.start, self.dut.abort)
            self.starts += start
            self.aborts += abort

    async def read(self, ctx, where, **waits) -> int:
        value, response = await self.bus.read(ctx, OFFSET.get(where, where), **waits)
        assert response == OKAY
        return value

    async def write(self, ctx, where, value, **options) -> None:
        assert await self.bus.write(ctx, OFFSET.get(where, where), value, **options) == OKAY
        await ctx.tick()

    async def pulse(self, ctx, signal) -> None:
        ctx.set(signal, 1)
        await ctx.tick()
        ctx.set(signal, 0)
        await ctx.tick()


def run(body) -> Bench:
    bench = Bench()

    async def testbench(ctx):
        await body(bench, ctx)

    simulate(bench.top, testbench, bench.watch)
    return bench


def test_reset_values():
    async def body(bench, ctx):
        for offset in range(0, 1 << 12, 4):
            name = next((name for name, at in OFFSET.items() if at == offset), None)
            assert await bench.read(ctx, offset) == CONSTANT.get(name, 0), hex(offset)

    run(body)


@pytest.mark.parametrize("name", WRITABLE)
def test_read_write(name):
    mask = WRITABLE[name]
    generator = random.Random(name)

    async def body(bench, ctx):
        signal = getattr(bench.dut, name.lower())
        expected = 0
        patterns = [1 << bit for bit in range(32)] + [0xFFFF_FFFF, 0]
        for value in patterns:  # bit bash
            await bench.write(ctx, name, value)
            assert await bench.read(ctx, name) == value & mask == ctx.get(signal)
        for strobe in range(16):  # byte strobes
            value = generator.getrandbits(32)
            await bench.write(ctx, name, value, strobe=strobe)
            lanes = sum(0xFF << 8 * i for i in range(4) if strobe >> i & 1)
            expected = (expected & ~lanes | value & lanes) & mask
            assert await bench.read(ctx, name) == expected == ctx.get(signal)
        await bench.write(ctx, OFFSET[name] + 3, 0x1234_5678)  # unaligned: the word
        assert await bench.read(ctx, OFFSET[name] + 1) == 0x1234_5678 & mask

    run(body)


def test_no_aliases():
    """Each register keeps its own value, and no other offset writes or shows it."""

    async def body(bench, ctx):
        for name in WRITABLE:
            await bench.write(ctx, name, OFFSET[name] * 0x0101_0101)
        for offset in range(0, 1 << 12, 4):
            if offset not in MAPPED:
                await bench.write(ctx, offset, 0xFFFF_FFFF)
        for offset in range(0, 1 << 12, 4):
            name = next((name for name, at in OFFSET.items() if at == offset), None)
            expected = CONSTANT.get(name, 0)
            if name in WRITABLE:
                expected = offset * 0x0101_0101 & WRITABLE[name]
            assert await bench.read(ctx, offset) == expected, hex(offset)

    bench = run(body)
    assert (bench.starts, bench.aborts) == (0, 0)


def test_read_only():
    """What shows the core's state cannot be written."""
    generator = random.Random(3)

    async def body(bench, ctx):
        values = {name: generator.getrandbits(64) for name in WIDE}
        for name, value in values.items():
            ctx.set(bench.counters[name], value)
        ctx.set(bench.dut.images_done, 0xBEEF)
        for name in set(OFFSET) - set(WRITABLE) - {"CONTROL", "STATUS"}:
            await bench.write(ctx, name, 0xFFFF_FFFF)
            await bench.write(ctx, name, 0)
        for name, value in CONSTANT.items():
            assert await bench.read(ctx, name) == value
        for name, value in values.items():
            assert await bench.read(ctx, name) == value & 0xFFFF_FFFF
            assert await bench.read(ctx, OFFSET[name] + 4) == value >> 32
        assert await bench.read(ctx, "IMAGES_DONE") == 0xBEEF
        assert await bench.read(ctx, "ERROR") == 0
        assert await bench.read(ctx, "ERROR_PC") == 0

    run(body)


@pytest.mark.parametrize("name", WIDE)
def test_wide_counter_pair_belongs_together(name):
    other = WIDE[WIDE.index(name) - 1]

    async def body(bench, ctx):
        counter = bench.counters[name]
        ctx.set(counter, 0x1_FFFF_FFFF)
        assert await bench.read(ctx, name) == 0xFFFF_FFFF
        ctx.set(counter, 0x2_0000_0000)
        assert await bench.read(ctx, OFFSET[name] + 4) == 1
        # A high word alone is the current one, and so is one after another counter's low word.
        assert await bench.read(ctx, OFFSET[name] + 4) == 2
        await bench.read(ctx, other)
        assert await bench.read(ctx, OFFSET[name] + 4) == 2

    run(body)


def test_start_busy_done():
    async def body(bench, ctx):
        dut = bench.dut
        await bench.write(ctx, "PROGRAM", 0x1000)
        await bench.write(ctx, "CONTROL", regmap.CONTROL_START, strobe=0b1110)
        assert bench.starts == 0
        await bench.write(ctx, "CONTROL", regmap.CONTROL_START)
        assert bench.starts == 1
        ctx.set(dut.busy, 1)
        assert await bench.read(ctx, "STATUS") == regmap.STATUS_BUSY
        assert await bench.read(ctx, "CONTROL") == 0
        await bench.write(ctx, "CONTROL", regmap.CONTROL_START)
        for name in WRITABLE:
            await bench.write(ctx, name, 0xFFFF_FFFF)
        assert bench.starts == 1
        assert await bench.read(ctx, "PROGRAM") == 0x1000 == ctx.get(dut.program)
        for name in set(WRITABLE) - {"PROGRAM"}:
            assert await bench.read(ctx, name) == 0
        ctx.set(dut.busy, 0)
        await bench.pulse(ctx, dut.done)
        assert await bench.read(ctx, "STATUS") == regmap.STATUS_DONE
        await bench.write(ctx, "CONTROL", regmap.CONTROL_START)
        assert bench.starts == 2
        assert await bench.read(ctx, "STATUS") == 0

    bench = run(body)
    assert bench.aborts == 0


def test_abort_only_while_busy():
    async def body(bench, ctx):
        await bench.write(ctx, "CONTROL", regmap.CONTROL_ABORT)
        await bench.write(ctx, "CONTROL", regmap.CONTROL_ABORT | regmap.CONTROL_START)
        assert (bench.starts, bench.aborts) == (1, 0)
        ctx.set(bench.dut.busy, 1)
        await bench.write(ctx, "CONTROL", regmap.CONTROL_ABORT, strobe=0b1110)
        assert bench.aborts == 0
        await bench.write(ctx, "CONTROL", regmap.CONTROL_ABORT)
        assert bench.aborts == 1

    run(body)


def test_error_is_kept_and_cleared_by_start():
    async def body(bench, ctx):
        dut = bench.dut
        ctx.set(dut.error, 7)
        ctx.set(dut.error_pc, 0x1240)
        await bench.pulse(ctx, dut.fail)
        ctx.set(dut.error, 3)
        ctx.set(dut.error_pc, 0x80)
        assert await bench.read(ctx, "STATUS") == regmap.STATUS_ERROR
        assert await bench.read(ctx, "ERROR") == 7
        assert await bench.read(ctx, "ERROR_PC") == 0x1240
        await bench.write(ctx, "STATUS", regmap.STATUS_ERROR)
        assert await bench.read(ctx, "STATUS") == 0
        assert await bench.read(ctx, "ERROR") == 7
        await bench.write(ctx, "CONTROL", regmap.CONTROL_START)
        assert await bench.read(ctx, "ERROR") == 0
        assert await bench.read(ctx, "ERROR_PC") == 0

    run(body)


def test_status_is_write_one_to_clear():
    async def body(bench, ctx):
        dut = bench.dut
        both = regmap.STATUS_DONE | regmap.STATUS_ERROR
        ctx.set(dut.busy, 1)
        await bench.pulse(ctx, dut.done)
        await bench.pulse(ctx, dut.fail)
        for value, strobe in ((0, 15), (~both & 0xFFFF_FFFF, 15), (0xFFFF_FFFF, 0b1110)):
            await bench.write(ctx, "STATUS", value, strobe=strobe)
            assert await bench.read(ctx, "STATUS") == regmap.STATUS_BUSY | both
        await bench.write(ctx, "STATUS", regmap.STATUS_DONE, strobe=0b0001)
        assert await bench.read(ctx, "STATUS") == regmap.STATUS_BUSY | regmap.STATUS_ERROR
        await bench.write(ctx, "STATUS", regmap.STATUS_ERROR)
        assert await bench.read(ctx, "STATUS") == regmap.STATUS_BUSY

    run(body)


def test_end_of_run_wins_over_clearing():
    """A run that ends while the host clears the status is not lost, whatever the cycle."""

    async def body(bench, ctx):
        dut = bench.dut
        seen = []
        for delay in range(6):
            await bench.write(ctx, "STATUS", 0xF)
            ctx.set(dut.s_axi_awvalid, 1)
            ctx.set(dut.s_axi_awaddr, OFFSET["STATUS"])
            ctx.set(dut.s_axi_wvalid, 1)
            ctx.set(dut.s_axi_wdata, 0xF)
            ctx.set(dut.s_axi_wstrb, 0xF)
            ctx.set(dut.s_axi_bready, 1)
            for cycle in range(7):
                ctx.set(dut.done, cycle == delay)
                await ctx.tick()
                ctx.set(dut.s_axi_awvalid, 0)
                ctx.set(dut.s_axi_wvalid, 0)
            ctx.set(dut.s_axi_bready, 0)
            seen.append(await bench.read(ctx, "STATUS"))
        # Accepted at the end of cycle 0, executed at the end of cycle 1.
        assert seen == [0] + 5 * [regmap.STATUS_DONE]

    run(body)


@pytest.mark.parametrize("event", ["done", "fail"])
def test_interrupt(event):
    bit = {"done": regmap.STATUS_DONE, "fail": regmap.STATUS_ERROR}[event]

    async def body(bench, ctx):
        dut = bench.dut
        await bench.pulse(ctx, getattr(dut, event))
        assert not ctx.get(dut.irq)
        await bench.write(ctx, "CONTROL", regmap.CONTROL_IRQ_ENABLE, strobe=0b1101)
        assert not ctx.get(dut.irq)
        await bench.write(ctx, "CONTROL", regmap.CONTROL_IRQ_ENABLE)
        assert ctx.get(dut.irq)
        assert await bench.read(ctx, "CONTROL") == regmap.CONTROL_IRQ_ENABLE
        await bench.write(ctx, "STATUS", bit)
        assert not ctx.get(dut.irq)
        await bench.pulse(ctx, getattr(dut, event))
        assert ctx.get(dut.irq)
        await bench.write(ctx, "CONTROL", 0)
        assert not ctx.get(dut.irq)

    bench = run(body)
    assert (bench.starts, bench.aborts) == (0, 0)


def test_random_order_and_waits():
    generator = random.Random(11)
    names = list(WRITABLE)

    async def body(bench, ctx):
        model = dict.fromkeys(names, 0)
        for _ in range(400):
            name = generator.choice(names)
            waits = [generator.choice((0, 0, 1, 2, 5)) for _ in range(3)]
            if generator.random() < 0.5:
                value = generator.getrandbits(32)
                assert OKAY == await bench.bus.write(
                    ctx,
                    OFFSET[name],
                    value,
                    address_wait=waits[0],
                    data_wait=waits[1],
                    response_wait=waits[2],
                )
                model[name] = value & WRITABLE[name]
            else:
                value = await bench.read(ctx, name, address_wait=waits[0], response_wait=waits[2])
                assert value == model[name]

    run(body)
