# SPDX-License-Identifier: Apache-2.0
"""The embedded device: the generated Verilog in a compiled simulator, inside this process."""

import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from hiddenfold.gen.target import Target
from hiddenfold.sw.driver.device import Device, DeviceError
from hiddenfold.sw.driver.simulator import FAST_FLAGS, Log, simulator_library, target_verilog
from hiddenfold.sw.driver.waves import write_views

DEFAULT_TARGET = "sim-tiny"
#: Not 0, so that a design that forgets to add a base address fails.
MEMORY_BASE = 0x1000_0000
#: Cycles a register access may take.
ACCESS_CYCLES = 1000
RESET_CYCLES = 8
#: Cycles after which :meth:`RtlDevice.wait` looks for Ctrl-C.
_CHUNK = 1_000_000
_RESPONSES = {2: "SLVERR", 3: "DECERR", 4: "no answer"}
#: What :meth:`RtlDevice.add_fault` takes.
FAULTS = {"SLVERR": 2, "DECERR": 3, "no answer": 4}


class RtlDevice(Device):
    """A simulated accelerator with its memory.

    The AXI4 memory answers one beat in ``beat_interval`` cycles after ``read_latency`` cycles, with
    up to 16 bursts outstanding; an interval of 4 on a 64-bit bus is like a memory of 16 bits.
    ``stall`` is the probability with which it is not ready in a cycle, on each channel, from the
    random numbers of ``seed``. It checks the accelerator's side of the protocol: a broken rule is a
    :class:`DeviceError`.
    """

    def __init__(
        self,
        library: Path,
        *,
        memory_size: int = 64 << 20,
        read_latency: int = 40,
        beat_interval: int = 1,
        stall: float = 0.0,
        seed: int = 0,
        trace_file: Path | str | None = None,
    ):
        """Make an instance of a library of :func:`.simulator.simulator_library`.

        ``trace_file`` writes the waveform of everything (FST) if the library was built for it.
        """
        if not 0 < memory_size <= (1 << 32) - MEMORY_BASE or memory_size % 4096:
            raise ValueError(
                f"memory size must be a multiple of 4096 in 1..{(1 << 32) - MEMORY_BASE}, "
                f"not {memory_size!r}"
            )
        self._library = _load(library)
        self._registers = 0
        self._handle = self._library.hf_create(MEMORY_BASE, memory_size)
        if not self._handle:
            raise DeviceError(f"{memory_size} bytes of memory for the simulator are not available")
        self.memory_base, self.memory_size = MEMORY_BASE, memory_size
        pointer = self._library.hf_memory(self._handle)
        self._memory = np.ctypeslib.as_array(
            ctypes.cast(pointer, ctypes.POINTER(ctypes.c_uint8)), (memory_size,)
        )
        try:
            self.configure(
                read_latency=read_latency, beat_interval=beat_interval, stall=stall, seed=seed
            )
        except BaseException:
            self.close()
            raise
        if trace_file is not None and not self._library.hf_start_trace(
            self._handle, str(trace_file).encode()
        ):
            self.close()
            raise DeviceError(f"waveform file {str(trace_file)!r} cannot be written")
        self.reset()

    @classmethod
    def open(
        cls,
        target: str = "",
        *,
        log: Log | None = None,
        trace_file: Path | str | None = None,
        **options,
    ) -> Self:
        """Generate, compile and start a target; both steps are cached.

        ``target`` is a name or a TOML file, "" is :data:`DEFAULT_TARGET`; ``log`` gets a line
        before each slow step (default: to stderr); ``options`` are those of the constructor. With
        ``trace_file`` (FST) come files beside it that show it in GTKWave and Surfer.
        """
        log = log or (lambda text: print(text, file=sys.stderr, flush=True))
        chosen = Target.load(target or DEFAULT_TARGET)
        verilog = target_verilog(chosen, log)
        trace = trace_file is not None
        library = simulator_library(
            verilog,
            bus_bits=chosen.bus_bits,
            trace=trace,
            log=log,
            # With waveforms it is slow anyway, and its many functions take long to optimise.
            flags=("-O1",) if trace else FAST_FLAGS,
        )
        if trace_file is not None:
            write_views(chosen, Path(trace_file))
        return cls(library, trace_file=trace_file, **options)

    def configure(
        self,
        *,
        read_latency: int = 40,
        beat_interval: int = 1,
        stall: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Set the memory's timing; see the class."""
        if not 0 <= read_latency < 1 << 20:
            raise ValueError(f"read latency must be in 0..2^20-1 cycles, not {read_latency!r}")
        if not 1 <= beat_interval < 1 << 20:
            raise ValueError(f"beat interval must be in 1..2^20-1 cycles, not {beat_interval!r}")
        if not 0 <= stall < 1:
            raise ValueError(f"stall must be a probability below 1, not {stall!r}")
        self._library.hf_configure(
            self._open_handle(),
            read_latency,
            beat_interval,
            int(stall * 65536),
            seed & (1 << 64) - 1,
        )

    def add_fault(
        self, address: int, size: int, answer: str, *, reads: bool = True, writes: bool = True
    ) -> None:
        """Let the memory give ``answer`` (a key of :data:`FAULTS`) in a range of addresses."""
        if answer not in FAULTS:
            raise ValueError(f"answer must be one of {', '.join(FAULTS)}, not {answer!r}")
        self._library.hf_add_fault(
            self._open_handle(), address, address + size, FAULTS[answer], reads, writes
        )

    def clear_faults(self) -> None:
        """Undo all :meth:`add_fault`."""
        self._library.hf_clear_faults(self._open_handle())

    def watch(self, address: int, size: int, registers: Sequence[int] = ()) -> None:
        """Forget all events; from now on a burst read from this memory is one.

        The registers at the offsets ``registers`` are read a few cycles after each. A size of 0
        ends it, and so does a reset.
        """
        offsets = (ctypes.c_uint32 * len(registers))(*registers)
        self._registers = len(registers)
        self._library.hf_watch(
            self._open_handle(), address, address + size, offsets, len(registers)
        )

    def events(self) -> list[tuple[int, int, list[int]]]:
        """Return address, cycle and registers of each event."""
        handle = self._open_handle()
        at, values = (ctypes.c_uint64 * 2)(), (ctypes.c_uint32 * self._registers)()
        result = []
        for number in range(self._library.hf_events(handle)):
            self._library.hf_event(handle, number, at, values)
            result.append((at[0], at[1], list(values)))
        return result

    @property
    def cycles(self) -> int:
        """Clock cycles since the device was made."""
        return self._library.hf_cycles(self._open_handle())

    @property
    def interrupt(self) -> bool:
        """The level of the interrupt line."""
        return bool(self._library.hf_irq(self._open_handle()))

    def read32(self, offset: int) -> int:
        value = ctypes.c_uint32()
        answer = self._library.hf_read32(
            self._open_handle(), offset, ctypes.byref(value), ACCESS_CYCLES
        )
        self._check_answer("read", offset, answer)
        return value.value

    def write32(self, offset: int, value: int) -> None:
        if not 0 <= value < 1 << 32:
            raise ValueError(f"register value must be in 0..2^32-1, not {value!r}")
        answer = self._library.hf_write32(self._open_handle(), offset, value, ACCESS_CYCLES)
        self._check_answer("write", offset, answer)

    def read_memory(self, address: int, size: int) -> np.ndarray:
        self._open_handle()
        self.check_range(address, size)
        offset = address - self.memory_base
        return self._memory[offset : offset + size].copy()

    def write_memory(self, address: int, data: np.ndarray | bytes) -> None:
        self._open_handle()
        data = np.frombuffer(data, np.uint8)
        self.check_range(address, len(data))
        offset = address - self.memory_base
        self._memory[offset : offset + len(data)] = data

    def wait(self, cycles: int) -> int:
        return self.advance(cycles, until_interrupt=True)

    def advance(self, cycles: int, *, until_interrupt: bool = False) -> int:
        """Clock the model; return the cycles that passed."""
        passed = 0
        while passed < cycles:
            chunk = min(_CHUNK, cycles - passed)
            now = self._library.hf_advance(self._open_handle(), chunk, until_interrupt)
            passed += now
            self._check_protocol()
            if now < chunk:
                break
        return passed

    def reset(self) -> None:
        self._library.hf_reset(self._open_handle(), RESET_CYCLES)

    def close(self) -> None:
        if self._handle:
            # The numpy view would dangle.
            del self._memory
            self._library.hf_destroy(self._handle)
            self._handle = None

    def _open_handle(self) -> int:
        if not self._handle:
            raise DeviceError("the simulator has been closed")
        return self._handle

    def _check_answer(self, what: str, offset: int, answer: int) -> None:
        if answer:
            raise DeviceError(
                f"register {what} at {offset:#x} failed: "
                f"{_RESPONSES.get(answer, f'response {answer}')}"
            )
        self._check_protocol()

    def _check_protocol(self) -> None:
        text = self._library.hf_violation(self._handle)
        if text is not None:
            raise DeviceError(f"the accelerator broke a rule of AXI4: {text.decode()}")


def _load(library: Path) -> ctypes.CDLL:
    """Load a simulator library and declare its functions."""
    loaded = ctypes.CDLL(str(library))
    handle, u32, u64 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
    for name, result, *arguments in (
        ("hf_create", handle, u64, u64),
        ("hf_destroy", None, handle),
        ("hf_memory", handle, handle),
        ("hf_configure", None, handle, u32, u32, u32, u64),
        ("hf_add_fault", None, handle, u64, u64, u32, u32, u32),
        ("hf_clear_faults", None, handle),
        ("hf_watch", None, handle, u64, u64, ctypes.POINTER(u32), u32),
        ("hf_events", u64, handle),
        ("hf_event", None, handle, u64, ctypes.POINTER(u64), ctypes.POINTER(u32)),
        ("hf_reset", None, handle, u32),
        ("hf_read32", u32, handle, u32, ctypes.POINTER(u32), u32),
        ("hf_write32", u32, handle, u32, u32, u32),
        ("hf_advance", u64, handle, u64, u32),
        ("hf_cycles", u64, handle),
        ("hf_irq", u32, handle),
        ("hf_violation", ctypes.c_char_p, handle),
        ("hf_start_trace", u32, handle, ctypes.c_char_p),
    ):
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded
