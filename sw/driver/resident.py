# SPDX-License-Identifier: Apache-2.0
"""Programs in a device's memory, and the directory there that says which they are.

Memory outlives the host's program, so what is there already is found again and not written twice.
Programs stay side by side while there is room for the images of each. The directory is the last 256
bytes of memory, or the first of a flash; all numbers are unsigned, 32 bits, little-endian:

=========  =====================================================================
bytes      content
=========  =====================================================================
0..3       ASCII ``HFD1``
4..7       number of programs, 0..15
8 + 16*i   program i: offset from the first byte, size, CRC-32, 0
252..255   CRC-32 of the bytes before
=========  =====================================================================
"""

import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple, Protocol

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


class Store(Protocol):
    """A place for programs, by addresses of the accelerator."""

    #: First address; offsets of programs are multiples of ``unit`` from ``first`` on.
    base: int
    unit: int
    first: int
    #: Offset of the directory, and of the first byte that programs may not use.
    directory_at: int
    limit: int
    checks_writes: bool

    def read_memory(self, address: int, size: int) -> np.ndarray:
        """Return bytes."""

    def write_memory(self, address: int, data: np.ndarray | bytes) -> None:
        """Write bytes from a multiple of ``unit`` on."""


class MemoryStore:
    """A device's memory as a :class:`Store`: programs from the begin on, directory at the end."""

    unit, first = ALIGNMENT, 0

    def __init__(self, device: Device):
        self.base = device.memory_base
        self.limit = self.directory_at = device.memory_size - DIRECTORY_BYTES
        self.checks_writes = device.checks_writes
        self.read_memory, self.write_memory = device.read_memory, device.write_memory


class Resident:
    """What is in a store; it must not be used by others meanwhile."""

    def __init__(self, store: Store):
        self._store = store
        self._entries: list[Entry] | None = None
        self._place = store.base + store.directory_at

    def end(self) -> int:
        """Offset of the first byte behind all programs."""
        return self._behind(self._listed())

    def add(self, memory: bytes, room: int, name: str, progress: LoadProgress | None) -> int:
        """Have a program in memory with ``room`` bytes free behind all programs.

        Returns its address. What is there already is not written; others have to go when there is
        no room, or no entry left. Raises :class:`.AcceleratorError` when it does not read back.
        """
        key = len(memory), zlib.crc32(memory)
        found = next((entry for entry in self._listed() if entry[1:] == key), None)
        if found is not None and self._holds(found, memory):
            if self.end() + room <= self._store.limit:
                return self._store.base + found.offset
            if found.offset == self._store.first:
                self._list([found])
                return self._store.base + found.offset
        kept = [entry for entry in self._listed() if entry is not found]
        start = self._behind(kept)
        if aligned(start + len(memory)) + room > self._store.limit or len(kept) >= _ENTRIES:
            kept, start = [], self._store.first
        free = self._store.limit - start - room
        if aligned(len(memory)) > free:
            raise AcceleratorError(
                f"program {name!r} has {len(memory)} bytes, and there is room for {max(free, 0)}: "
                "compile it for less, or use a device with more"
            )
        # Not listed until it is complete.
        self._list(kept)
        self._write(start, memory, name, progress)
        self._list([*kept, Entry(start, *key)])
        return self._store.base + start

    def forget(self, address: int) -> None:
        """Drop the program at an address: the next :meth:`add` writes it again."""
        offset = address - self._store.base
        self._list([entry for entry in self._listed() if entry.offset != offset])

    def _write(self, offset: int, memory: bytes, name: str, progress: LoadProgress | None) -> None:
        store, data = self._store, np.frombuffer(memory, np.uint8)
        for first in range(0, len(data), _PIECE):
            piece = data[first : first + _PIECE]
            address = store.base + offset + first
            store.write_memory(address, piece)
            if not store.checks_writes:
                found = store.read_memory(address, len(piece))
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
        base = self._store.base + entry.offset
        return all(
            self._store.read_memory(base + at, ALIGNMENT).tobytes() == memory[at : at + ALIGNMENT]
            for at in (0, len(memory) - ALIGNMENT)
        )

    def _listed(self) -> list[Entry]:
        if self._entries is None:
            data = self._store.read_memory(self._place, DIRECTORY_BYTES).tobytes()
            self._entries = _decode(data, self._store)
        return self._entries

    def _list(self, entries: list[Entry]) -> None:
        if entries != self._listed():
            # Unknown until it is written.
            self._entries = None
            self._store.write_memory(self._place, _encode(entries))
            self._entries = entries

    def _behind(self, entries: list[Entry]) -> int:
        """Return the first offset behind some programs where one may be."""
        end = max((entry.end for entry in entries), default=self._store.first)
        return -(-end // self._store.unit) * self._store.unit


def aligned(size: int) -> int:
    """Return ``size`` rounded up to the place where a region may start."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def store_image(programs: list[bytes], *, unit: int, first: int, limit: int) -> bytes:
    """Return the bytes of a store that begins with its directory: for a file to write to a flash.

    Raises ``ValueError`` for more programs than a directory lists, or more than ``limit`` bytes.
    """
    if not 1 <= len(programs) <= _ENTRIES:
        raise ValueError(f"a flash image must have 1..{_ENTRIES} programs, not {len(programs)}")
    entries, image = [], b""
    for memory in programs:
        entries.append(Entry(first + len(image), len(memory), zlib.crc32(memory)))
        image += memory.ljust(-(-len(memory) // unit) * unit, b"\xff")
    if first + len(image) > limit:
        raise ValueError(
            f"a flash image must have at most {limit} bytes, not {first + len(image)}: take fewer "
            "or smaller programs"
        )
    return _encode(entries).ljust(first, b"\xff") + image


def _encode(entries: list[Entry]) -> bytes:
    text = _MAGIC + struct.pack("<I", len(entries))
    text += b"".join(struct.pack("<4I", *entry, 0) for entry in entries)
    text = text.ljust(DIRECTORY_BYTES - 4, b"\0")
    return text + struct.pack("<I", zlib.crc32(text))


def _decode(data: bytes, store: Store) -> list[Entry]:
    """Return the entries of a directory, none if there is no legal one."""
    text, (crc,) = data[:-4], struct.unpack("<I", data[-4:])
    (count,) = struct.unpack_from("<I", text, 4)
    if text[:4] != _MAGIC or crc != zlib.crc32(text) or count > _ENTRIES:
        return []
    entries = [Entry(*struct.unpack_from("<3I", text, 8 + 16 * i)) for i in range(count)]
    good = all(store.first <= entry.offset and entry.end <= store.limit for entry in entries)
    return entries if good else []
