# SPDX-License-Identifier: Apache-2.0
"""Devices behind a bridge: registers and memory are windows of a bus of 32-bit words."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from hiddenfold.hw import regmap
from hiddenfold.sw.driver.device import Device, DeviceError
from hiddenfold.sw.driver.flash_store import BUFFER_BYTES, FlashStore
from hiddenfold.sw.driver.url import megahertz, number, switch

#: Where the board tops of Hiddenfold have the windows, and the memory of the smallest ULX3S.
REGISTERS, MEMORY, MEMORY_SIZE = 0x8000_0000, 0x4000_0000, 32 << 20
CLOCK_MHZ = 100.0
#: Times that a block is written or read until both sides agree on it.
TRIES = 3
#: Bytes that are compared together.
_BLOCK = 16 << 10
_NAMES = {
    register.offset + 4 * word: name
    for name, register in regmap.REGISTERS.items()
    for word in range(1 + register.wide)
}
#: Registers that change by themselves while the accelerator runs, but once at its end.
_MOVING = {
    offset
    for offset, name in _NAMES.items()
    if regmap.REGISTERS[name].wide or name == "IMAGES_DONE"
}

#: The options of URLs that :class:`BridgeDevice` understands.
OPTIONS = {
    "registers": number,
    "memory": number,
    "base": number,
    "size": number,
    "clock": megahertz,
    "check": switch,
    "flash": number,
}


class Link(ABC):
    """What carries words to a bus and back; raises :class:`DeviceError` when it fails.

    Every call ends after a time that is known when it begins. ``name`` is for messages.
    """

    name: str
    #: A flipped bit can go unnoticed on the way.
    lossy: bool

    @abstractmethod
    def read(self, address: int, count: int) -> np.ndarray:
        """Return ``count`` words from a byte address on as an array of uint32."""

    @abstractmethod
    def write(self, address: int, words: np.ndarray) -> None:
        """Write an array of uint32 from a byte address on."""

    @abstractmethod
    def close(self) -> None:
        """Free what the link uses."""


class BridgeDevice(Device):
    """An accelerator on the bus of a :class:`Link`.

    Parameters
    ----------
    link
        Carries the words; it is closed with the device.
    registers, memory
        Addresses of the two windows on the bus.
    base
        Address by which the accelerator reaches the first byte of ``memory``; default: the same.
    size
        Bytes of memory.
    clock
        The accelerator's clock in MHz, to estimate how long a run takes.
    check
        Read back and compare what is written to memory, read everything twice; a block that
        differs is repeated. Default: on a link that is lossy.
    flash
        Programs are in a flash, from this address of it on; default: in memory.
    """

    slow_memory = True

    def __init__(
        self,
        link: Link,
        *,
        registers: int = REGISTERS,
        memory: int = MEMORY,
        base: int | None = None,
        size: int | None = None,
        clock: float = CLOCK_MHZ,
        check: bool | None = None,
        flash: int | None = None,
    ):
        if size is None:
            size = MEMORY_SIZE if flash is None else BUFFER_BYTES
        for name, value, bits in (("registers", registers, 12), ("memory", memory, 6)):
            if value % (1 << bits) or not 0 <= value < 1 << 32:
                raise ValueError(
                    f"{name} must be a multiple of {1 << bits} below 2^32, not {value:#x}"
                )
        base = memory if base is None else base
        if base % 64 or not 0 <= base < 1 << 32:
            raise ValueError(f"base must be a multiple of 64 below 2^32, not {base:#x}")
        most = (1 << 32) - max(memory, base)
        if not 0 < size <= most or size % 64:
            raise ValueError(f"size must be a multiple of 64 in 64..{most:#x}, not {size:#x}")
        self.link = link
        self.memory_base, self.memory_size = base, size
        self.checks_writes = link.lossy if check is None else check
        self._registers, self._memory, self._clock = registers, memory, clock
        if flash is not None:
            self.store = FlashStore(self, flash)

    def read32(self, offset: int) -> int:
        return self.read_registers(offset, 1)[0]

    def write32(self, offset: int, value: int) -> None:
        self.write_registers(offset, [value])

    def read_registers(self, offset: int, count: int) -> list[int]:
        place = self._registers + offset
        still = [i for i in range(count) if offset + 4 * i not in _MOVING]
        try:
            last = self.link.read(place, count).tolist()
            agreed = not self.checks_writes
            for _ in range(TRIES if self.checks_writes else 0):
                found = self.link.read(place, count).tolist()
                if found == last:
                    return found
                agreed = all(found[i] == last[i] for i in still)
                last = found
            # Those that move need not agree.
            if agreed:
                return last
            raise DeviceError(
                f"{self.link.name} reads differently each of {TRIES} times: check the cable and "
                "the bit rate"
            )
        except DeviceError as error:
            raise DeviceError(f"{error} (reading register {_register(offset)})") from error

    def write_registers(self, offset: int, values: Sequence[int]) -> None:
        try:
            self.link.write(self._registers + offset, np.array(values, np.uint32))
        except DeviceError as error:
            raise DeviceError(f"{error} (writing register {_register(offset)})") from error

    def read_memory(self, address: int, size: int) -> np.ndarray:
        self.check_range(address, size)
        before = address % 4
        place = address - before - self.memory_base + self._memory
        words = self.read_bus(place, -(-(before + size) // 4))
        return words.astype("<u4").view(np.uint8)[before : before + size]

    def read_bus(self, place: int, count: int) -> np.ndarray:
        """Return words of the bus, checked, as an array of uint32."""
        parts = [
            self._agreed(place + 4 * first, min(_BLOCK // 4, count - first))
            for first in range(0, count, _BLOCK // 4)
        ]
        return np.concatenate([np.zeros(0, np.uint32), *parts])

    def write_memory(self, address: int, data: np.ndarray | bytes) -> None:
        data = np.frombuffer(data, np.uint8)
        self.check_range(address, len(data))
        before, after = address % 4, -(address + len(data)) % 4
        if before or after:
            # Words at the ends keep their other bytes; the window has whole words only.
            start, size = address - before, before + len(data) + after
            old = self.read_memory(start, size)
            old[before : before + len(data)] = data
            address, data = start, old
        words = data.view("<u4").astype(np.uint32)
        for first in range(0, len(words), _BLOCK // 4):
            place = address - self.memory_base + self._memory + 4 * first
            self._store(place, words[first : first + _BLOCK // 4])

    def wait(self, cycles: int) -> int:
        started = time.monotonic()
        time.sleep(cycles / (self._clock * 1e6))
        return round((time.monotonic() - started) * self._clock * 1e6)

    def reset(self) -> None:
        raise DeviceError(f"{self.link.name} cannot reset the accelerator: configure the FPGA anew")

    def close(self) -> None:
        self.link.close()

    def _store(self, place: int, words: np.ndarray) -> None:
        """Write a block, and again where it does not read back as written."""
        for _ in range(TRIES):
            self._carry(place, words)
            if not self.checks_writes:
                return
            wrong = np.flatnonzero(self._carry(place, len(words)) != words)
            if not len(wrong):
                return
            first, last = int(wrong[0]), int(wrong[-1]) + 1
            place, words = place + 4 * first, words[first:last]
        raise DeviceError(
            f"{self.link.name}: bus address {place:#x} does not keep what is written, {TRIES} "
            "times: check the address of the memory, the cable and the bit rate"
        )

    def _agreed(self, place: int, count: int) -> np.ndarray:
        """Read a block until two readings agree."""
        last = self._carry(place, count)
        if not self.checks_writes:
            return last
        for _ in range(TRIES):
            found = self._carry(place, count)
            if np.array_equal(found, last):
                return found
            last = found
        raise DeviceError(
            f"{self.link.name}: bus address {place:#x} reads differently each of {TRIES} times: "
            "check the cable and the bit rate"
        )

    def _carry(self, place: int, words: Any) -> np.ndarray:
        """Write an array of words at a bus address, or read a number of them."""
        try:
            if isinstance(words, int):
                return self.link.read(place, words)
            self.link.write(place, words)
            return words
        except DeviceError as error:
            raise DeviceError(f"{error} (bus address {place:#x})") from error


def _register(offset: int) -> str:
    return f"{_NAMES.get(offset, 'reserved')} at {offset:#04x}"
