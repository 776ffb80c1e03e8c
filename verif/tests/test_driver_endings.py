# SPDX-License-Identifier: Apache-2.0
"""How runs end on a scripted device: limits, aborts, closing, and accelerators that hang."""

import threading
import time

import numpy as np
import pytest
from driver_cases import BASE, OTHER, make_images, make_program, opened

from hiddenfold.hw import regmap
from hiddenfold.hw.isa import Error
from hiddenfold.sw.driver.accelerator import AcceleratorError, AcceleratorTimeout
from hiddenfold.sw.driver.device import DeviceError


def test_submitted_runs_take_turns():
    accelerator, _ = opened()
    images = [make_images(n) for n in (1, 2, 3)]
    futures = [accelerator.submit(part) for part in images]
    for part, future in zip(images, futures, strict=True):
        assert np.array_equal(future.result(10).logits[:, 0], part[:, 0, 0, 0])
    with pytest.raises(TypeError, match="uint8, not float64"):
        accelerator.submit(np.zeros(3)).result(10)


def test_abort_from_another_thread():
    accelerator, device = opened("abortable")
    future = accelerator.submit(make_images(1), watchdog=(1 << 32) - 1)
    while not device.waited:
        time.sleep(0.001)
    accelerator.abort()
    with pytest.raises(AcceleratorError, match="^the run was aborted by the host") as caught:
        future.result(10)
    assert caught.value.code == Error.ABORTED
    assert accelerator.run(make_images(1)).images == 1


def test_close_ends_what_is_under_way():
    accelerator, device = opened("abortable")
    future = accelerator.submit(make_images(1), watchdog=(1 << 32) - 1)
    while not device.waited:
        time.sleep(0.001)
    accelerator.close()
    assert device.closed
    with pytest.raises(AcceleratorError, match="aborted by the host"):
        future.result(0)


def test_accelerator_that_is_busy_is_stopped_first():
    accelerator, device = opened("abortable")
    device.write32(regmap.REGISTERS["CONTROL"].offset, regmap.CONTROL_START)
    accelerator.load(OTHER)
    assert not device.values["STATUS"] & regmap.STATUS_BUSY


def test_hang_without_reset_is_no_hang():
    accelerator, device = opened("hang")

    def cannot():
        raise DeviceError("there is no wire")

    device.reset = cannot
    with pytest.raises(AcceleratorTimeout, match=r"cannot be reset \(there is no wire\)"):
        accelerator.run(make_images(1), watchdog=5000)


def test_hang_ends_after_the_watchdog():
    accelerator, device = opened("hang")
    with pytest.raises(AcceleratorTimeout, match="nor did its watchdog stop it") as caught:
        accelerator.run(make_images(1), watchdog=5000)
    assert "has been reset" in str(caught.value)
    assert device.resets == 1
    assert 5000 < device.waited < 100_000
    assert accelerator.run(make_images(1)).images == 1


def test_timeout_aborts_what_can_be_aborted():
    accelerator, device = opened("abortable")

    def slow(cycles: int) -> int:
        time.sleep(0.6)
        return cycles

    device.wait = slow
    with pytest.raises(AcceleratorTimeout, match=r"within 0\.5 s \(STATUS BUSY, "):
        accelerator.run(make_images(1), timeout=0.5)
    assert device.resets == 0
    assert accelerator.run(make_images(1)).images == 1


def test_timeout_and_abort_hold_between_the_starts_too():
    accelerator, device = opened()
    write = device.write_memory

    def slow(address, data):
        time.sleep(0.02)
        write(address, data)

    device.write_memory = slow
    with pytest.raises(AcceleratorTimeout, match=r"^the accelerator did not finish within 0\.01 s"):
        accelerator.run(make_images(9), timeout=0.01)
    assert not device.starts
    future = accelerator.submit(make_images(3000))
    while not device.starts:
        time.sleep(0.001)
    accelerator.abort()
    with pytest.raises(AcceleratorError, match="aborted by the host"):
        future.result()
    assert accelerator.run(make_images(1)).images == 1


def test_long_runs_are_guarded_in_parts():
    """The watchdog's register has 32 bits; the default limit is 16 times the prediction."""
    accelerator, device = opened()
    accelerator.load(make_program(predicted_cycles=1 << 26))
    assert accelerator.run(make_images(10)).images == 10
    assert [start["IMAGES"] for start in device.starts] == [3, 3, 3, 1]
    assert {start["WATCHDOG"] for start in device.starts} == {
        3 * 16 * (1 << 26) + 1_000_000,
        16 * (1 << 26) + 1_000_000,
    }
    # One image alone is too long: the host alone ends it.
    accelerator.load(make_program(predicted_cycles=1 << 29))
    accelerator.run(make_images(1))
    assert device.starts[-1]["WATCHDOG"] == 0


def test_a_slower_clock_than_expected_is_waited_for():
    """Cycles that a device estimates are compared with those that the accelerator counts."""
    accelerator, device = opened("hang")
    looks = []

    def wait(cycles: int) -> int:
        looks.append(cycles)
        device.values["CYCLES"] += cycles // 3
        if device.values["CYCLES"] > 4000:
            device.values |= {"STATUS": regmap.STATUS_DONE, "IMAGES_DONE": 1}
        return cycles

    device.wait = wait
    device.values["CYCLES"] = 0
    assert accelerator.run(make_images(1), watchdog=5000).images == 1
    assert sum(looks) > 5000


def test_a_damaged_program_is_written_again():
    accelerator, device = opened((Error.MASK_SIGNATURE, 0))
    good = device.memory[: len(make_program().memory)].copy()
    with pytest.raises(AcceleratorError, match="MASK_SIGNATURE"):
        accelerator.run(make_images(1))
    device.memory[5] ^= 1
    assert accelerator.run(make_images(9)).images == 9
    assert np.array_equal(device.memory[: len(good)], good)
    assert device.starts[-1]["IMAGE"] >= BASE + len(good)


def test_close_ends_a_run_that_waits_for_its_turn():
    accelerator, device = opened()
    with accelerator._turn:
        future = accelerator.submit(make_images(3))
        closing = threading.Thread(target=accelerator.close)
        closing.start()
        while not accelerator._closed:
            time.sleep(0.001)
    closing.join()
    assert future.cancelled() or isinstance(future.exception(), AcceleratorError)
    assert not device.starts and device.closed


def test_abort_in_the_running_thread_leaves_the_device_alone():
    """As from a signal handler in the middle of a transaction."""
    accelerator, device = opened("abortable")
    wait, inside = device.wait, []

    def interrupted(cycles: int) -> int:
        before = device.values["CONTROL"]
        accelerator.abort()
        inside.append(device.values["CONTROL"] == before)
        return wait(cycles)

    device.wait = interrupted
    with pytest.raises(AcceleratorError, match="aborted by the host"):
        accelerator.run(make_images(1))
    assert inside[0]


def test_whatever_ends_a_run_stops_the_accelerator():
    accelerator, device = opened("abortable")

    def progress(*_: int) -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        accelerator.run(make_images(1), progress=progress)
    assert not device.values["STATUS"] & regmap.STATUS_BUSY
