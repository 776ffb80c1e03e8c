# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""hw/flash.py, hw/flash_port.py and hw/local_memory.py, without an accelerator."""

import random

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hiddenfold.hw.axi import axi4_ports
from hiddenfold.hw.flash import MODES, Flash
from hiddenfold.hw.flash_port import BYTE, SELECT, WORDS, FlashPort
from hiddenfold.hw.lite_split import word_port
from hiddenfold.hw.local_memory import BUFFER, LocalMemory
from hiddenfold.hw.top_flash import join_bus
from hiddenfold.verif.bench.sim_stream import simulate

SIZE = 1 << 16
CONTENT = random.Random(1).randbytes(SIZE)
PROTECT = 0x2000
OKAY, SLVERR, DECERR = 0, 2, 3
FLASH_PORT = 0x8000_1000


class Bench(wiring.Component):
    """Memory, flash controller and raw port as in the top; the test is the accelerator and host."""

    def __init__(self, bits: int, mode: str, half_period: int):
        self.bits, self.mode, self.half_period = bits, mode, half_period
        ports = axi4_ports("m_axi", data_bits=bits)
        super().__init__(
            {
                **{name: member.flip() for name, member in ports.items()},
                **{name: member.flip() for name, member in word_port().items()},
                "cs_n": Out(1),
                "sck": Out(1),
                "io_i": In(4),
                "io_o": Out(4),
                "io_oe": Out(4),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = LocalMemory(data_bits=self.bits, buffer_bytes=1024)
        m.submodules.flash = flash = Flash(
            word_bits=self.bits, mode=self.mode, half_period=self.half_period
        )
        m.submodules.port = port = FlashPort(protect=PROTECT)
        join_bus(m, self, "m_axi", memory, "s_axi", axi4_ports("", data_bits=self.bits), In)
        wiring.connect(m, memory.flash_i, flash.i)
        wiring.connect(m, flash.o, memory.flash_o)
        wiring.connect(m, port.raw_i, flash.raw_i)
        for name in ("cs_n", "sck", "io_o", "io_oe"):
            m.d.comb += getattr(self, name).eq(getattr(flash, name))
        m.d.comb += [flash.io_i.eq(self.io_i), flash.raw_select.eq(port.raw_select)]
        m.d.comb += [port.raw_o.eq(flash.raw_o), port.raw_done.eq(flash.raw_done)]
        m.d.comb += [port.request.eq(self.request & self.address[31])]
        m.d.comb += [memory.host_request.eq(self.request & ~self.address[31])]
        for part, prefix in ((port, ""), (memory, "host_")):
            for name in ("write", "address", "data"):
                m.d.comb += getattr(part, prefix + name).eq(getattr(self, name))
        m.d.comb += [self.found.eq(memory.host_found), self.done.eq(memory.host_done)]
        with m.If(self.address[31]):
            m.d.comb += [self.found.eq(port.found), self.done.eq(port.done)]
        return m


class FlashModel:
    """Reads of a flash; ``commands`` are the bytes of each command but what a read gives."""

    def __init__(self, dut: Bench):
        self.commands: list[bytes] = []
        self._dut = dut
        self._codes = {mode.code: mode for mode in MODES.values()}

    async def run(self, ctx) -> None:
        dut = self._dut
        before, bits, mode, out = 0, "", None, []
        while True:
            # The flash answers within the cycle after an edge of its clock.
            await ctx.tick()
            cs_n, sck, io_o, io_oe = map(ctx.get, (dut.cs_n, dut.sck, dut.io_o, dut.io_oe))
            if cs_n:
                if bits:
                    head = [bits[i : i + 8] for i in range(0, min(len(bits), 32), 8)]
                    self.commands.append(bytes(int(byte, 2) for byte in head))
                bits, mode, out = "", None, []
            elif sck and not before:
                if mode is None:
                    in_command = len(bits) < 32
                    assert not in_command or io_oe & 0b1101 == 0b1101 and io_o & 0b1100 == 0b1100
                    bits += str(io_o & 1)
                    code = self._codes.get(int(bits[:8], 2)) if len(bits) >= 32 else None
                    if code is not None and len(bits) == 32 + code.dummy:
                        mode, place = code, int(bits[8:32], 2)
                        out = []
            elif before and not sck and mode is not None:
                if not out:
                    byte = CONTENT[place % SIZE]
                    steps = range(8 - mode.width, -1, -mode.width)
                    out = [byte >> step & ((1 << mode.width) - 1) for step in steps]
                    place += 1
                value = out.pop(0)
                if mode.width == 4:
                    assert io_oe == 0, "both sides drive the pins"
                ctx.set(dut.io_i, value if mode.width == 4 else value << 1)
            before = sck


async def read(ctx, dut, address: int, beats: int) -> tuple[list[int], list[int]]:
    """A burst; the accelerator takes beats in some cycles only."""
    ctx.set(dut.m_axi_araddr, address)
    ctx.set(dut.m_axi_arlen, beats - 1)
    ctx.set(dut.m_axi_arvalid, 1)
    await ctx.tick().until(dut.m_axi_arready)
    ctx.set(dut.m_axi_arvalid, 0)
    data, responses = [], []
    generator = random.Random(address)
    for _ in range(20_000):
        ready = generator.random() < 0.7
        ctx.set(dut.m_axi_rready, ready)
        _, _, valid, word, response, last = await ctx.tick().sample(
            dut.m_axi_rvalid, dut.m_axi_rdata, dut.m_axi_rresp, dut.m_axi_rlast
        )
        if valid and ready:
            data.append(word)
            responses.append(response)
            assert last == (len(data) == beats)
            if last:
                ctx.set(dut.m_axi_rready, 0)
                return data, responses
    raise TimeoutError("the burst does not end")


async def write(ctx, dut, address: int, words: list[int], strobe: int) -> int:
    ctx.set(dut.m_axi_awaddr, address)
    ctx.set(dut.m_axi_awlen, len(words) - 1)
    ctx.set(dut.m_axi_awvalid, 1)
    await ctx.tick().until(dut.m_axi_awready)
    ctx.set(dut.m_axi_awvalid, 0)
    for i, word in enumerate(words):
        ctx.set(dut.m_axi_wdata, word)
        ctx.set(dut.m_axi_wstrb, strobe)
        ctx.set(dut.m_axi_wlast, i == len(words) - 1)
        ctx.set(dut.m_axi_wvalid, 1)
        await ctx.tick().until(dut.m_axi_wready)
    ctx.set(dut.m_axi_wvalid, 0)
    ctx.set(dut.m_axi_bready, 1)
    (response,) = await ctx.tick().sample(dut.m_axi_bresp).until(dut.m_axi_bvalid)
    ctx.set(dut.m_axi_bready, 0)
    return response


async def host(ctx, dut, address: int, data: int | None = None) -> int:
    """A word of the host: write ``data``, or read."""
    ctx.set(dut.address, address)
    ctx.set(dut.write, data is not None)
    ctx.set(dut.data, data or 0)
    ctx.set(dut.request, 1)
    for _ in range(2000):
        _, _, done, found = await ctx.tick().sample(dut.done, dut.found)
        if done:
            ctx.set(dut.request, 0)
            await ctx.tick()
            return found
    raise TimeoutError(f"no answer at {address:#x}")


def words_of(address: int, count: int, size: int) -> list[int]:
    return [
        int.from_bytes(CONTENT[at : at + size], "little")
        for at in range(address, address + count * size, size)
    ]


def run(body, *, bits: int = 64, mode: str = "quad", half_period: int = 1) -> list[bytes]:
    """Run ``body`` and return the commands that the flash saw."""
    dut = Bench(bits, mode, half_period)
    model = FlashModel(dut)

    async def testbench(ctx):
        await ctx.tick().repeat(10)
        await body(ctx, dut)

    simulate(dut, testbench, model.run)
    return model.commands


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("bits", "half_period"), [(64, 1), (128, 3)])
def test_bursts_from_the_flash(mode, bits, half_period):
    size = bits // 8

    async def body(ctx, dut):
        for address, beats in ((0x100, 3), (0x100 + 3 * size, 5), (0x40, 1), (0x40, 2), (0, 1)):
            data, responses = await read(ctx, dut, address, beats)
            assert data == words_of(address, beats, size)
            assert set(responses) == {OKAY}

    commands = run(body, bits=bits, mode=mode, half_period=half_period)
    # The second burst goes on with the command of the first; the last one is still selected.
    code = MODES[mode].code
    assert commands == [bytes([code, 0, *at]) for at in ((1, 0), (0, 0x40), (0, 0x40))]


def test_a_quad_read_takes_two_cycles_for_four_bits():
    async def body(ctx, dut):
        await read(ctx, dut, 0, 1)
        ctx.set(dut.m_axi_araddr, 8)
        ctx.set(dut.m_axi_arlen, 63)
        ctx.set(dut.m_axi_arvalid, 1)
        ctx.set(dut.m_axi_rready, 1)
        cycles = beats = 0
        while beats < 64:
            _, _, valid, ready = await ctx.tick().sample(dut.m_axi_rvalid, dut.m_axi_arready)
            if ready:
                ctx.set(dut.m_axi_arvalid, 0)
            beats += valid
            cycles += 1
        assert cycles <= 64 * 33 + 10

    run(body)


@pytest.mark.parametrize("bits", [64, 128])
def test_buffer_by_bus_and_by_host(bits):
    size = bits // 8

    async def body(ctx, dut):
        words = [random.Random(i).getrandbits(bits) for i in range(4)]
        assert await write(ctx, dut, BUFFER + 64, words, (1 << size) - 1) == OKAY
        assert await read(ctx, dut, BUFFER + 64, 4) == (words, [OKAY] * 4)
        for at in range(0, 4 * size, 4):
            expected = words[at // size] >> 8 * (at % size) & 0xFFFFFFFF
            assert await host(ctx, dut, BUFFER + 64 + at) == expected
        await host(ctx, dut, BUFFER + 68, 0x01020304)
        words[0] = words[0] & ~(0xFFFFFFFF << 32) | 0x01020304 << 32
        assert await write(ctx, dut, BUFFER + 64 + size, [0], 0b10) == OKAY
        words[1] &= ~0xFF00
        assert await read(ctx, dut, BUFFER + 64, 4) == (words, [OKAY] * 4)
        assert await host(ctx, dut, 0x104) == int.from_bytes(CONTENT[0x104:0x108], "little")
        await host(ctx, dut, 0x104, 5)
        assert await host(ctx, dut, BUFFER + 1024) == 0

    run(body, bits=bits)


def test_addresses_without_memory():
    async def body(ctx, dut):
        for address in (BUFFER + 1024, BUFFER - 8, 1 << 24, 0xFFFFFFF0):
            _, responses = await read(ctx, dut, address, 2)
            assert responses == [DECERR] * 2
            assert await write(ctx, dut, address, [1, 2], 255) == DECERR
        assert await write(ctx, dut, 0x100, [1], 255) == SLVERR
        assert (await read(ctx, dut, 0x100, 1))[0] == words_of(0x100, 1, 8)

    run(body)


def test_raw_commands():
    async def body(ctx, dut):
        await read(ctx, dut, 0, 1)

        async def command(*steps: tuple[int, int]) -> None:
            await host(ctx, dut, FLASH_PORT + SELECT, 1)
            for place, word in steps:
                await host(ctx, dut, FLASH_PORT + place, word)
            await host(ctx, dut, FLASH_PORT + SELECT, 0)

        await command((BYTE, 0x06 << 24))
        await command((WORDS, 0x20 << 24 | PROTECT))
        await command((WORDS, 0x02 << 24 | PROTECT + 256), (WORDS + 4, 0xFF00FF00))
        # None of these reaches the flash.
        await command((WORDS, 0x20 << 24 | PROTECT - 1), (WORDS, 0x20 << 24 | PROTECT))
        await command((BYTE, 0xC7 << 24))
        await command((WORDS, 0x06 << 24))
        await command((BYTE, 0x20 << 24), (BYTE, 0), (BYTE, 0), (BYTE, 0))
        await host(ctx, dut, FLASH_PORT + WORDS, 0x06 << 24)
        assert (await read(ctx, dut, 0x200, 2))[0] == words_of(0x200, 2, 8)
        await host(ctx, dut, FLASH_PORT + SELECT, 1)
        await host(ctx, dut, FLASH_PORT + SELECT, 0)

    commands = run(body)
    assert [command.hex() for command in commands] == [
        *("6b000000", "06", "20002000", "02002100", "6b000200"),
    ]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Flash(word_bits=64, mode="octal"), "^flash mode must be one of single, fast, qua"),
        (lambda: Flash(word_bits=64, half_period=0), "^half period and deselect time must be at"),
        (lambda: FlashPort(protect=5), "^protected bytes must be a multiple of 4096 below"),
        (lambda: LocalMemory(data_bits=32, buffer_bytes=1024), "^bus bits must be 64 or 128, not"),
        (lambda: LocalMemory(data_bits=64, buffer_bytes=1000), "^buffer must be a power of two"),
    ],
)
def test_illegal_parameters(make, text):
    with pytest.raises(ValueError, match=text):
        make()
