# SPDX-License-Identifier: Apache-2.0
"""``litex:`` devices: the bus of a LiteX design by way of ``litex_server`` (Etherbone over TCP).

A packet is a header of 8 bytes and one record: 4 bytes of flags and counts, then for writes a byte
address and the words, for reads a return address and the address of each word. A read is answered
by a packet with a write record. All numbers have their most significant byte first.
"""

import contextlib
import socket
import struct
from collections.abc import Iterator

import numpy as np

from hiddenfold.sw.driver.bridge import OPTIONS, BridgeDevice, Link
from hiddenfold.sw.driver.device import DeviceError
from hiddenfold.sw.driver.url import seconds, split_url

PORT = 1234
MAGIC = 0x4E6F
#: Magic, version 1, and 32-bit addresses and words.
HEADER = struct.pack(">HBB4x", MAGIC, 0x10, 0x44)
#: The server reads the words of a packet one burst after the other before it answers.
_MAX_WORDS = 128
_TIMEOUT = 5.0
#: Seconds that a server has to greet; old ones do not.
_GREETING = 0.5


class LitexLink(Link):
    """Words over a TCP connection to litex_server; ``timeout`` seconds for each answer."""

    lossy = True  # the server's own link may be a serial port, which it does not check

    def __init__(self, host: str, port: int = PORT, *, timeout: float = _TIMEOUT):
        self.name = f"litex_server at {host}:{port}"
        self._place, self._timeout = (host, port), timeout
        self._closed = False
        self._socket: socket.socket | None = self._connected()

    def _connected(self) -> socket.socket:
        """Return a new connection."""
        try:
            connection = socket.create_connection(self._place, self._timeout)
            try:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                # A line of text about the server.
                connection.settimeout(_GREETING)
                with contextlib.suppress(TimeoutError):
                    connection.recv(128)
                connection.settimeout(self._timeout)
            except BaseException:
                connection.close()
                raise
        except OSError as error:
            raise DeviceError(
                f"{self.name} does not answer: start it on that machine, for example with "
                f"litex_server --uart --uart-port /dev/ttyUSB0 ({error})"
            ) from error
        return connection

    @contextlib.contextmanager
    def _exchange(self) -> Iterator[socket.socket]:
        """The connection; whatever goes wrong ends it, since an answer that comes late would be
        taken for that of the next question. The next exchange makes a new one.
        """
        if self._closed:
            raise DeviceError(f"{self.name} has been closed")
        if self._socket is None:
            self._socket = self._connected()
        try:
            yield self._socket
        except BaseException:
            self._socket.close()
            self._socket = None
            raise

    def read(self, address: int, count: int) -> np.ndarray:
        parts = [np.zeros(0, np.uint32)]
        for first in range(0, count, _MAX_WORDS):
            size = min(_MAX_WORDS, count - first)
            places = address + 4 * (first + np.arange(size, dtype=np.uint64))
            record = struct.pack(">BBBBI", 0, 0x0F, 0, size, 0) + places.astype(">u4").tobytes()
            with self._exchange() as connection:
                self._send(connection, HEADER + record)
                answer = self._receive(connection, len(HEADER) + 8 + 4 * size)
                if answer[:2] != HEADER[:2] or answer[len(HEADER) + 2] != size:
                    raise DeviceError(f"{self.name} does not speak Etherbone: check host and port")
            parts.append(np.frombuffer(answer, ">u4", size, len(HEADER) + 8).astype(np.uint32))
        return np.concatenate(parts)

    def write(self, address: int, words: np.ndarray) -> None:
        for first in range(0, len(words), _MAX_WORDS):
            part = words[first : first + _MAX_WORDS]
            record = struct.pack(">BBBBI", 0, 0x0F, len(part), 0, address + 4 * first)
            with self._exchange() as connection:
                self._send(connection, HEADER + record + part.astype(">u4").tobytes())

    def close(self) -> None:
        self._closed = True
        if self._socket is not None:
            self._socket.close()

    def _send(self, connection: socket.socket, data: bytes) -> None:
        try:
            connection.sendall(data)
        except OSError as error:
            raise self._gone(error) from error

    def _receive(self, connection: socket.socket, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                part = connection.recv(size - len(data))
            except TimeoutError as error:
                raise DeviceError(
                    f"{self.name} did not answer within {self._timeout:g} s: check its link to "
                    "the board, and that no other program uses the server"
                ) from error
            except OSError as error:
                raise self._gone(error) from error
            if not part:
                raise self._gone("it closed the connection")
            data += part
        return data

    def _gone(self, reason: object) -> DeviceError:
        return DeviceError(f"{self.name} has gone: start it again ({reason})")


def open_litex(rest: str, **options) -> BridgeDevice:
    """Open ``HOST:PORT?registers=...``, see :class:`.BridgeDevice`."""
    place, found = split_url("litex", rest, {**OPTIONS, "timeout": seconds}, options)
    host, _, port = place.partition(":")
    if port and not (port.isdecimal() and 0 < int(port) < 1 << 16):
        raise ValueError(f"litex: URL must have a port in 1..65535, not {port!r}")
    late = {"timeout": found.pop("timeout")} if "timeout" in found else {}
    link = LitexLink(host or "localhost", int(port or PORT), **late)
    try:
        return BridgeDevice(link, **found)
    except BaseException:
        link.close()
        raise
