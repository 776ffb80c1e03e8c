# SPDX-License-Identifier: Apache-2.0
"""``uio:`` devices: registers and memory mapped into this process, as on a Zynq under Linux.

``uio:/dev/uio0?memory=/dev/udmabuf0`` takes registers and the interrupt from a UIO device and
memory from a u-dma-buf, which tells its own address and size. ``memory=pynq&size=16M`` allocates
memory with PYNQ. ``uio:/dev/mem?registers=0x43c00000&memory=/dev/mem&base=0x1e000000&size=16M``
needs no kernel driver, but the rights to map physical memory and memory that Linux does not use
(kernel parameter ``mem=``), and no interrupt comes.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import select
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np

from hiddenfold.sw.driver.bridge import CLOCK_MHZ
from hiddenfold.sw.driver.device import Device, DeviceError
from hiddenfold.sw.driver.url import megahertz, number, split_url

MEMORY_FILE = "/dev/udmabuf0"
_WINDOW = 4096
#: Where a u-dma-buf tells its address and size.
_SYSTEM = Path("/sys/class/u-dma-buf")
#: Longest time in seconds between two looks at a device without interrupt.
_NAP = 0.001
_PHYSICAL = "/dev/mem"
_OPTIONS: dict[str, Callable[[str], Any]] = {
    "registers": number,
    "memory": str,
    "base": number,
    "size": number,
    "clock": megahertz,
}


class UioDevice(Device):
    """An accelerator whose registers and memory are windows of files that can be mapped.

    Parameters
    ----------
    path
        File of the registers: ``/dev/uioN`` or ``/dev/mem``. It is locked: one program at a time.
    registers
        Their place in the file; the physical address for ``/dev/mem``, else 0.
    memory
        File of the memory, or ``pynq``.
    base, size
        The accelerator's address of the memory, and its bytes. A u-dma-buf tells both.
    clock
        The accelerator's clock in MHz, to estimate how long a run takes.
    """

    def __init__(
        self,
        path: str,
        *,
        registers: int = 0,
        memory: str = MEMORY_FILE,
        base: int | None = None,
        size: int | None = None,
        clock: float = CLOCK_MHZ,
    ):
        self._path, self._clock = path, clock
        self._undo = contextlib.ExitStack()
        try:
            self._file = self._open(path)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise DeviceError(f"{path} is in use by another program: close it first") from error
            window = self._map(path, self._file, registers, _WINDOW)
            self._registers = np.frombuffer(window, "<u4")
            self._interrupts = path != _PHYSICAL and stat.S_ISCHR(os.fstat(self._file).st_mode)
            if memory == "pynq":
                if base is not None:
                    raise ValueError(
                        "uio: URL must have no base with memory=pynq, which gives it, not "
                        f"{base:#x}"
                    )
                self._memory, self.memory_base = _allocate(size)
            else:
                base, size = _address(memory, base, size)
                file = self._open(memory)
                place = base if memory == _PHYSICAL else 0
                self._memory = np.frombuffer(self._map(memory, file, place, size), np.uint8)
                self.memory_base = base
            self.memory_size = len(self._memory)
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, rest: str, **options) -> Self:
        """Open ``PATH?memory=...``; the options are those of the constructor."""
        path, found = split_url("uio", rest, _OPTIONS, options)
        return cls(path or "/dev/uio0", **found)

    def read32(self, offset: int) -> int:
        return int(self._window()[offset // 4])

    def write32(self, offset: int, value: int) -> None:
        self._window()[offset // 4] = value

    def read_memory(self, address: int, size: int) -> np.ndarray:
        self._window()
        self.check_range(address, size)
        offset = address - self.memory_base
        return self._memory[offset : offset + size].copy()

    def write_memory(self, address: int, data: np.ndarray | bytes) -> None:
        self._window()
        data = np.frombuffer(data, np.uint8)
        self.check_range(address, len(data))
        offset = address - self.memory_base
        self._memory[offset : offset + len(data)] = data

    def wait(self, cycles: int) -> int:
        self._window()
        started = time.monotonic()
        seconds = cycles / (self._clock * 1e6)
        if self._interrupts:
            try:
                # Writing 1 lets one more interrupt through, reading takes it.
                os.write(self._file, (1).to_bytes(4, "little"))
            except OSError as error:
                if error.errno not in (errno.EIO, errno.ENOSYS):
                    raise self._gone(error) from error
                # The device tree gives it no interrupt.
                self._interrupts = False
        if self._interrupts:
            try:
                if select.select([self._file], [], [], seconds)[0]:
                    os.read(self._file, 4)
            except OSError as error:
                raise self._gone(error) from error
        else:
            time.sleep(min(seconds, _NAP))
        return round((time.monotonic() - started) * self._clock * 1e6)

    def _gone(self, error: OSError) -> DeviceError:
        return DeviceError(f"{self._path} has gone: load the bitstream and open it again ({error})")

    def reset(self) -> None:
        raise DeviceError("uio: devices cannot reset the accelerator: load the bitstream again")

    def close(self) -> None:
        # The arrays would dangle.
        self._registers = self._memory = np.zeros(0, np.uint32)
        self._undo.close()

    def _open(self, path: str) -> int:
        try:
            file = os.open(path, os.O_RDWR | os.O_SYNC)
        except OSError as error:
            remedy = {
                PermissionError: "run as root, or give yourself the right by a udev rule",
                FileNotFoundError: "load the bitstream and its device tree overlay",
            }.get(type(error), "check the device tree")
            raise DeviceError(f"{path} cannot be opened: {remedy} ({error.strerror})") from error
        self._undo.callback(os.close, file)
        return file

    def _map(self, path: str, file: int, offset: int, size: int) -> mmap.mmap:
        try:
            window = mmap.mmap(file, size, offset=offset)
        except (OSError, ValueError) as error:
            raise DeviceError(
                f"{size} bytes of {path} at {offset:#x} cannot be mapped: check address and size, "
                f"which must be multiples of {mmap.PAGESIZE} ({error})"
            ) from error
        # Arrays that someone still holds keep it alive.
        self._undo.push(lambda *_: _close(window))
        return window

    def _window(self) -> np.ndarray:
        if not len(self._registers):
            raise DeviceError("the uio: device has been closed")
        return self._registers


def _close(window: mmap.mmap) -> None:
    with contextlib.suppress(BufferError):
        window.close()


def _address(memory: str, base: int | None, size: int | None) -> tuple[int, int]:
    """Return address and size of the memory, asking a u-dma-buf for what is missing."""
    known = _SYSTEM / Path(memory).name
    if base is None and (known / "phys_addr").is_file():
        base = int((known / "phys_addr").read_text(encoding="ascii"), 0)
    if size is None and (known / "size").is_file():
        size = int((known / "size").read_text(encoding="ascii"), 0)
    if base is None or size is None:
        raise ValueError(
            f"uio: URL must have base and size of the memory {memory}, which does not tell them: "
            f"uio:...?memory={memory}&base=0x...&size=16M"
        )
    if not 0 <= base < base + size <= 1 << 32:
        raise ValueError(f"memory must lie below 2^32, not at {base:#x}..{base + size:#x}")
    return base, size


def _allocate(size: int | None) -> tuple[Any, int]:
    """Return memory of PYNQ's allocator, uint8 [size], and its physical address."""
    if size is None:
        raise ValueError("uio: URL must have the size of the memory: uio:...?memory=pynq&size=16M")
    try:
        import pynq
    except ModuleNotFoundError as error:
        raise DeviceError("memory=pynq needs the package pynq of the board's image") from error
    buffer = pynq.allocate((size,), np.uint8, cacheable=False)
    return buffer, buffer.physical_address
