# SPDX-License-Identifier: Apache-2.0
"""Programs in a device's memory, and the directory there that says which they are.

Memory outlives the host's program, so what is there already is found again and not written twice.
Programs stay side by side while there is room for the images of each. The directory is the last 256
bytes of memory; all numbers are unsigned, 32 bits, little-endian:

=========  =====================================================================
bytes      content
=========  =====================================================================
0..3       ASCII ``HFD1``
4..7       number of programs, 0..15
8 + 16*i   program i: offset from the first byte of memory, size, CRC-32, 0
252..255   CRC-32 of the bytes before
=========  =====================================================================
"""

import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hiddenfold.sw.driver.device import Device
from hiddenfold.sw.driver.errors import AcceleratorError

#: Multiple of bytes at which the regions in memory start.
ALIGNMENT = 64
DIRECTORY_BYTES = 256
_MAGIC = b"HFD1"
_ENTRIES = 15
#: Bytes between two calls of a load's progress.
_PIECE = 64 << 10

#: Called as ``progress(bytes done, bytes in all)``.
LoadProgress = Callable[[int, int], None]


class Entry(NamedTuple):
    """A program in memory: offset from the first byte, size in bytes, CRC-32."""

    offset: int
    size: int
    crc: int

    @property
    def end(self) -> int:
        """Offset of the first byte behind it that may be used."""
        return aligned(self.offset + self.size)


class Resident:
    """What is in a device's memory; the device must not be used by others meanwhile."""

    def __init__(self, device: Device):
        self._device = device
        self._entries: list[Entry] | None = None
        self._place = device.memory_base + device.memory_size - DIRECTORY_BYTES

    def limit(self) -> int:
        """Bytes of memory before the directory."""
        return self._device.memory_size - DIRECTORY_BYTES

    def end(self) -> int:
        """Offset of the first byte behind all programs."""
        return max((entry.end for entry in self._listed()), default=0)

    def add(self, memory: bytes, room: int, name: str, progress: LoadProgress | None) -> int:
        """Have a program in memory with ``room`` bytes free behind all programs.

        Returns its offset. What is there already is not written; others have to go when there is no
        room, or no entry left. Raises :class:`.AcceleratorError` when it does not read back.
        """
        key = len(memory), zlib.crc32(memory)
        found = next((entry for entry in self._listed() if entry[1:] == key), None)
        if found is not None and self._holds(found, memory):
            if self.end() + room <= self.limit():
                return found.offset
            if found.offset == 0:
                self._list([found])
                return 0
        kept = [entry for entry in self._listed() if entry is not found]
        start = max((entry.end for entry in kept), default=0)
        if aligned(start + len(memory)) + room > self.limit() or len(kept) >= _ENTRIES:
            kept, start = [], 0
        # Not listed until it is complete.
        self._list(kept)
        self._write(start, memory, name, progress)
        self._list([*kept, Entry(start, *key)])
        return start

    def forget(self, offset: int) -> None:
        """Drop the program at an offset: the next :meth:`add` writes it again."""
        self._list([entry for entry in self._listed() if entry.offset != offset])

    def _write(self, offset: int, memory: bytes, name: str, progress: LoadProgress | None) -> None:
        device, data = self._device, np.frombuffer(memory, np.uint8)
        for first in range(0, len(data), _PIECE):
            piece = data[first : first + _PIECE]
            address = device.memory_base + offset + first
            device.write_memory(address, piece)
            if not device.checks_writes:
                found = device.read_memory(address, len(piece))
                if not np.array_equal(found, piece):
                    at = address + int(np.flatnonzero(found != piece)[0])
                    raise AcceleratorError(
                        f"program {name!r} does not read back as written from memory at {at:#x}: "
                        "check the memory, and that nothing else uses these addresses"
                    )
            if progress is not None:
                progress(first + len(piece), len(data))

    def _holds(self, entry: Entry, memory: bytes) -> bool:
        """Memory has the program's first and last bytes (the accelerator checks all of them)."""
        base = self._device.memory_base + entry.offset
        return all(
            self._device.read_memory(base + at, ALIGNMENT).tobytes() == memory[at : at + ALIGNMENT]
            for at in (0, len(memory) - ALIGNMENT)
        )

    def _listed(self) -> list[Entry]:
        if self._entries is None:
            data = self._device.read_memory(self._place, DIRECTORY_BYTES).tobytes()
            self._entries = _decode(data, self.limit())
        return self._entries

    def _list(self, entries: list[Entry]) -> None:
        if entries != self._listed():
            # Unknown until it is written.
            self._entries = None
            self._device.write_memory(self._place, _encode(entries))
            self._entries = entries


def aligned(size: int) -> int:
    """Return ``size`` rounded up to the place where a region may start."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _encode(entries: list[Entry]) -> bytes:
    text = _MAGIC + struct.pack("<I", len(entries))
    text += b"".join(struct.pack("<4I", *entry, 0) for entry in entries)
    text = text.ljust(DIRECTORY_BYTES - 4, b"\0")
    return text + struct.pack("<I", zlib.crc32(text))


def _decode(data: bytes, limit: int) -> list[Entry]:
    """Return the entries of a directory, none if there is no legal one."""
    text, (crc,) = data[:-4], struct.unpack("<I", data[-4:])
    (count,) = struct.unpack_from("<I", text, 4)
    if text[:4] != _MAGIC or crc != zlib.crc32(text) or count > _ENTRIES:
        return []
    entries = [Entry(*struct.unpack_from("<3I", text, 8 + 16 * i)) for i in range(count)]
    return entries if all(entry.end <= limit for entry in entries) else []
