# SPDX-License-Identifier: Apache-2.0
"""What all bridges share: windows, bytes, what is read and written twice, options."""

import struct

import numpy as np
import pytest
from driver_cases import Words

from hiddenfold.hw import regmap
from hiddenfold.sw.driver import uart
from hiddenfold.sw.driver.bridge import OPTIONS, BridgeDevice
from hiddenfold.sw.driver.device import DeviceError
from hiddenfold.sw.driver.url import seconds, split_url


def test_bridge_writes_bytes_anywhere():
    device = BridgeDevice(Words(), memory=0, base=0x1000, size=1 << 16)
    copy = bytearray(range(256)) * 16
    device.write_memory(0x1000, copy)
    for address, size in ((1, 1), (3, 2), (7, 9), (8, 4), (12, 3), (0, 0), (4000, 95)):
        data = bytes(reversed(range(size % 250)))
        device.write_memory(0x1000 + address, data)
        copy[address : address + len(data)] = data
        assert device.read_memory(0x1000 + address, size).tobytes() == copy[address:][:size]
    assert device.read_memory(0x1000, 4096).tobytes() == bytes(copy)


def test_bridge_checks_what_it_writes_and_reads():
    link = Words()
    device = BridgeDevice(link, memory=0, size=1 << 16)
    link.stuck = 9
    device.write_memory(0, bytes(400))
    with pytest.raises(
        DeviceError, match=r"bus address 0x24 does not keep what is written, 3 times"
    ):
        device.write_memory(0, b"\1" * 400)
    link.stuck, link.moody = None, 5
    with pytest.raises(DeviceError, match=r"bus address 0x0 reads differently each of 3 times"):
        device.read_memory(0, 400)
    link.moody, link.reads, link.writes = None, 0, 0
    plain = BridgeDevice(link, memory=0, size=1 << 16, check=False)
    plain.write_memory(0, bytes(400))
    plain.read_memory(0, 400)
    assert (link.reads, link.writes) == (100, 100)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"registers": 4}, r"^registers must be a multiple of 4096 below 2\^32, not 0x4$"),
        ({"memory": 1 << 32}, r"^memory must be a multiple of 64 below 2\^32, not 0x100000000$"),
        ({"size": 1 << 32}, r"^size must be a multiple of 64 in 64\.\.0xc0000000, not 0x1000"),
    ],
)
def test_bridge_with_illegal_windows(options, text):
    with pytest.raises(ValueError, match=text):
        BridgeDevice(Words(), **options)


def test_uartbone_bytes(monkeypatch):
    """The protocol byte by byte: that of LiteX."""

    class Port:
        def __init__(self, *arguments, **options):
            self.sent, self.answer = b"", b""

        def write(self, data):
            self.sent += data

        def read(self, size):
            return self.answer[:size]

        def reset_input_buffer(self):
            pass

    import serial

    monkeypatch.setattr(serial, "serial_for_url", Port)
    link = uart.UartLink("x", baud=115_200)
    link.write(0x4000_0010, np.array([0x01020304, 5], np.uint32))
    assert link._port.sent.hex() == "0102" + "10000004" + "01020304" + "00000005"
    link._port.sent, link._port.answer = b"", struct.pack(">I", 0xA1B2C3D4)
    assert link.read(0x8000_0014, 1).tolist() == [0xA1B2C3D4]
    assert link._port.sent.hex() == "0201" + "20000005"
    # A command is over long before a bridge gives it up.
    assert (6 + 4 * link.max_words) * 10 / 115_200 < 0.05


def test_moving_registers_are_checked_when_they_stand_still() -> None:
    """A flipped bit in a counter of an accelerator that does not run."""
    link = Words()
    device = BridgeDevice(link, registers=0)
    cycles = regmap.REGISTERS["CYCLES"].offset // 4
    read, flips = link.read, [1]

    def noisy(address: int, count: int) -> np.ndarray:
        words = read(address, count)
        if flips and address // 4 <= cycles < address // 4 + count:
            words[cycles - address // 4] ^= 1 << 20
            flips.pop()
        return words

    link.read = noisy
    assert device.read_registers(4 * cycles, 2) == [0, 0]
    # One that counts is read all the same.
    link.read, link.moody = read, cycles
    assert device.read_registers(4 * cycles, 2)[0] > 0


def test_options_of_a_call_are_read_like_those_of_a_url() -> None:
    kinds = {**OPTIONS, "timeout": seconds}
    _, found = split_url("serial", "x", kinds, {"check": "off", "size": "32M", "flash": None})
    assert found == {"check": False, "size": 32 << 20}
    _, found = split_url("serial", "x", kinds, {"check": True, "clock": 45, "base": 64})
    assert found == {"check": True, "clock": 45.0, "base": 64}
    assert split_url("serial", "x?size=010", kinds, {})[1] == {"size": 10}
    with pytest.raises(
        ValueError, match=r"^option timeout of a serial: URL must be a time above 0"
    ):
        split_url("serial", "x", kinds, {"timeout": -1})
    for base in (33, 1 << 32, (1 << 32) - 64):
        with pytest.raises(ValueError, match=r"^(base|size) must be a multiple of 64"):
            BridgeDevice(Words(), base=base)
