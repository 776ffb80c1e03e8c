# SPDX-License-Identifier: Apache-2.0
"""The driver on a scripted device: what it writes, and how it fails."""

import tracemalloc

import numpy as np
import pytest
from driver_cases import (
    BASE,
    DIRECTORY,
    OTHER,
    REGISTER_NAMES,
    SIZE,
    ScriptedDevice,
    make_images,
    make_program,
    opened,
)

from hiddenfold.hw import regmap
from hiddenfold.hw.isa import Error
from hiddenfold.sw.driver import control
from hiddenfold.sw.driver import device as device_module
from hiddenfold.sw.driver.accelerator import (
    Accelerator,
    AcceleratorError,
)
from hiddenfold.sw.driver.device import DeviceError, open_device, register


def test_run_writes_registers_and_returns_logits():
    accelerator, device = opened()
    images, seen = make_images(5), []
    result = accelerator.run(images, progress=lambda *arguments: seen.append(arguments))
    expected = images[:, 0, 0, 0].astype(np.int32)[:, None] + np.arange(3)
    assert result.logits.dtype == np.int32
    assert np.array_equal(result.logits, expected)
    assert result.images == 5
    assert result.cycles == (1 << 33) + 50
    assert result.per_image()["bytes_read"] == 7
    assert result.traces is None
    assert seen[-1] == (5, 5, result.cycles)
    (start,) = device.starts
    assert start["PROGRAM"] == BASE and start["PROGRAM_SIZE"] == 256
    assert start["IMAGE"] == BASE + 256 and start["IMAGE_SIZE"] == 5 * 32
    assert start["OUTPUT"] == BASE + 256 + 192 and start["OUTPUT_SIZE"] == 80
    assert start["IMAGES"] == 5 and start["WATCHDOG"] == 16 * 500 + 1_000_000
    assert start["CONTROL"] == regmap.CONTROL_START | regmap.CONTROL_IRQ_ENABLE


def test_top5_sorts_ties_by_label():
    accelerator, _ = opened()
    result = accelerator.run(make_images(2))
    assert result.top5().tolist() == [[2, 1, 0]] * 2


def test_images_that_do_not_fit_together_run_in_parts():
    accelerator, device = opened()
    images = make_images(3000)
    result = accelerator.run(images)
    assert len(device.starts) > 1
    assert sum(start["IMAGES"] for start in device.starts) == 3000
    assert np.array_equal(result.logits[:, 0], images[:, 0, 0, 0])
    assert result.cycles == len(device.starts) * (1 << 33) + 30_000


