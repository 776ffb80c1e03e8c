# SPDX-License-Identifier: Apache-2.0
"""The driver on the simulated accelerator: exact results, every failure, recovery."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from hiddenfold.gen.compile import compile_model
from hiddenfold.gen.target import Target
from hiddenfold.hw import regmap
from hiddenfold.hw.isa import BYTES, Error, Opcode
from hiddenfold.sw.driver.accelerator import (
    Accelerator,
    AcceleratorError,
    AcceleratorTimeout,
)
from hiddenfold.sw.driver.cache import cached
from hiddenfold.sw.driver.device import DeviceError
from hiddenfold.sw.driver.rtl import MEMORY_BASE, RtlDevice
from hiddenfold.sw.driver.simulator import simulator_library, target_verilog
from hiddenfold.sw.instructions import decode, encode, instructions
from hiddenfold.sw.program import Program
from hiddenfold.sw.verify import Comparison, check_model, compare_run, network_limits
from hiddenfold.verif.bench.case import HEIGHT, WIDTH, small_model
from hiddenfold.verif.golden.model import Golden
from hiddenfold.verif.golden.random_networks import Limits, random_image, random_model

TARGET = Target.load("sim-tiny")
MODEL = small_model()


@pytest.fixture(scope="module")
def shared():
    """One simulator for all tests of this file."""
    with Accelerator.open("rtl:sim-tiny") as accelerator:
        yield accelerator


@pytest.fixture
def accelerator(shared):
    """The simulator without faults."""
    shared.device.clear_faults()
    shared.device.configure()
    yield shared


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_model(MODEL, TARGET)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    rng = np.random.default_rng(3)
    return np.stack([random_image(rng, HEIGHT, WIDTH) for _ in range(3)])


@pytest.fixture(scope="module")
def golden(images):
    return Golden(MODEL).trace(images)


def damaged(program: Program, offset: int, bit: int = 0) -> Program:
    memory = bytearray(program.memory)
    memory[offset] ^= 1 << bit
    return replace(program, memory=bytes(memory))


def offset_of(program: Program, opcode: Opcode, number: int = 0) -> int:
    found = [at for at, fields in instructions(program.memory) if fields["opcode"] == opcode]
    return found[number]


def field_of(program: Program, opcode: Opcode, name: str) -> int:
    at = offset_of(program, opcode)
    return dict(instructions(program.memory))[at][name]


def assert_good(accelerator, program, images, golden):
    result = Comparison()
    compare_run(accelerator, program, images, golden, result)
    assert result.mismatches == 0, result.first


@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("stall", [0.0, 0.6])
def test_every_layer_is_exact(accelerator, images, golden, trace, stall):
    accelerator.device.configure(read_latency=7, stall=stall, seed=5)
    program = compile_model(MODEL, TARGET, trace=trace)
    assert_good(accelerator, program, images, golden)


def test_slow_memory(accelerator, program, images, golden):
    """A beat in 16 cycles: the accelerator waits for it most of the time."""
    accelerator.load(program)
    fast = accelerator.run(images)
    accelerator.device.configure(beat_interval=16)
    result = accelerator.run(images)
    beats = (result.bytes_read + result.bytes_written) * 8 // TARGET.bus_bits
    assert 16 * beats <= result.cycles < 16 * beats + fast.cycles
    assert_good(accelerator, program, images, golden)


def test_counters_and_progress(accelerator, program, images):
    accelerator.load(program)
    seen = []
    before = accelerator.device.cycles
    result = accelerator.run(images, progress=lambda *values: seen.append(values))
    assert seen[-1] == (len(images), len(images), result.cycles)
    assert 0 < result.array_cycles < result.cycles < accelerator.device.cycles - before
    assert result.bytes_read == program.predicted_bytes_read * len(images)
    assert result.bytes_written == program.predicted_bytes_written * len(images)
    assert result.top5().shape == (3, 5)
    assert result.traces is None


def test_random_networks(accelerator):
    for seed in range(4):
        model = random_model(seed, network_limits(TARGET))
        result = check_model(accelerator, model, TARGET, seed)
        assert result.mismatches == 0, result.first
        assert result.layers > 3 and result.values > 100


def test_error_codes(accelerator, program, images, golden):
    conv = offset_of(program, Opcode.CONV)
    masks = field_of(program, Opcode.CONV, "offset")
    affine = field_of(program, Opcode.BEGIN, "offset")
    for offset, code, pc in (
        (conv + 20, Error.INSTRUCTION_SIGNATURE, conv),
        (masks + 3, Error.MASK_SIGNATURE, conv),
        (affine + 17, Error.AFFINE_SIGNATURE, conv),
    ):
        accelerator.load(damaged(program, offset))
        with pytest.raises(
            AcceleratorError, match=rf"accelerator error {code.name} \({code}\)"
        ) as e:
            accelerator.run(images)
        assert (e.value.code, e.value.pc) == (code, pc)
        assert "layer 'stem'" in str(e.value)
        assert e.value.registers["STATUS"] == regmap.STATUS_ERROR
        assert_good(accelerator, program, images, golden)


def test_unknown_opcode_and_foreign_target(accelerator, program, images, golden):
    memory = bytearray(program.memory)
    memory[BYTES : 2 * BYTES] = encode(Opcode.ENDLOOP)
    accelerator.load(replace(program, memory=bytes(memory)))
    with pytest.raises(AcceleratorError, match=r"LOOP \(10\) at program offset 0x40"):
        accelerator.run(images)
    foreign = compile_model(MODEL, Target.load("peer-64"))
    with pytest.raises(AcceleratorError, match=r"'small' was compiled for target 'peer-64'"):
        accelerator.load(foreign)
    accelerator.load(foreign, check_target=False)
    with pytest.raises(AcceleratorError, match=r"accelerator error TARGET \(9\)"):
        accelerator.run(images)
    assert_good(accelerator, program, images, golden)


def test_batches_that_make_no_sense(accelerator, program, images, golden):
    conv, end = offset_of(program, Opcode.CONV), offset_of(program, Opcode.END)
    rows = field_of(program, Opcode.CONV, "out_h")
    for offset, opcode, changes in (
        (conv, Opcode.CONV, {"images": 0}),
        (conv, Opcode.CONV, {"tile_images": 0}),
        (conv, Opcode.CONV, {"images": 2, "tile_images": 2, "tile_rows": rows - 1}),
        (conv, Opcode.CONV, {"images": 255, "tile_images": 255, "tile_rows": rows}),
        (end, Opcode.END, {"images": 0}),
        (end, Opcode.END, {"images": 2}),  # of three
    ):
        memory = bytearray(program.memory)
        fields = decode(memory[offset : offset + BYTES]) | changes
        del fields["opcode"], fields["signature"]
        memory[offset : offset + BYTES] = encode(opcode, **fields)
        accelerator.load(replace(program, memory=bytes(memory)))
        with pytest.raises(AcceleratorError, match=r"accelerator error FIELD \(12\)") as caught:
            accelerator.run(images)
        assert caught.value.pc == offset
    assert_good(accelerator, program, images, golden)


def test_error_of_masks_that_are_read_ahead(accelerator, program, images, golden):
    """Whichever CONV's first or last mask word cannot be read, it is named."""
    accelerator.load(program)
    for pc, fields in instructions(program.memory):
        if fields["opcode"] != Opcode.CONV:
            continue
        words = fields["count"] * fields["blocks"]
        for place in (fields["offset"], fields["offset"] + 8 * (words - 1)):
            accelerator.device.add_fault(accelerator.program_address + place, 1, "SLVERR")
            with pytest.raises(AcceleratorError, match=r"BUS_READ \(5\)") as caught:
                accelerator.run(images)
            assert caught.value.pc == pc
            accelerator.device.clear_faults()
    assert_good(accelerator, program, images, golden)


