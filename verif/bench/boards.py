# SPDX-License-Identifier: Apache-2.0
"""Boards that the driver's links can be tried on: a simulated accelerator behind a bridge.

Each serves one host from a thread of its own and lets the simulated clock run while there is
something to compute and nothing is asked. Faults are switched on by attributes.
"""

import contextlib
import mmap
import os
import pty
import random
import select
import socket
import struct
import threading
import time
import tty
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from hiddenfold.hw import regmap
from hiddenfold.sw.driver.bridge import MEMORY, REGISTERS
from hiddenfold.sw.driver.device import Device
from hiddenfold.sw.driver.litex import HEADER
from hiddenfold.sw.driver.uart import READ, WRITE

#: Cycles that pass between two looks at the link.
_CYCLES = 2_000
#: Seconds between two looks at the link while nothing runs.
_NAP = 0.0002
_STATUS = regmap.REGISTERS["STATUS"].offset
#: Seconds that the thread may take to end.
_JOIN = 30.0


class Board(ABC):
    """A thread that serves a host. A board is a context manager."""

    def __init__(self):
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self.unplug()

    def unplug(self) -> None:
        """End the thread and cut the link, at once or again."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join(_JOIN)
            assert not self._thread.is_alive(), "the board's thread does not end"
        self._cut()

    @abstractmethod
    def _cut(self) -> None:
        """Close the board's end of the link."""

    @abstractmethod
    def _step(self) -> bool:
        """Serve what the host asked; return whether it asked for anything."""

    @abstractmethod
    def _idle(self) -> None:
        """Let time pass while the host asks for nothing."""

    def _serve(self) -> None:
        while not self._ending.is_set():
            if not self._step():
                self._idle()


class BusBoard(Board):
    """A device on a bus with two windows; it is the thread's while the board runs."""

    def __init__(self, device: Device):
        super().__init__()
        self.device = device

    def _idle(self) -> None:
        if self.device.read32(_STATUS) & regmap.STATUS_BUSY:
            self.device.wait(_CYCLES)
        else:
            # Its clock need not be simulated, and would be in the way of the host.
            time.sleep(_NAP)

    def read_bus(self, address: int, count: int) -> np.ndarray:
        """Words of the bus, 0 where there is nothing."""
        if REGISTERS <= address < REGISTERS + 4096:
            return np.array(self.device.read_registers(address - REGISTERS, count), np.uint32)
        offset = address - MEMORY
        if not 0 <= offset <= self.device.memory_size - 4 * count:
            return np.zeros(count, np.uint32)
        return self.device.read_memory(self.device.memory_base + offset, 4 * count).view("<u4")

    def write_bus(self, address: int, words: np.ndarray) -> None:
        """Write words; nothing happens where there is nothing."""
        if REGISTERS <= address < REGISTERS + 4096:
            self.device.write_registers(address - REGISTERS, words.tolist())
        elif 0 <= address - MEMORY <= self.device.memory_size - 4 * len(words):
            place = self.device.memory_base + address - MEMORY
            self.device.write_memory(place, words.astype("<u4").tobytes())


class Terminal:
    """The board's end of a pseudo-terminal; the host opens ``path``."""

    def __init__(self):
        self._master, slave = pty.openpty()
        tty.setraw(slave)
        self.path = os.ttyname(slave)
        # Kept open, so that the board outlives a host that closes the port.
        self._slave: int | None = slave

    def read(self) -> bytes:
        """What has come, maybe nothing."""
        if not select.select([self._master], [], [], 0)[0]:
            return b""
        return os.read(self._master, 4096)

    def write(self, data: bytes) -> None:
        """Send bytes."""
        os.write(self._master, data)

    def close(self) -> None:
        """Unplug it."""
        if self._slave is not None:
            os.close(self._slave)
            os.close(self._master)
            self._slave = None


class SerialBoard(BusBoard):
    """A UART bridge on a pseudo-terminal, ``path``.

    Parameters
    ----------
    baud
        Bits a second at which bytes come and go; None for as fast as they can.

    Attributes
    ----------
    mute
        Nothing is answered.
    flip
        Probability that a byte loses a bit on its way, in either direction.
    received, sent
        Bytes so far.
    """

    def __init__(self, device: Device, *, baud: int | None = None, seed: int = 1):
        super().__init__(device)
        self.mute, self.flip = False, 0.0
        self.received = self.sent = 0
        self._baud = baud
        self._free = 0.0
        self._random = random.Random(seed)
        self._data = bytearray()
        self._last = 0.0
        self._terminal = Terminal()
        self.path = self._terminal.path

    def _cut(self) -> None:
        self._terminal.close()

    def _step(self) -> bool:
        data = self._through(self._terminal.read())
        if not data:
            return False
        now = time.monotonic()
        if now - self._last > 0.1:
            self._data.clear()
        self._last = now
        self.received += len(data)
        self._data += data
        while self._command():
            pass
        return True

    def _command(self) -> bool:
        """Carry out the first command, if it is complete."""
        data = self._data
        if len(data) < 6:
            return False
        kind, count, address = struct.unpack_from(">BBI", data)
        size = 6 + (4 * count if kind == WRITE else 0)
        if len(data) < size:
            return False
        if kind == WRITE:
            self.write_bus(4 * address, np.frombuffer(bytes(data[6:size]), ">u4"))
        elif kind == READ and not self.mute:
            answer = self.read_bus(4 * address, count).astype(">u4").tobytes()
            self.sent += len(answer)
            self._terminal.write(self._through(answer))
        del data[:size]
        return True

    def _through(self, data: bytes) -> bytes:
        """What comes out of the line, when it does."""
        if self._baud is not None:
            self._free = max(self._free, time.monotonic()) + 10 * len(data) / self._baud
            time.sleep(max(0.0, self._free - time.monotonic()))
        if not self.flip:
            return data
        return bytes(
            byte ^ (1 << self._random.randrange(8)) if self._random.random() < self.flip else byte
            for byte in data
        )