@pytest.mark.parametrize("count", [3, 7, 3000])
def test_a_last_batch_is_filled_up(count):
    accelerator, device = opened()
    accelerator.load(make_program(batch=3))
    images, seen = make_images(count), []
    result = accelerator.run(images, progress=lambda *arguments: seen.append(arguments[:2]))
    assert all(start["IMAGES"] % 3 == 0 for start in device.starts)
    assert sum(start["IMAGES"] for start in device.starts) == -(-count // 3) * 3
    assert result.processed == -(-count // 3) * 3
    assert result.images == count
    assert result.per_image()["cycles"] == result.cycles / result.processed
    assert np.array_equal(result.logits[:, 0], images[:, 0, 0, 0])
    assert seen[-1] == (count, count)


def test_program_is_loaded_once():
    accelerator, device = opened()
    device.memory_writes.clear()
    accelerator.load(make_program())
    assert not device.memory_writes
    accelerator.load(OTHER)
    assert device.memory_writes == [(BASE + 256, 320), DIRECTORY]


def test_programs_stay_side_by_side():
    accelerator, device = opened()
    accelerator.load(OTHER)
    device.memory_writes.clear()
    for program, place in ((make_program(), BASE), (OTHER, BASE + 256)) * 2:
        accelerator.load(program)
        assert accelerator.run(make_images(1)).images == 1
        start = device.starts[-1]
        assert (start["PROGRAM"], start["PROGRAM_SIZE"]) == (place, len(program.memory))
        assert start["IMAGE"] == BASE + 256 + 320
    assert not device.resets
    assert all(address >= BASE + 576 for address, _ in device.memory_writes)


def test_program_is_found_by_the_next_host_program():
    accelerator, device = opened()
    accelerator.load(OTHER)
    device.memory_writes.clear()
    again = Accelerator(device)
    again.load(OTHER)
    assert not device.memory_writes
    device.memory[256] ^= 1  # OTHER's first byte
    again = Accelerator(device)
    again.load(OTHER)
    assert (BASE + 256, 320) in device.memory_writes


def test_damaged_directory_is_no_directory():
    accelerator, device = opened()
    device.memory[-200] ^= 1
    device.memory_writes.clear()
    Accelerator(device).load(make_program())
    assert device.memory_writes == [(BASE, 256), DIRECTORY]


def test_program_is_written_again_after_the_hardware_found_it_damaged():
    accelerator, device = opened((Error.MASK_SIGNATURE, 128))
    with pytest.raises(AcceleratorError, match="load the program again"):
        accelerator.run(make_images(1))
    device.memory_writes.clear()
    accelerator.load(make_program())
    assert device.memory_writes == [(BASE, 256), DIRECTORY]


def test_others_go_when_there_is_no_room():
    accelerator, device = opened()
    big = make_program(memory=bytes(SIZE - 640))
    accelerator.load(big)
    assert accelerator.program_address == BASE
    accelerator.load(make_program())
    assert accelerator.program_address == BASE
    # One more than the directory can list.
    for number in range(16):
        accelerator.load(make_program(memory=bytes([number + 1] * 64)))
    assert accelerator.program_address == BASE + 64
    assert accelerator.run(make_images(1)).images == 1


def test_program_before_another_keeps_its_place_when_room_is_needed():
    accelerator, device = opened()
    accelerator.load(OTHER)
    needy = make_program(scratch_bytes=SIZE - 1024)
    accelerator.load(needy)
    assert accelerator.program_address == BASE
    assert accelerator.run(make_images(1)).images == 1


def test_load_reports_progress():
    accelerator, _ = opened()
    seen = []
    accelerator.load(OTHER, progress=lambda *values: seen.append(values))
    assert seen == [(320, 320)]


def test_register_that_does_not_keep_its_value():
    accelerator, device = opened()
    write = device.write32

    def forgetful(offset, value):
        write(offset, value ^ 4 * (offset == regmap.REGISTERS["OUTPUT"].offset))

    device.write32 = forgetful
    with pytest.raises(AcceleratorError, match=r"^register OUTPUT reads 0x\w+ after 0x\w+ was"):
        accelerator.run(make_images(1))
    assert not device.starts


def test_memory_in_place_of_registers(monkeypatch):
    monkeypatch.setattr(control, "_REACTION_SECONDS", 0.01)
    accelerator, device = opened()
    device.write32 = lambda offset, value: device.values.update({REGISTER_NAMES[offset]: value})
    with pytest.raises(AcceleratorError, match="^register STATUS keeps DONE or ERROR, .* memory"):
        accelerator.run(make_images(1))


def test_accelerator_that_does_not_start(monkeypatch):
    monkeypatch.setattr(control, "_REACTION_SECONDS", 0.01)
    accelerator, device = opened()
    device._start = lambda: None
    with pytest.raises(AcceleratorError, match="^register CONTROL took START, .* in reset$"):
        accelerator.run(make_images(1))


def test_start_that_got_lost_is_repeated():
    accelerator, device = opened()
    accelerator.run(make_images(1))
    write, lost = device.write32, [regmap.REGISTERS["CONTROL"].offset]

    def lossy(offset, value):
        if value and offset in lost:
            lost.remove(offset)
        else:
            write(offset, value)

    device.write32 = lossy
    images = make_images(2)
    assert np.array_equal(accelerator.run(images).logits[:, 0], images[:, 0, 0, 0])
    assert not lost


def test_program_for_another_target_is_refused():
    accelerator, device = opened()
    with pytest.raises(AcceleratorError, match=r"^program 'net' was compiled for target 'x' ") as e:
        accelerator.load(make_program(target="x", target_id=7))
    assert e.value.code == Error.TARGET
    assert "compile the model for this accelerator's target" in str(e.value)


def test_memory_that_forgets_is_noticed():
    accelerator, _ = opened(damage=True)
    with pytest.raises(AcceleratorError, match="does not read back as written"):
        accelerator.load(make_program())
    assert accelerator.program is None


def test_too_little_memory_is_noticed():
    accelerator, _ = opened()
    big = make_program(output_bytes=SIZE, model="big")
    with pytest.raises(AcceleratorError, match=r"^program 'big' needs \d+ bytes of memory"):
        accelerator.load(big)


def test_error_names_code_layer_and_instruction():
    accelerator, device = opened((Error.MASK_SIGNATURE, 128))
    with pytest.raises(AcceleratorError) as caught:
        accelerator.run(make_images(1))
    error = caught.value
    assert error.code == Error.MASK_SIGNATURE
    assert error.pc == 128
    assert error.instruction.startswith("CONV dst=0")
    assert error.registers["ERROR"] == Error.MASK_SIGNATURE
    assert "MASK_SIGNATURE (3) at program offset 0x80, layer 'classifier'" in str(error)
    assert "load the program again" in str(error)
    assert np.array_equal(accelerator.run(make_images(1)).logits.shape, (1, 3))


@pytest.mark.parametrize("pc", [3, 256, 1 << 31])
def test_error_outside_the_program_is_reported_too(pc):
    accelerator, _ = opened((99, pc))
    with pytest.raises(AcceleratorError, match=r"error code 99 \(99\) at program offset") as caught:
        accelerator.run(make_images(1))
    assert caught.value.instruction is None


@pytest.mark.parametrize("code", [code for code in Error if code])
def test_every_error_code_has_a_remedy(code):
    accelerator, _ = opened((code, 0))
    with pytest.raises(AcceleratorError, match=rf"{code.name} \({code}\) .*: \w.{{20}}"):
        accelerator.run(make_images(1))


@pytest.mark.parametrize(
    ("images", "error", "text"),
    [
        (np.zeros((1, 2, 4, 3), np.uint8), ValueError, r"shape \[N, 2, 3, 3\] .* \[1, 2, 4, 3\]$"),
        (np.zeros((0, 2, 3, 3), np.uint8), ValueError, r"with N >= 1 .* \[0, 2, 3, 3\]$"),
        (np.zeros((2, 3, 3), np.uint8), ValueError, r"not \[2, 3, 3\]$"),
        (np.zeros((1, 2, 3, 3), np.float32), TypeError, r"uint8, not float32$"),
    ],
)
def test_wrong_images_are_refused(images, error, text):
    accelerator, device = opened()
    with pytest.raises(error, match=text):
        accelerator.run(images)
    assert not device.starts


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"timeout": 0}, r"^timeout must be a positive number of seconds, not 0$"),
        ({"watchdog": 0}, r"^watchdog must be in 1\.\.2\^32-1 cycles, not 0$"),
        ({"watchdog": 1 << 32}, r"^watchdog must be in 1"),
    ],
)
def test_wrong_limits_are_refused(options, text):
    accelerator, _ = opened()
    with pytest.raises(ValueError, match=text):
        accelerator.run(make_images(1), **options)


