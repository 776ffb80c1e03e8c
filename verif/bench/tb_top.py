# SPDX-License-Identifier: Apache-2.0
"""cocotb tests of the shipped top ``hiddenfold``: bus traffic with pauses, errors, recovery.

The runner (``verif/tests/test_rtl_top.py``) puts a compiled network with its images and its golden
trace into the folder named by ``HIDDENFOLD_CASE``.
"""

import os
import random
from pathlib import Path

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge, Timer

from hiddenfold.hw import regmap
from hiddenfold.hw.isa import BYTES, FIELDS, Error, Opcode
from hiddenfold.hw.lfsr import signature
from hiddenfold.sw.instructions import decode, encode, instructions
from hiddenfold.sw.program import Program
from hiddenfold.verif.bench.cocotb_axi import DECERR, SLVERR, Fault, Memory, RegisterMaster

BASE = 0x4000_0000
SIZE = 1 << 20
#: Cycles after which a run counts as hung.
PATIENCE = 400_000


class Bench:
    """The top with its memory, its host and one program to run."""

    def __init__(self, dut, seed: int, images: int):
        self.dut = dut
        self.rng = random.Random(seed)
        self.host = RegisterMaster(dut, self.rng)
        self.memory = Memory(dut, self.rng, base=BASE, size=SIZE)
        case = Path(os.environ["HIDDENFOLD_CASE"])
        self.program = Program.load(case / "program.hfp")
        self.images = np.load(case / "images.npy")[:images]
        with np.load(case / "golden.npz") as golden:
            self.golden = [golden[name] for name in golden.files]
        self.packed = self.program.pack_images(self.images)
        self.image_at = BASE + 0x8_0000
        self.output_at = BASE + 0xC_0000
        self.output_size = self.program.output_bytes * len(self.images)

    @classmethod
    async def create(cls, dut, *, seed: int = 1, images: int = 1) -> "Bench":
        """Start clock and memory, reset, and put program and images into memory."""
        bench = cls(dut, seed, images)
        # A simulator with four states must not see a clock edge before the inputs have values.
        dut.aresetn.value = 0
        dut.aclk.value = 0
        await Timer(10, unit="ns")
        Clock(dut.aclk, 10, unit="ns", impl="gpi").start()
        cocotb.start_soon(bench.memory.run())
        await bench.reset()
        bench.fill()
        return bench

    async def reset(self) -> None:
        """Pulse ``aresetn``."""
        self.dut.aresetn.value = 0
        await ClockCycles(self.dut.aclk, 4)
        self.dut.aresetn.value = 1
        await ClockCycles(self.dut.aclk, 2)

    def fill(self) -> None:
        """Write the undamaged program and the images; clear the output."""
        self.put(BASE, self.program.memory)
        self.put(self.image_at, self.packed)
        self.put(self.output_at, b"\xa5" * self.output_size)

    def put(self, address: int, data: bytes) -> None:
        """Write bytes to memory."""
        self.memory.data[address - BASE : address - BASE + len(data)] = data

    def flip(self, offset: int, bit: int = 0) -> None:
        """Invert a bit of the memory image."""
        self.memory.data[offset] ^= 1 << bit

    async def write(self, name: str, value: int) -> None:
        """Write a register by name."""
        await self.host.write(regmap.REGISTERS[name].offset, value)

    async def read(self, name: str) -> int:
        """Read a register by name."""
        register = regmap.REGISTERS[name]
        value = await self.host.read(register.offset)
        if register.wide:
            value |= await self.host.read(register.offset + 4) << 32
        return value

    async def start(self, **changed: int) -> None:
        """Write all registers, with ``changed`` replacing values by name, and start."""
        values = {
            "PROGRAM": BASE,
            "PROGRAM_SIZE": len(self.program.memory),
            "IMAGE": self.image_at,
            "IMAGE_SIZE": len(self.packed),
            "OUTPUT": self.output_at,
            "OUTPUT_SIZE": self.output_size,
            "IMAGES": len(self.images),
            "WATCHDOG": 0,
        }
        for name, value in (values | changed).items():
            await self.write(name, value)
        await self.write("CONTROL", regmap.CONTROL_START | regmap.CONTROL_IRQ_ENABLE)

    async def end(self) -> int:
        """Wait for the interrupt and for BUSY to fall; return the error code."""
        for _ in range(PATIENCE):
            if self.dut.irq.value:
                break
            await RisingEdge(self.dut.aclk)
        else:
            raise AssertionError(f"no interrupt within {PATIENCE} cycles")
        for _ in range(200):
            status = await self.read("STATUS")
            if not status & regmap.STATUS_BUSY:
                break
        else:
            raise AssertionError("BUSY does not fall after the interrupt")
        assert self.memory.quiet, f"the run ended with transactions under way: {self.memory}"
        error = await self.read("ERROR")
        wanted = regmap.STATUS_ERROR if error else regmap.STATUS_DONE
        assert status == wanted, f"STATUS is {status} with error {error}"
        return error

    async def expect_good(self, **changed: int) -> None:
        """Run all images and compare every byte that means something with the golden trace."""
        self.fill()
        await self.start(**changed)
        error = await self.end()
        assert error == 0, f"{Error(error).name} at {await self.read('ERROR_PC'):#x}"
        assert await self.read("IMAGES_DONE") == len(self.images)
        offset = self.output_at - BASE
        data = bytes(self.memory.data[offset : offset + self.output_size])
        for number, output in enumerate(self.program.unpack_output(data, len(self.images))):
            found: list[np.ndarray] = [*output.trace, output.logits]
            assert len(found) == len(self.golden)
            for layer, (ours, golden) in enumerate(zip(found, self.golden, strict=True)):
                assert np.array_equal(ours, golden[number]), f"image {number}, layer {layer}"

    async def expect_error(self, error: Error, pc: int | None = None, **changed: int) -> None:
        """Run what is in memory; it must end with this error, at this instruction if given."""
        await self.start(**changed)
        found = await self.end()
        assert found == error, f"error must be {error.name}, not {Error(found).name}"
        if pc is not None:
            assert await self.read("ERROR_PC") == pc
        # Nothing may follow a run that has ended.
        active = self.memory.last_activity
        await ClockCycles(self.dut.aclk, 50)
        assert self.memory.last_activity == active

    def instruction(self, opcode: Opcode, number: int = 0) -> tuple[int, dict[str, int]]:
        """Return offset and fields of the program's ``number``-th instruction of that kind."""
        return [
            (offset, fields)
            for offset, fields in instructions(self.program.memory)
            if fields["opcode"] == opcode
        ][number]

    def patch(self, at: int, /, **fields: int) -> None:
        """Change fields of the instruction at offset ``at`` in memory and sign it again."""
        changed = decode(self.program.memory[at : at + BYTES]) | fields
        words = [0] * (BYTES // 8)
        for name, value in changed.items():
            field = FIELDS[name]
            if name != "signature":
                words[field.word] |= value << field.lsb
        words[-1] = signature(words[:-1])
        self.put(BASE + at, b"".join(word.to_bytes(8, "little") for word in words))


@cocotb.test()
async def identification(dut):
    """Constant registers, reserved offsets, byte strobes, reset values."""
    bench = await Bench.create(dut)
    parameters = bench.program.target_parameters
    assert await bench.read("ID") == regmap.ID_VALUE
    assert await bench.read("VERSION") == regmap.VERSION_VALUE
    assert await bench.read("TARGET") == bench.program.target_id
    shape = await bench.read("SHAPE")
    assert list(shape.to_bytes(4, "little")) == [
        *(parameters[name] for name in ("rows", "lanes", "planes")),
        parameters["bus_bits"] // 8,
    ]
    assert await bench.read("STATUS") == 0
    for offset in (0x44, 0x88, 0xFFC):
        await bench.host.write(offset, 0xFFFFFFFF)
        assert await bench.host.read(offset) == 0
    await bench.host.write(regmap.REGISTERS["IMAGE"].offset, 0x11223344)
    await bench.host.write(regmap.REGISTERS["IMAGE"].offset, 0xAABBCCDD, strobe=0b0101)
    assert await bench.read("IMAGE") == 0x11BB33DD


@cocotb.test()
async def network_with_full_bandwidth(dut):
    """Every layer and iteration of all images is exact when the bus never pauses."""
    bench = await Bench.create(dut, images=2)
    bench.memory.latency = 0
    await bench.expect_good()
    await bench.expect_good()


@cocotb.test()
async def network_with_pauses(dut):
    """Every layer and iteration is exact with random pauses on all ten channels."""
    bench = await Bench.create(dut, images=2)
    bench.memory.latency = 10
    for memory, host in ((0.3, 0.3), (0.7, 0.0)):
        bench.memory.pause, bench.host.pause = memory, host
        await bench.expect_good()


@cocotb.test()
async def counters(dut):
    """Counters count what the memory saw, and stand still after the run."""
    bench = await Bench.create(dut)
    await bench.expect_good()
    first = {name: await bench.read(name) for name in regmap.REGISTERS}
    assert first["WRITE_BYTES"] >= bench.output_size
    assert first["READ_BYTES"] >= len(bench.packed)
    assert first["CYCLES"] > first["ARRAY_CYCLES"] > 0
    await ClockCycles(dut.aclk, 100)
    assert first == {name: await bench.read(name) for name in regmap.REGISTERS}
    await bench.write("STATUS", regmap.STATUS_DONE)
    assert await bench.read("STATUS") == 0
    assert not dut.irq.value


@cocotb.test()
async def registers_while_busy(dut):
    """During a run registers can be read, and writes and START change nothing."""
    bench = await Bench.create(dut)
    bench.fill()
    await bench.start()
    writable = [name for name, register in regmap.REGISTERS.items() if register.access == "RW"]
    before = {name: await bench.read(name) for name in writable}
    polls = 0
    while not dut.irq.value:
        name = bench.rng.choice(writable)
        await bench.write(name, bench.rng.getrandbits(32))
        await bench.write("CONTROL", regmap.CONTROL_START | regmap.CONTROL_IRQ_ENABLE)
        if dut.irq.value:
            break
        status = await bench.read("STATUS")
        assert status & regmap.STATUS_BUSY or dut.irq.value
        polls += 1
        await ClockCycles(dut.aclk, 200)
    assert polls > 3
    # A START that came after the end has started a second run, which is fine: it must be good too.
    assert await bench.end() == 0
    if not await bench.read("STATUS") & regmap.STATUS_BUSY:
        assert before["PROGRAM"] == BASE
    await bench.expect_good()


@cocotb.test()
async def abort_anywhere(dut):
    """ABORT ends a run at once, wherever it is, and the next run is exact."""
    bench = await Bench.create(dut)
    await bench.expect_good()
    length = await bench.read("CYCLES")
    for part in (0.0, 0.02, 0.1, 0.5, 0.9):
        bench.memory.pause = bench.rng.choice([0.0, 0.4])
        await bench.start()
        await ClockCycles(dut.aclk, 1 + int(part * length))
        await bench.write("CONTROL", regmap.CONTROL_ABORT | regmap.CONTROL_IRQ_ENABLE)
        assert await bench.end() == Error.ABORTED
    bench.memory.pause = 0.0
    await bench.expect_good()


@cocotb.test()
async def reset_anywhere(dut):
    """A reset in mid-flight leaves nothing behind."""
    bench = await Bench.create(dut)
    for cycles in (20, 300, 3000):
        await bench.start()
        await ClockCycles(dut.aclk, cycles)
        await bench.reset()
        assert await bench.read("STATUS") == 0
        assert await bench.read("PROGRAM") == 0
        assert not dut.m_axi_arvalid.value and not dut.m_axi_awvalid.value
    await bench.expect_good()


@cocotb.test()
async def bus_errors(dut):
    """SLVERR and DECERR on each stream end the run; the next run is exact."""
    bench = await Bench.create(dut)
    conv_at, conv = bench.instruction(Opcode.CONV)
    _, begin = bench.instruction(Opcode.BEGIN)
    places = {
        "first instruction": (BASE, False),
        "later instruction": (BASE + conv_at + 8, False),
        "affine stream": (BASE + begin["offset"] + 16, False),
        "mask stream": (BASE + conv["offset"] + 8, False),
        "image": (bench.image_at + len(bench.packed) // 2, False),
        "output": (bench.output_at, True),
        "end of output": (bench.output_at + bench.output_size - 1, True),
    }
    for number, (name, (address, write)) in enumerate(places.items()):
        dut._log.info("error in %s", name)
        bench.fill()
        bench.memory.pause = 0.0 if number % 2 else 0.3
        response = SLVERR if number % 2 else DECERR
        bench.memory.faults = [Fault(address, address + 1, response, write)]
        await bench.expect_error(Error.BUS_WRITE if write else Error.BUS_READ)
        bench.memory.faults = []
    bench.memory.pause = 0.0
    await bench.expect_good()


@cocotb.test()
async def damaged_program(dut):
    """A flipped bit in each part of the memory image is found by its signature."""
    bench = await Bench.create(dut)
    conv_at, conv = bench.instruction(Opcode.CONV)
    _, begin = bench.instruction(Opcode.BEGIN)
    last_at, last = bench.instruction(Opcode.CONV, -1)
    mask_end = conv["offset"] + 8 * conv["count"] * conv["blocks"] - 1
    for offset, error, pc in (
        (3, Error.INSTRUCTION_SIGNATURE, 0),
        (conv_at + 63, Error.INSTRUCTION_SIGNATURE, conv_at),
        (conv["offset"], Error.MASK_SIGNATURE, conv_at),
        (mask_end, Error.MASK_SIGNATURE, conv_at),
        (last["offset"], Error.MASK_SIGNATURE, last_at),
        (begin["offset"], Error.AFFINE_SIGNATURE, conv_at),
        (begin["offset"] + 9, Error.AFFINE_SIGNATURE, conv_at),
        (begin["offset"] + 16, Error.AFFINE_SIGNATURE, conv_at),
    ):
        dut._log.info("damage at %#x: %s", offset, error.name)
        bench.fill()
        bench.flip(offset, bench.rng.randrange(8))
        await bench.expect_error(error, pc)
    await bench.expect_good()


@cocotb.test()
async def illegal_program(dut):
    """Signed instructions that make no sense are refused with their own codes."""
    bench = await Bench.create(dut)
    conv_at, conv = bench.instruction(Opcode.CONV)
    image_at, image = bench.instruction(Opcode.IMAGE)
    end = BYTES
    memory_words = 1
    for name in ("act_banks", "act_bank_words"):
        memory_words *= bench.program.target_parameters[name]
    for error, offset, fields in (
        (Error.TARGET, 0, {"seed": bench.program.target_id ^ 1}),
        (Error.OPCODE, 0, {"opcode": Opcode.END}),
        (Error.OPCODE, end, {"opcode": 0x7F}),
        (Error.LOOP, end, {"opcode": Opcode.ENDLOOP}),
        (Error.LOOP, end, {"opcode": Opcode.LOOP, "count": 0}),
        (Error.LOOP, end, {"opcode": Opcode.LOOP, "count": 256}),
        (Error.FIELD, image_at, {"kernel": 2}),
        (Error.FIELD, image_at, {"in_h": 0}),
        (Error.FIELD, image_at, {"in_w": 1024}),
        (Error.FIELD, conv_at, {"kernel": 9}),
        (Error.FIELD, conv_at, {"stride": 3}),
        (Error.FIELD, conv_at, {"passes": 0}),
        (Error.FIELD, conv_at, {"tile_rows": 0}),
        (Error.FIELD, conv_at, {"tile_rows": 0xFFF}),
        (Error.FIELD, conv_at, {"images": 0}),
        (Error.FIELD, conv_at, {"tile_images": 0}),
        (Error.WINDOW, image_at, {"dst": memory_words - 1}),
        (Error.WINDOW, conv_at, {"src": memory_words - 1}),
        (Error.WINDOW, conv_at, {"dst": memory_words - 1}),
        (Error.WINDOW, conv_at, {"offset": len(bench.program.memory)}),
    ):
        dut._log.info("%s at %#x: %s", error.name, offset, fields)
        bench.fill()
        bench.patch(offset, **fields)
        await bench.expect_error(error, offset)
    bench.fill()
    bench.put(BASE + end, encode(Opcode.LOOP, count=2) + encode(Opcode.LOOP, count=2))
    await bench.expect_error(Error.LOOP, end + BYTES)
    await bench.expect_good()


@cocotb.test()
async def windows(dut):
    """Nothing outside the three regions is touched when one of them is too small."""
    bench = await Bench.create(dut)
    for name, size in (
        ("PROGRAM_SIZE", BYTES),
        ("PROGRAM_SIZE", len(bench.program.memory) - BYTES),
        ("IMAGE_SIZE", len(bench.packed) - 16),
        ("OUTPUT_SIZE", 0),
        ("OUTPUT_SIZE", bench.output_size - 16),
    ):
        dut._log.info("%s = %d", name, size)
        bench.fill()
        end = bench.output_at - BASE + bench.output_size
        bench.memory.data[end : end + 256] = b"\x5a" * 256
        await bench.expect_error(Error.WINDOW, **{name: size})
        assert bench.memory.data[end : end + 256] == b"\x5a" * 256
        if name == "OUTPUT_SIZE":
            start = bench.output_at - BASE + size
            kept = bench.memory.data[start : bench.output_at - BASE + bench.output_size]
            assert kept == b"\xa5" * len(kept)
    await bench.expect_good()


@cocotb.test()
async def watchdog(dut):
    """The watchdog ends a run that starves, and one that is merely long."""
    bench = await Bench.create(dut)
    await bench.expect_error(Error.WATCHDOG, WATCHDOG=500)
    assert 500 <= await bench.read("CYCLES") < 2000
    await bench.start(WATCHDOG=3000)
    await ClockCycles(dut.aclk, 1000)
    bench.memory.hold = True
    while not dut.irq.value:
        await RisingEdge(dut.aclk)
    # The read that is under way has to be finished before the run can end.
    await ClockCycles(dut.aclk, 50)
    assert await bench.read("STATUS") & regmap.STATUS_BUSY or bench.memory.quiet
    bench.memory.hold = False
    assert await bench.end() == Error.WATCHDOG
    await bench.expect_good(WATCHDOG=PATIENCE)
