# SPDX-License-Identifier: Apache-2.0
"""The low-level interface to an accelerator: registers, memory and the passing of time.

:class:`Device` is all that :class:`~hiddenfold.sw.driver.accelerator.Accelerator` knows of a board
or a simulator. A new kind of device implements it and gets a URL scheme from :func:`register`, or
from an installed package with an entry point in the group :data:`ENTRY_POINTS`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from hiddenfold.sw.driver.resident import Store

#: Group of the entry points that add URL schemes: ``my-board = "my_package:open_board"``.
ENTRY_POINTS = "hiddenfold.devices"


class DeviceError(RuntimeError):
    """The link to the device failed: no answer, a bus error, an address outside its memory."""


class Device(ABC):
    """An accelerator's AXI4-Lite registers and the memory that its AXI4 port sees.

    Addresses are those the accelerator uses. A device is a context manager; :meth:`close` frees it.
    It need not be safe for threads: :class:`~hiddenfold.sw.driver.accelerator.Accelerator` lets one
    thread at a time use it.
    """

    #: First address and size in bytes of the memory that the host may use.
    memory_base: int
    memory_size: int
    #: What :meth:`write_memory` wrote has been compared with what the memory holds.
    checks_writes = False
    #: Memory is reached by a link so slow that nothing is to be written without need.
    slow_memory = False
    #: Where programs go, a :class:`hiddenfold.sw.driver.resident.Store`; None for the memory.
    store: "Store | None" = None

    @abstractmethod
    def read32(self, offset: int) -> int:
        """Return the 32-bit register at a byte offset; raise :class:`DeviceError` on failure."""

    @abstractmethod
    def write32(self, offset: int, value: int) -> None:
        """Write the 32-bit register at a byte offset; raise :class:`DeviceError` on failure."""

    def read_registers(self, offset: int, count: int) -> list[int]:
        """Return ``count`` registers from a byte offset on, read in ascending order."""
        return [self.read32(offset + 4 * i) for i in range(count)]

    def write_registers(self, offset: int, values: Sequence[int]) -> None:
        """Write registers from a byte offset on, in ascending order."""
        for i, value in enumerate(values):
            self.write32(offset + 4 * i, value)

    @abstractmethod
    def read_memory(self, address: int, size: int) -> np.ndarray:
        """Return a copy of ``size`` bytes of memory as an array of uint8."""

    @abstractmethod
    def write_memory(self, address: int, data: np.ndarray | bytes) -> None:
        """Write the bytes of ``data`` (bytes, or an array of uint8) to memory."""

    @abstractmethod
    def wait(self, cycles: int) -> int:
        """Let about ``cycles`` clock cycles pass, fewer if the interrupt line is or goes high.

        Returns the number of cycles that passed (an estimate where the clock cannot be counted).
        A simulator advances its clock here and in register accesses only.
        """

    @abstractmethod
    def reset(self) -> None:
        """Pulse ``aresetn``; memory keeps its contents.

        Raises :class:`DeviceError` where the host has no means to do that.
        """

    @abstractmethod
    def close(self) -> None:
        """Free the device; it cannot be used afterwards, but closed again."""

    def check_range(self, address: int, size: int) -> None:
        """Raise :class:`DeviceError` unless the bytes lie in the device's memory."""
        end = self.memory_base + self.memory_size
        if size < 0 or not self.memory_base <= address <= address + size <= end:
            raise DeviceError(
                f"memory access must lie in {self.memory_base:#x}..{end:#x}, "
                f"not {address:#x}..{address + size:#x}"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception) -> None:
        self.close()


#: A scheme's opener: called with the URL's part after the colon ("" if none) and open()'s options.
Opener = Callable[..., Device]

_OPENERS: dict[str, Opener] = {}


def register(scheme: str, opener: Opener) -> None:
    """Make URLs of the form ``scheme`` and ``scheme:REST`` open devices with ``opener``."""
    _OPENERS[scheme] = opener


def open_device(url: str, **options) -> Device:
    """Open the device that a URL names, for example ``rtl:sim-tiny``.

    Raises ``ValueError`` for an unknown scheme and whatever the scheme's opener raises.
    """
    if not isinstance(url, str):
        raise TypeError(f"device URL must be a string, not {url!r}")
    scheme, _, rest = url.partition(":")
    if scheme in _OPENERS:
        return _OPENERS[scheme](rest, **options)
    plugins = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if scheme not in plugins:
        known = ", ".join(sorted({*_OPENERS, *plugins}))
        raise ValueError(f"device URL must start with one of {known}, not {url!r}")
    return plugins[scheme].load()(rest, **options)


def _open_rtl(rest: str, **options) -> Device:
    # The simulator pulls in the hardware generator, which a driver on a board does not need.
    from hiddenfold.sw.driver.rtl import RtlDevice

    return RtlDevice.open(rest, **options)


def _open_serial(rest: str, **options) -> Device:
    from hiddenfold.sw.driver.uart import open_serial

    return open_serial(rest, **options)


def _open_litex(rest: str, **options) -> Device:
    from hiddenfold.sw.driver.litex import open_litex

    return open_litex(rest, **options)


def _open_uio(rest: str, **options) -> Device:
    from hiddenfold.sw.driver.uio import UioDevice

    return UioDevice.open(rest, **options)


register("rtl", _open_rtl)
register("serial", _open_serial)
register("litex", _open_litex)
register("uio", _open_uio)