@pytest.mark.parametrize("answer", ["SLVERR", "DECERR"])
def test_bus_errors(accelerator, program, images, golden, answer):
    device = accelerator.device
    masks = field_of(program, Opcode.CONV, "offset")
    accelerator.load(program)
    device.add_fault(accelerator.program_address + masks, 1, answer, writes=False)
    with pytest.raises(AcceleratorError, match=r"BUS_READ \(5\)"):
        accelerator.run(images)
    device.clear_faults()
    device.add_fault(MEMORY_BASE, device.memory_size, answer, reads=False)
    with pytest.raises(AcceleratorError, match=r"BUS_WRITE \(6\)"):
        accelerator.run(images)
    device.clear_faults()
    assert_good(accelerator, program, images, golden)


@pytest.mark.parametrize("act_words", [32, 64])
@pytest.mark.parametrize("stall", [0.0, 0.7])
def test_spilled_tensors(accelerator, images, golden, act_words, stall):
    """Exact beside a slow memory, and just the bytes that were predicted."""
    accelerator.device.configure(stall=stall, seed=act_words)
    for trace in (True, False):
        program = compile_model(MODEL, TARGET, trace=trace, act_words=act_words)
        assert program.predicted_bytes_spilled
        result = Comparison()
        compare_run(accelerator, program, images, golden, result)
        assert result.mismatches == 0, result.first
        run = accelerator.run(images)
        assert run.bytes_read == program.predicted_bytes_read * len(images)
        assert run.bytes_written == program.predicted_bytes_written * len(images)


