# SPDX-License-Identifier: Apache-2.0
"""Programs in the serial flash of a board without DRAM: what writes and finds them.

The accelerator and the host read the flash as memory from bus address 0 on. It is written through
the raw port of :mod:`hiddenfold.hw.flash_port`: sectors are erased, then pages programmed, and
compared with what they should be.
"""

import time
from typing import TYPE_CHECKING

import numpy as np

from hiddenfold.sw.driver.device import DeviceError

if TYPE_CHECKING:
    from hiddenfold.sw.driver.bridge import BridgeDevice

FLASH_BYTES = 16 << 20
SECTOR, PAGE = 4096, 256
#: Where programs begin in a flash that has the FPGA's configuration as well.
PROGRAMS_AT = 2 << 20
#: Bytes of the on-chip buffer of such a board, unless the URL says so.
BUFFER_BYTES = 16 << 10
PORT = 0x8000_1000
_SELECT, _BYTE, _WORDS = PORT, PORT + 4, PORT + 0x100
_WRITE_ENABLE, _STATUS, _ERASE, _PROGRAM = 0x06, 0x05, 0x20, 0x02
_BUSY = 0x01
_TRIES = 3
#: Seconds that an erase may take at most; parts say 0.4.
_ERASE_SECONDS = 2.0


class FlashStore:
    """The part of a flash from ``begin`` on, as a place for programs.

    Its interface is that of :class:`hiddenfold.sw.driver.resident.Store`.
    """

    unit = SECTOR
    checks_writes = True
    #: The list of programs has the first sector, so that an image file need not fill the flash.
    directory_at, first = 0, SECTOR

    def __init__(self, device: "BridgeDevice", begin: int):
        if begin % SECTOR or not 0 <= begin < FLASH_BYTES - SECTOR:
            raise ValueError(
                f"flash must be a multiple of {SECTOR} below {FLASH_BYTES - SECTOR:#x}, "
                f"not {begin:#x}"
            )
        self._device = device
        self.base, self.size = begin, FLASH_BYTES - begin
        self.limit = self.size

    def read_memory(self, address: int, size: int) -> np.ndarray:
        """Return bytes of the flash."""
        return self._device.read_bus(address, -(-size // 4)).astype("<u4").view(np.uint8)[:size]

    def write_memory(self, address: int, data: np.ndarray | bytes) -> None:
        """Write bytes from the begin of a sector on; the rest of the last sector is erased."""
        data = np.frombuffer(data, np.uint8)
        end = self.base + self.size
        if address % SECTOR or not self.base <= address <= end - len(data):
            raise DeviceError(
                f"flash must be written from a multiple of {SECTOR} on within {self.base:#x}.."
                f"{end:#x}, not at {address:#x}..{address + len(data):#x}"
            )
        for first in range(0, len(data), SECTOR):
            self._sector(address + first, data[first : first + SECTOR])

    def _sector(self, address: int, data: np.ndarray) -> None:
        whole = np.full(SECTOR, 0xFF, np.uint8)
        whole[: len(data)] = data
        for _ in range(_TRIES):
            self._change(_ERASE, address)
            for page in range(0, SECTOR, PAGE):
                part = whole[page : page + PAGE]
                if np.any(part != 0xFF):
                    self._change(_PROGRAM, address + page, part)
            # Compared with what it must be, so that one reading is enough.
            found = self._device.link.read(address, -(-len(data) // 4))
            if np.array_equal(found.astype("<u4").view(np.uint8)[: len(data)], data):
                return
        raise DeviceError(
            f"{self._device.link.name}: flash at {address:#x} does not keep what is written, "
            f"{_TRIES} times: check the line, and that the board's design lets this part of the "
            "flash be written"
        )

    def _change(self, command: int, address: int, data: np.ndarray | None = None) -> None:
        """Erase or program, and wait for the end of it."""
        self._command(_WRITE_ENABLE << 24, one_byte=True)
        self._command(command << 24 | address, data)
        deadline = time.monotonic() + _ERASE_SECONDS
        link = self._device.link
        while True:
            link.write(_SELECT, np.array([1], np.uint32))
            link.write(_BYTE, np.array([_STATUS << 24], np.uint32))
            status = int(link.read(_WORDS, 1)[0])
            link.write(_SELECT, np.array([0], np.uint32))
            if not status & _BUSY:
                return
            if time.monotonic() > deadline:
                raise DeviceError(
                    f"{link.name}: flash at {address:#x} is busy for {_ERASE_SECONDS:g} s (status "
                    f"{status:#x}): check that the board has a flash of the kind W25Q or IS25LP"
                )

    def _command(self, word: int, data: np.ndarray | None = None, *, one_byte=False) -> None:
        link = self._device.link
        link.write(_SELECT, np.array([1], np.uint32))
        link.write(_BYTE if one_byte else _WORDS, np.array([word], np.uint32))
        if data is not None:
            link.write(_WORDS, data.view(">u4").astype(np.uint32))
        link.write(_SELECT, np.array([0], np.uint32))
