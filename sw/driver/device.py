# SPDX-License-Identifier: Apache-2.0
"""The low-level interface to an accelerator: registers, memory and the passing of time.

:class:`Device` is all that :class:`~hiddenfold.sw.driver.accelerator.Accelerator` knows of a board
or a simulator. A new kind of device implements it and registers a URL scheme with
:func:`register`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

import numpy as np


class DeviceError(RuntimeError):
    """The link to the device failed: no answer, a bus error, an address outside its memory."""


class Device(ABC):
    """An accelerator's AXI4-Lite registers and the memory that its AXI4 port sees.

    Addresses are those the accelerator uses. A device is a context manager; :meth:`close` frees it.
    """

    #: First address and size in bytes of the memory that the host may use.
    memory_base: int
    memory_size: int

    @abstractmethod
    def read32(self, offset: int) -> int:
        """Return the 32-bit register at a byte offset; raise :class:`DeviceError` on failure."""

    @abstractmethod
    def write32(self, offset: int, value: int) -> None:
        """Write the 32-bit register at a byte offset; raise :class:`DeviceError` on failure."""

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
        """Pulse ``aresetn``; memory keeps its contents."""

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
    if scheme not in _OPENERS:
        known = ", ".join(sorted(_OPENERS))
        raise ValueError(f"device URL must start with one of {known}, not {url!r}")
    return _OPENERS[scheme](rest, **options)


def _open_rtl(rest: str, **options) -> Device:
    # The simulator pulls in the hardware generator, which a driver on a board does not need.
    from hiddenfold.sw.driver.rtl import RtlDevice

    return RtlDevice.open(rest, **options)


register("rtl", _open_rtl)
