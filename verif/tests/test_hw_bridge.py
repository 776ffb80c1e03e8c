# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""hw/uart.py and hw/bridge.py: serial line, protocol, bus."""

import struct

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hiddenfold.hw import regmap
from hiddenfold.hw.axi import axi4_lite_ports
from hiddenfold.hw.bridge import READ, WRITE, UartBridge
from hiddenfold.hw.registers import Registers
from hiddenfold.hw.top_flash import join_bus
from hiddenfold.hw.uart import UartReceiver, UartTransmitter
from hiddenfold.verif.bench.sim_stream import simulate

BIT = 5
TIMEOUT = 40 * BIT
OFFSET = {name: register.offset // 4 for name, register in regmap.REGISTERS.items()}


class Bench(wiring.Component):
    """A bridge in front of the accelerator's registers."""

    def __init__(self):
        super().__init__({"rx": In(1, init=1), "tx": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.bridge = bridge = UartBridge(bit_cycles=BIT, timeout_cycles=TIMEOUT)
        m.submodules.registers = registers = Registers(
            target_id=0x01020304, rows=4, lanes=16, planes=2, bus_bits=64
        )
        join_bus(m, bridge, "m_axi", registers, "s_axi", axi4_lite_ports(""), Out)
        m.d.comb += [bridge.rx.eq(self.rx), self.tx.eq(bridge.tx)]
        return m


async def send(ctx, line, data: bytes, bit: float = BIT) -> None:
    """Send bytes; ``bit`` cycles for each bit on average."""
    passed, due = 0, 0.0
    for byte in data:
        for level in (0, *(byte >> i & 1 for i in range(8)), 1):
            ctx.set(line, level)
            due += bit
            await ctx.tick().repeat(round(due) - passed)
            passed = round(due)


async def receive(ctx, line, count: int, limit: int = 1000) -> bytes:
    """Take bytes that come within ``limit`` cycles each; fewer if they do not."""
    data = b""
    for _ in range(count):
        for _ in range(limit):
            if not ctx.get(line):
                break
            await ctx.tick()
        else:
            return data
        await ctx.tick().repeat(BIT // 2)
        byte = 0
        for i in range(8):
            await ctx.tick().repeat(BIT)
            byte |= ctx.get(line) << i
        await ctx.tick().repeat(BIT)
        assert ctx.get(line), "no stop bit"
        data += bytes([byte])
    return data


def write(address: int, *words: int) -> bytes:
    return struct.pack(f">BBI{len(words)}I", WRITE, len(words), address, *words)


def read(address: int, count: int) -> bytes:
    return struct.pack(">BBI", READ, count, address)


def test_registers_by_serial_line():
    async def testbench(ctx):
        await ctx.tick().repeat(3)
        await send(ctx, dut.rx, read(OFFSET["ID"], 1))
        assert await receive(ctx, dut.tx, 4) == b"1NFH"
        await send(ctx, dut.rx, write(OFFSET["PROGRAM"], 0x11223344, 0x55667788, 0x99AABBCC))
        await send(ctx, dut.rx, read(OFFSET["PROGRAM"], 3))
        answer = await receive(ctx, dut.tx, 13, limit=3 * 10 * BIT)
        assert answer.hex() == "112233445566778899aabbcc"
        # Another command is taken with its address, and dropped.
        await send(ctx, dut.rx, b"\x07\x01\x00\x00\x00\x00")
        await send(ctx, dut.rx, read(OFFSET["TARGET"], 1))
        assert (await receive(ctx, dut.tx, 5)).hex() == "01020304"

    dut = Bench()
    simulate(dut, testbench)


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_incomplete_command_is_forgotten(size):
    async def testbench(ctx):
        await ctx.tick().repeat(3)
        await send(ctx, dut.rx, write(OFFSET["PROGRAM"], 0xFFFFFFFF)[:size])
        await ctx.tick().repeat(TIMEOUT + 10)
        await send(ctx, dut.rx, read(OFFSET["PROGRAM"], 1))
        assert await receive(ctx, dut.tx, 5) == bytes(4)

    dut = Bench()
    simulate(dut, testbench)


def test_pauses_within_a_command_are_no_end():
    async def testbench(ctx):
        await ctx.tick().repeat(3)
        for byte in write(OFFSET["PROGRAM"], 0x01020304) + read(OFFSET["PROGRAM"], 1):
            await ctx.tick().repeat(TIMEOUT * 3 // 4)
            await send(ctx, dut.rx, bytes([byte]))
        assert (await receive(ctx, dut.tx, 4)).hex() == "01020304"

    dut = Bench()
    simulate(dut, testbench)


@pytest.mark.parametrize("bit", [BIT * 0.96, BIT, BIT * 1.04])
def test_receiver_takes_other_clocks(bit):
    data = bytes(range(0, 256, 7)) + b"\x00\xff\x00"

    async def testbench(ctx):
        await ctx.tick().repeat(3)
        await send(ctx, dut.rx, data, bit)
        await ctx.tick().repeat(BIT)

    async def collect(ctx):
        ctx.set(dut.o.ready, 1)
        while True:
            _, _, valid, payload = await ctx.tick().sample(dut.o.valid, dut.o.payload)
            if valid:
                received.append(payload)

    dut, received = UartReceiver(bit_cycles=BIT), []
    simulate(dut, testbench, collect)
    assert bytes(received) == data


def test_receiver_drops_a_frame_without_stop_bit():
    async def testbench(ctx):
        await ctx.tick().repeat(3)
        ctx.set(dut.rx, 0)
        await ctx.tick().repeat(14 * BIT)
        ctx.set(dut.rx, 1)
        await ctx.tick().repeat(2 * BIT)
        assert not ctx.get(dut.o.valid)
        await send(ctx, dut.rx, b"U")
        assert ctx.get(dut.o.valid) and ctx.get(dut.o.payload) == ord("U")

    dut = UartReceiver(bit_cycles=BIT)
    simulate(dut, testbench)


@pytest.mark.parametrize("part", [UartReceiver, UartTransmitter])
def test_too_fast(part):
    with pytest.raises(ValueError, match="^a bit must take at least 4 clock cycles, not 3$"):
        part(bit_cycles=3)


def test_too_impatient():
    with pytest.raises(ValueError, match="^time-out must be at least two bytes = 100 cycles, not"):
        UartBridge(bit_cycles=BIT, timeout_cycles=99)