class EtherboneBoard(BusBoard):
    """litex_server on ``port`` of this machine; it sends ``greeting`` to its one client.

    Attributes
    ----------
    mute
        Nothing is answered.
    delay
        Seconds that an answer takes.
    flip_every
        One word of so many that are read loses a bit, 0 for none; ``flipped`` counts them.
    """

    def __init__(self, device: Device, *, greeting: bytes = b"CommUART:localhost:1234"):
        super().__init__(device)
        self.mute, self.delay, self.flip_every, self.flipped = False, 0.0, 0, 0
        self._words = 0
        self._greeting = greeting
        self._listener = socket.create_server(("localhost", 0))
        self.port = self._listener.getsockname()[1]
        self._host: socket.socket | None = None

    def _cut(self) -> None:
        self._listener.close()
        if self._host is not None:
            with contextlib.suppress(OSError):
                self._host.shutdown(socket.SHUT_RDWR)
            self._host.close()

    def _step(self) -> bool:
        source = self._host or self._listener
        try:
            if not select.select([source], [], [], 0)[0]:
                return False
            if self._host is None:
                self._host = self._listener.accept()[0]
                self._host.sendall(self._greeting)
            else:
                self._packet(self._host)
        except (OSError, ValueError):
            if self._host is not None:
                self._host.close()
            self._host = None
        return True

    def _packet(self, host: socket.socket) -> None:
        def take(size: int) -> bytes:
            data = host.recv(size, socket.MSG_WAITALL)
            if len(data) < size:
                raise OSError("the host has gone")
            return data

        assert take(8) == HEADER
        flags, enable, writes, reads = take(4)
        assert (flags, enable) == (0, 0x0F)
        if writes:
            address, *words = struct.unpack(f">{1 + writes}I", take(4 + 4 * writes))
            self.write_bus(address, np.array(words, np.uint32))
        if reads:
            _, *places = struct.unpack(f">{1 + reads}I", take(4 + 4 * reads))
            assert places == list(range(places[0], places[0] + 4 * reads, 4))
            found = self.read_bus(places[0], reads)
            if self.flip_every:
                numbers = self._words + np.arange(reads)
                hit = numbers % self.flip_every == 0
                found ^= np.where(hit, 1 << numbers % 32, 0).astype(np.uint32)
                self._words += reads
                self.flipped += int(hit.sum())
            time.sleep(self.delay)
            if not self.mute:
                record = struct.pack(">BBBBI", 0, 0x0F, reads, 0, 0)
                host.sendall(HEADER + record + found.astype(">u4").tobytes())


class MappedBoard(BusBoard):
    """Registers and memory as two files, ``registers`` and ``memory``.

    A file cannot see an access, so the thread looks for writes to CONTROL and STATUS in it and then
    puts there what the hardware shows at once.

    Attributes
    ----------
    delay
        Seconds that 2,000 clock cycles take at least.
    gone
        Registers are 0, whatever is written to them.
    """

    def __init__(self, device: Device, folder: Path):
        super().__init__(device)
        self.registers, self.memory = folder / "registers", folder / "memory"
        self.registers.write_bytes(bytes(4096))
        self.memory.write_bytes(bytes(device.memory_size))
        self._windows = [self._map(self.registers), self._map(self.memory)]
        self._registers = np.frombuffer(self._windows[0], "<u4")
        self._memory = np.frombuffer(self._windows[1], np.uint8)
        self.delay, self.gone = 0.0, False
        self._busy = False
        self._status = 0
        self._publish()

    def _cut(self) -> None:
        """A host that still has the files mapped keeps them."""

    def _map(self, path: Path) -> mmap.mmap:
        with path.open("r+b") as file:
            return mmap.mmap(file.fileno(), 0)

    def _step(self) -> bool:
        if self.gone:
            self._registers[:] = 0
            return True
        at = regmap.REGISTERS["CONTROL"].offset
        control = int(self._registers[at // 4])
        asked = control & (regmap.CONTROL_START | regmap.CONTROL_ABORT)
        device = self.device
        if self._registers[_STATUS // 4] != self._status:
            device.write32(_STATUS, int(self._registers[_STATUS // 4]))
            self._publish()
        if asked:
            if asked & regmap.CONTROL_START:
                for register in regmap.REGISTERS.values():
                    if register.access == "RW":
                        device.write32(register.offset, int(self._registers[register.offset // 4]))
                device.write_memory(device.memory_base, self._memory)
                self._busy = True
            device.write32(at, control)
        elif not self._busy:
            return False
        else:
            time.sleep(self.delay)
            device.wait(_CYCLES)
        # An abort of what has ended must not touch what the host is writing by now.
        if self._busy and not device.read32(_STATUS) & regmap.STATUS_BUSY:
            self._memory[:] = device.read_memory(device.memory_base, device.memory_size)
            self._busy = False
        self._publish(control & ~asked if asked else None)
        return True

    def _publish(self, control: int | None = None) -> None:
        """Show the registers that the hardware writes; STATUS and CONTROL last."""
        self._status = self.device.read32(_STATUS)
        for name, register in regmap.REGISTERS.items():
            if name not in ("CONTROL", "STATUS") and register.access != "RW":
                for offset in range(register.offset, register.offset + 4 + 4 * register.wide, 4):
                    self._registers[offset // 4] = self.device.read32(offset)
        self._registers[_STATUS // 4] = self._status
        if control is not None:
            self._registers[regmap.REGISTERS["CONTROL"].offset // 4] = control
