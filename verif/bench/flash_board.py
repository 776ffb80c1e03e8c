# SPDX-License-Identifier: Apache-2.0
"""The board without DRAM as Verilog, with its flash and a serial port that a host can open."""

import ctypes
import importlib.metadata
from pathlib import Path

import numpy as np

from hiddenfold.gen.flash_top import TOP, write_flash_verilog
from hiddenfold.gen.target import Target
from hiddenfold.sw.driver.cache import cached, digest
from hiddenfold.sw.driver.simulator import Log, simulator_library, source_digest
from hiddenfold.verif.bench.boards import Board, Terminal

FLASH_BYTES = 16 << 20
HARNESS = Path(__file__).with_suffix(".cpp")
#: Short runs: compiling it takes longer than running it.
_FLAGS = ("-O1", "-march=native")
#: Cycles between two looks at the serial port.
_CYCLES = 2_000


def flash_library(target: Target, *, baud: int, mode: str, log: Log) -> Path:
    """Return the compiled simulator of the board; both steps are cached."""
    options = {"baud": baud, "mode": mode, "timeout": 0.01}
    key = digest(
        repr(
            (
                sorted(target.hardware_parameters().items()),
                target.clock_mhz,
                sorted(options.items()),
            )
        ),
        importlib.metadata.version("amaranth"),
        source_digest(),
    )

    def make(folder: Path) -> None:
        log(f"generating the Verilog of {TOP} for target {target.name} (once)")
        write_flash_verilog(target, folder / f"{TOP}.v", portable=True, **options)

    verilog = cached(f"verilog-{key}", make) / f"{TOP}.v"
    return simulator_library(
        verilog,
        bus_bits=target.bus_bits,
        trace=False,
        log=log,
        flags=_FLAGS,
        top=TOP,
        harness=HARNESS,
    )


class FlashBoard(Board):
    """A simulated board on a pseudo-terminal, ``path``; ``flash`` is uint8 [16 MiB].

    Leaving it raises ``AssertionError`` if the flash saw something that no flash takes.
    """

    def __init__(self, library: Path, target: Target, *, baud: int):
        super().__init__()
        self._library = ctypes.CDLL(str(library))
        for name, result, *arguments in (
            ("fb_create", ctypes.c_void_p, ctypes.c_uint32, ctypes.c_double),
            ("fb_destroy", None, ctypes.c_void_p),
            ("fb_flash", ctypes.c_void_p, ctypes.c_void_p),
            ("fb_send", None, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t),
            ("fb_receive", ctypes.c_size_t, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t),
            ("fb_advance", None, ctypes.c_void_p, ctypes.c_uint64),
            ("fb_cycles", ctypes.c_uint64, ctypes.c_void_p),
            ("fb_error", ctypes.c_char_p, ctypes.c_void_p),
        ):
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
        self._handle = self._library.fb_create(
            round(target.clock_mhz * 1e6 / baud), target.clock_mhz
        )
        pointer = self._library.fb_flash(self._handle)
        self.flash = np.ctypeslib.as_array(
            ctypes.cast(pointer, ctypes.POINTER(ctypes.c_uint8)), (FLASH_BYTES,)
        )
        self._terminal = Terminal()
        self.path = self._terminal.path
        self._answer = ctypes.create_string_buffer(4096)

    @property
    def cycles(self) -> int:
        """Clock cycles so far."""
        return self._library.fb_cycles(self._handle)

    def _cut(self) -> None:
        self._terminal.close()
        if self._handle is not None:
            error = self._library.fb_error(self._handle)
            del self.flash
            self._library.fb_destroy(self._handle)
            self._handle = None
            assert error is None, error.decode()

    def _step(self) -> bool:
        data = self._terminal.read()
        if data:
            self._library.fb_send(self._handle, data, len(data))
        size = self._library.fb_receive(self._handle, self._answer, len(self._answer))
        if size:
            self._terminal.write(self._answer.raw[:size])
        self._idle()
        return True

    def _idle(self) -> None:
        self._library.fb_advance(self._handle, _CYCLES)