@pytest.mark.parametrize(("seed", "act_words"), [(12, 128), (24, 128), (31, 64)])
@pytest.mark.parametrize("stall", [0.0, 0.7])
def test_spilled_batches(accelerator, seed, act_words, stall):
    """A head in stripes, image by image, then all images together; a batch is filled up."""
    batch = 2 + seed % 3
    model = random_model(seed, Limits.of(TARGET, max_macs=100_000, frozen=True))
    rng = np.random.default_rng(seed)
    pictures = np.stack([random_image(rng, *model.image) for _ in range(2 * batch - 1)])
    golden = Golden(model).trace(pictures)
    accelerator.device.configure(stall=stall, seed=seed)
    for trace in (True, False):
        program = compile_model(model, TARGET, trace=trace, batch=batch, act_words=act_words)
        assert program.predicted_bytes_spilled
        result = Comparison()
        compare_run(accelerator, program, pictures, golden, result)
        assert result.mismatches == 0, result.first


def test_transfers_that_make_no_sense(accelerator, program, images, golden):
    spilled = compile_model(MODEL, TARGET, act_words=64)
    last = TARGET.act_words - 1
    for opcode, place in ((Opcode.LOAD, "dst"), (Opcode.SAVE, "src")):
        at = offset_of(spilled, opcode)
        good = decode(spilled.memory[at : at + BYTES])
        del good["opcode"], good["signature"]
        for error, changes in (
            (Error.FIELD, {"count": 0}),
            (Error.FIELD, {"offset": good["offset"] + 8}),
            (Error.WINDOW, {"offset": spilled.scratch_bytes}),
            (Error.WINDOW, {"offset": (1 << 32) - TARGET.lanes}),
            (Error.WINDOW, {place: last, "count": 2}),
        ):
            memory = bytearray(spilled.memory)
            memory[at : at + BYTES] = encode(opcode, **good | changes)
            accelerator.load(replace(spilled, memory=bytes(memory)))
            with pytest.raises(AcceleratorError) as raised:
                accelerator.run(images)
            assert (raised.value.code, raised.value.pc) == (error, at), changes
    assert_good(accelerator, program, images, golden)


def test_bus_errors_of_transfers(accelerator, program, images, golden):
    spilled = compile_model(MODEL, TARGET, act_words=64)
    accelerator.load(spilled)
    accelerator.run(images)
    start = accelerator.device.read32(regmap.REGISTERS["SCRATCH"].offset)
    for error, kinds in (
        (Error.BUS_READ, {"writes": False}),
        (Error.BUS_WRITE, {"reads": False}),
    ):
        accelerator.device.add_fault(start, spilled.scratch_bytes, "SLVERR", **kinds)
        with pytest.raises(AcceleratorError) as raised:
            accelerator.run(images)
        assert raised.value.code == error
        accelerator.device.clear_faults()
    assert_good(accelerator, program, images, golden)


def test_watchdog(accelerator, program, images, golden):
    accelerator.load(program)
    with pytest.raises(AcceleratorError, match=r"WATCHDOG \(8\)") as caught:
        accelerator.run(images, watchdog=2000)
    assert 2000 <= caught.value.registers["CYCLES"] < 3000
    assert_good(accelerator, program, images, golden)