def test_run_without_program():
    with pytest.raises(AcceleratorError, match="no program is loaded"):
        Accelerator(ScriptedDevice()).run(make_images(1))


def test_load_of_something_else():
    with pytest.raises(TypeError, match="^program must be a Program or the path of one, not 3$"):
        Accelerator(ScriptedDevice()).load(3)


def test_unfinished_images_are_noticed():
    accelerator, device = opened()
    device.values["IMAGES_DONE"] = 0
    device._start = lambda: device.values.update(STATUS=regmap.STATUS_DONE)
    with pytest.raises(AcceleratorError, match="finished 0 of 1 images without an error"):
        accelerator.run(make_images(1))


@pytest.mark.parametrize(
    ("register_name", "value", "text"),
    [
        ("ID", 0xDEADBEEF, "no Hiddenfold accelerator: ID must be 0x314e4648, not 0xdeadbeef"),
        ("VERSION", 3 << 16, "major version must be 2, not 3"),
    ],
)
def test_other_hardware_is_refused(register_name, value, text):
    device = ScriptedDevice()
    device.values[register_name] = value
    with pytest.raises(AcceleratorError, match=text):
        Accelerator(device)


def test_urls_and_closing():
    device = ScriptedDevice()
    register("scripted", lambda rest, **options: device)
    with Accelerator.open("scripted:x", option=1) as accelerator:
        assert accelerator.device is device
    assert device.closed
    device.closed, device.values["ID"] = False, 0
    with pytest.raises(AcceleratorError):
        Accelerator.open("scripted")
    assert device.closed
    with pytest.raises(
        ValueError, match=r"^device URL must start with one of litex, rtl, .*'nothing:x'$"
    ):
        open_device("nothing:x")
    with pytest.raises(TypeError, match="^device URL must be a string, not None$"):
        open_device(None)


def test_scheme_of_another_package(monkeypatch):
    class Point:
        name = "my-board"

        def load(self):
            return lambda rest, **options: (rest, options)

    monkeypatch.setattr(device_module, "entry_points", lambda *, group: [Point()])
    assert open_device("my-board:7", speed=3) == ("7", {"speed": 3})
    with pytest.raises(ValueError, match=r"^device URL must start with one of .*my-board, .*'x'$"):
        open_device("x")


def test_nothing_is_kept_of_a_run():
    accelerator, device = opened()
    images = make_images(4)
    tracemalloc.start()
    try:
        for number in range(100):
            accelerator.run(images)
            device.starts.clear()
            device.memory_writes.clear()
            if number == 9:
                before, _ = tracemalloc.get_traced_memory()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Less than one result's logits for each of 90 runs.
    assert after - before < 90 * 48


def test_memory_range_is_checked():
    device = ScriptedDevice()
    for address, size in ((BASE - 1, 4), (BASE, SIZE + 1), (BASE + SIZE, 1), (BASE, -1)):
        with pytest.raises(DeviceError, match=r"^memory access must lie in 0x8000\.\.0x18000, not"):
            device.read_memory(address, size)
    assert len(device.read_memory(BASE + SIZE, 0)) == 0
