# SPDX-License-Identifier: Apache-2.0
"""``serial:`` devices: the UART bridge protocol, the same as LiteX's uartbone.

A command is a byte (:data:`WRITE` or :data:`READ`), a byte with the number of words, and four bytes
with the word address; all numbers have their most significant byte first. A write goes on with its
words, a read is answered by them. Nothing else is ever sent, and writes are not acknowledged. A
bridge drops a command that stays incomplete for 0.1 s.
"""

import termios
import time

import numpy as np

from hiddenfold.sw.driver.bridge import OPTIONS, BridgeDevice, Link
from hiddenfold.sw.driver.device import DeviceError
from hiddenfold.sw.driver.url import number, seconds, split_url

WRITE, READ = 0x01, 0x02
BAUD = 1_000_000
#: Seconds after which a bridge has forgotten an incomplete command, with a margin.
FORGET = 0.15
#: LiteX counts the 0.1 s from the begin of a command: it must be over well before that.
_LONGEST = 0.05
_MAX_WORDS = 255
_HEADER = 6
#: Bytes of commands that go out together.
_SEND = 4096
#: Seconds for the host's and the bridge's delays, beside the bytes themselves.
_PATIENCE = 1.0
_TRIES = 3
#: What pyserial raises is an OSError, but for what it lets through.
_FAILURES = (OSError, termios.error)


class UartLink(Link):
    """Words over a serial port.

    Parameters
    ----------
    port
        Device file, or a URL of pyserial such as ``socket://HOST:PORT``.
    baud
        Bits a second; a byte takes ten.
    timeout
        Seconds that an answer may be late.
    """

    lossy = True

    def __init__(self, port: str, *, baud: int = BAUD, timeout: float = _PATIENCE):
        try:
            import serial
        except ModuleNotFoundError as error:
            raise DeviceError(
                "serial: devices need the package pyserial: pip install 'hiddenfold[serial]'"
            ) from error
        self.name = f"serial port {port}"
        self._baud, self._timeout = baud, timeout
        self.max_words = max(1, min(_MAX_WORDS, int(_LONGEST * baud / 10 - _HEADER) // 4))
        options = {} if "://" in port else {"exclusive": True}
        # Changing a time-out later would configure the port anew each time.
        read_limit = timeout + 40 * self.max_words / baud
        write_limit = timeout + 10 * (_SEND + 4 * self.max_words) / baud
        try:
            self._port = serial.serial_for_url(
                port, baud, timeout=read_limit, write_timeout=write_limit, **options
            )
        except (OSError, ValueError) as error:
            raise DeviceError(_opening_failed(port, error)) from error

    def read(self, address: int, count: int) -> np.ndarray:
        parts = [np.zeros(0, np.uint32)]
        for first in range(0, count, self.max_words):
            parts.append(self._read(address + 4 * first, min(self.max_words, count - first)))
        return np.concatenate(parts)

    def write(self, address: int, words: np.ndarray) -> None:
        data = bytearray()
        for first in range(0, len(words), self.max_words):
            part = words[first : first + self.max_words]
            data += _head(WRITE, address + 4 * first, len(part)) + part.astype(">u4").tobytes()
            if len(data) >= _SEND:
                self._send(data)
                data.clear()
        if data:
            self._send(data)

    def close(self) -> None:
        self._port.close()

    def _read(self, address: int, count: int) -> np.ndarray:
        for attempt in range(_TRIES):
            try:
                if attempt:
                    # What is on the way belongs to a command that went wrong.
                    time.sleep(FORGET)
                self._port.reset_input_buffer()
                self._send(_head(READ, address, count))
                data = self._port.read(4 * count)
            except _FAILURES as error:
                raise self._gone(error) from error
            if len(data) == 4 * count:
                if attempt:
                    # A late answer to an earlier attempt must not be taken for the next one's.
                    time.sleep(FORGET)
                    self._port.reset_input_buffer()
                return np.frombuffer(data, ">u4").astype(np.uint32)
        raise DeviceError(
            f"{self.name} did not answer within {self._timeout:g} s, {_TRIES} times ({len(data)} "
            f"of {4 * count} bytes came): check that the board is powered and configured and has "
            f"{self._baud} baud"
        )

    def _send(self, data: bytes | bytearray) -> None:
        try:
            self._port.write(data)
        except _FAILURES as error:
            raise self._gone(error) from error

    def _gone(self, error: Exception) -> DeviceError:
        if "timeout" in str(error).lower():
            return DeviceError(
                f"{self.name} takes no data for {self._timeout:g} s: check the adapter and its "
                "flow control"
            )
        return DeviceError(f"{self.name} has gone: plug it in and open it again ({error})")


def open_serial(rest: str, **options) -> BridgeDevice:
    """Open ``PORT?baud=...&registers=...``, see :class:`UartLink` and :class:`.BridgeDevice`."""
    port, found = split_url(
        "serial", rest, {"baud": number, "timeout": seconds, **OPTIONS}, options
    )
    if not port:
        raise ValueError("serial: URL must name a port, as in serial:/dev/ttyUSB0")
    baud = found.pop("baud", BAUD)
    if not 300 <= baud <= 12_000_000:
        raise ValueError(f"baud must be in 300..12000000, not {baud}")
    late = {"timeout": found.pop("timeout")} if "timeout" in found else {}
    link = UartLink(port, baud=baud, **late)
    try:
        return BridgeDevice(link, **found)
    except BaseException:
        link.close()
        raise


def _head(command: int, address: int, count: int) -> bytes:
    return bytes([command, count]) + (address // 4).to_bytes(4, "big")


def _opening_failed(port: str, error: Exception) -> str:
    text = str(error)
    if "exclusively lock" in text or "busy" in text:
        return f"serial port {port} is in use by another program: close that first"
    if "Permission" in text:
        return f"serial port {port} may not be opened: add yourself to the group dialout"
    return f"serial port {port} cannot be opened: plug the board in, check the name ({text})"