def test_memory_that_never_answers_is_no_hang(accelerator, program, images, golden):
    masks = field_of(program, Opcode.CONV, "offset")
    accelerator.load(program)
    accelerator.device.add_fault(accelerator.program_address + masks, 1, "no answer")
    with pytest.raises(AcceleratorTimeout, match="has been reset"):
        accelerator.run(images, watchdog=5000)
    accelerator.device.clear_faults()
    assert_good(accelerator, program, images, golden)


def test_timeout_in_seconds(accelerator, program, images, golden):
    accelerator.load(program)
    many = np.repeat(images, 50, axis=0)
    with pytest.raises(AcceleratorTimeout, match=r"did not finish within 0\.001 s"):
        accelerator.run(many, timeout=0.001)
    assert_good(accelerator, program, images, golden)


def test_wrong_image_size(accelerator, program):
    accelerator.load(program)
    with pytest.raises(ValueError, match=r"shape \[N, 9, 7, 3\]"):
        accelerator.run(np.zeros((1, 7, 9, 3), np.uint8))


def test_register_and_memory_access(accelerator):
    device = accelerator.device
    device.write32(regmap.REGISTERS["IMAGE"].offset, 0xCAFE0000)
    assert device.read32(regmap.REGISTERS["IMAGE"].offset) == 0xCAFE0000
    device.write_memory(MEMORY_BASE + 5, b"abc")
    assert device.read_memory(MEMORY_BASE + 5, 3).tobytes() == b"abc"
    with pytest.raises(DeviceError, match="memory access must lie in"):
        device.write_memory(MEMORY_BASE - 1, b"abc")
    with pytest.raises(ValueError, match=r"^register value must be in 0\.\.2\^32-1, not -1$"):
        device.write32(0x20, -1)
    before = device.cycles
    assert device.advance(100) == 100
    assert device.cycles == before + 100
    assert not device.interrupt


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"read_latency": -1}, r"^read latency must be in 0\.\.2\^20-1 cycles, not -1$"),
        ({"beat_interval": 0}, r"^beat interval must be in 1\.\.2\^20-1 cycles, not 0$"),
        ({"stall": 1.0}, r"^stall must be a probability below 1, not 1\.0$"),
    ],
)
def test_illegal_timing(accelerator, options, text):
    with pytest.raises(ValueError, match=text):
        accelerator.device.configure(**options)


def test_illegal_options_and_closed_device():
    library = simulator_library(
        target_verilog(TARGET, print), bus_bits=TARGET.bus_bits, trace=False, log=print
    )
    with pytest.raises(ValueError, match=r"^memory size must be a multiple of 4096 in .* not 5$"):
        RtlDevice(library, memory_size=5)
    with pytest.raises(DeviceError, match=r"^waveform file '/nowhere/x' cannot be written$"):
        RtlDevice(library, trace_file="/nowhere/x")
    device = RtlDevice(library, memory_size=4096)
    with pytest.raises(ValueError, match=r"^answer must be one of SLVERR, DECERR, no answer, not"):
        device.add_fault(0, 1, "EXOKAY")
    device.close()
    device.close()
    with pytest.raises(DeviceError, match="^the simulator has been closed$"):
        device.read32(0)


def test_two_devices_are_independent(program, images, golden):
    with Accelerator.open("rtl:sim-tiny") as one, Accelerator.open("rtl:sim-tiny") as two:
        one.load(program)
        two.load(damaged(program, BYTES))
        with pytest.raises(AcceleratorError, match="INSTRUCTION_SIGNATURE"):
            two.run(images)
        assert_good(one, program, images, golden)


def test_unknown_target():
    with pytest.raises(ValueError, match="Target must be one of"):
        Accelerator.open("rtl:no-such-target")


def test_cache_builds_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "with blank"))
    made = []

    def make(folder):
        made.append(folder)
        (folder / "file").write_text("content")

    threads = [threading.Thread(target=cached, args=("thing", make)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert " " not in str(made[0])
    assert (cached("thing", make) / "file").read_text() == "content"


def test_failed_build_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fail(folder):
        (folder / "half").write_text("")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="^no$"):
        cached("thing", fail)
    assert not (tmp_path / "hiddenfold" / "thing").exists()
