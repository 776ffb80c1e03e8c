# SPDX-License-Identifier: Apache-2.0
"""Loads programs into an accelerator, runs images through it and explains its errors."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

import numpy as np

from hiddenfold.hw import regmap
from hiddenfold.hw.isa import Error
from hiddenfold.sw.driver.control import GRACE_CYCLES, Control, Limits
from hiddenfold.sw.driver.device import Device, DeviceError, open_device
from hiddenfold.sw.driver.errors import (
    DAMAGED,
    REMEDIES,
    AcceleratorError,
    AcceleratorTimeout,
    error_name,
)
from hiddenfold.sw.driver.locate import instruction_at, layer_at
from hiddenfold.sw.driver.resident import (
    ALIGNMENT,
    DIRECTORY_BYTES,
    LoadProgress,
    MemoryStore,
    Resident,
    aligned,
)
from hiddenfold.sw.driver.result import COUNTERS, RunResult, TraceEntry
from hiddenfold.sw.program import Output, Program

#: Called as ``progress(images done, images in all, clock cycles so far)``.
Progress = Callable[[int, int, int], None]

MAXIMUM_IMAGES = 65535
#: A run may take this many times the cycles that the compiler predicted, and some more.
WATCHDOG_FACTOR = 16
WATCHDOG_EXTRA = 1_000_000
#: Bytes the output is filled with before a run, so that missing writes show.
_POISON = 0xA5


class Accelerator:
    """An accelerator with a program.

    Open one by URL, load a program and run images; it is a context manager::

        with Accelerator.open("rtl:sim-tiny") as accelerator:
            accelerator.load(Program.load("net.hfp"))
            print(accelerator.run(images).top5())

    Every failure of the hardware is an :class:`AcceleratorError` that names the error, the
    instruction and a remedy, every failure of the link a :class:`.DeviceError`; after either the
    next :meth:`run` works again when its cause is gone. No call waits for ever.

    All methods may be called from any thread. They take turns, but for :meth:`abort`, which ends
    the run of another thread.
    """

    def __init__(self, device: Device):
        """Take over an opened device; raise :class:`AcceleratorError` if it is none of ours."""
        self._device = device
        self._control = Control(device)
        self._resident = Resident(device.store or MemoryStore(device))
        self._program: Program | None = None
        self._program_at = 0
        # The hardware has found it damaged: it is to be written again.
        self._damaged = False
        self._turn = threading.RLock()
        # A run or load has the device, which nothing may enter, not even a signal handler.
        self._busy = False
        # The hardware runs, or may.
        self._started = False
        self._closed = False
        # Makes its thread when it gets something to do.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="hiddenfold")
        self.identify()

    @classmethod
    def open(cls, url: str, **options) -> Self:
        """Open the accelerator that ``url`` names.

        ``rtl:TARGET`` is the generated Verilog in an embedded simulator, ``serial:PORT`` a board
        with a UART bridge, ``litex:HOST:PORT`` one behind litex_server, ``uio:FILE`` one whose
        registers and memory this machine can map; docs/driver.md has their options, which may be
        given here as well. Other schemes come from :func:`hiddenfold.sw.driver.device.register`.
        """
        device = open_device(url, **options)
        try:
            return cls(device)
        except BaseException:
            device.close()
            raise

    @property
    def device(self) -> Device:
        """The device underneath."""
        return self._device

    @property
    def program(self) -> Program | None:
        """The loaded program."""
        return self._program

    @property
    def program_address(self) -> int:
        """Where the loaded program lies in memory."""
        return self._program_at

    def close(self) -> None:
        """End what is under way in any thread, stop the accelerator and close the device."""
        self._closed = True
        self._control.stop.set()
        self._worker.shutdown(cancel_futures=True)
        with self._turn:
            try:
                if self._started:
                    with contextlib.suppress(AcceleratorError, DeviceError):
                        self._control.abort()
            finally:
                self._device.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    @contextlib.contextmanager
    def _use(self) -> Iterator[None]:
        """Take the device for a run or load."""
        with self._turn:
            if self._closed:
                raise AcceleratorError("the accelerator has been closed")
            self._busy = True
            try:
                yield
            finally:
                self._busy = False

    def identify(self) -> int:
        """Check ID and VERSION and return the target identifier."""
        with self._turn:
            return self._control.identify()

    def registers(self) -> dict[str, int]:
        """Return all registers by name."""
        with self._turn:
            return self._control.read_all()

    def load(
        self,
        program: Program | str | Path,
        *,
        check_target: bool = True,
        progress: LoadProgress | None = None,
    ) -> None:
        """Make a program the one that :meth:`run` uses, writing it to memory if it is not there.

        What is written is read back. Programs stay in memory side by side while there is room, also
        when the host's program ends, so changing between them is a matter of registers.
        ``check_target=False`` leaves it to the hardware to refuse a program for another target.
        ``progress`` is called with the bytes written and those to write. Raises
        :class:`AcceleratorError` if the program does not fit this accelerator or does not read back
        as written.
        """
        if isinstance(program, str | Path):
            program = Program.load(program)
        if not isinstance(program, Program):
            raise TypeError(f"program must be a Program or the path of one, not {program!r}")
        with self._use():
            target = self.identify()
            if check_target and program.target_id != target:
                raise AcceleratorError(
                    f"program {program.model!r} was compiled for target {program.target!r} "
                    f"({program.target_id:#010x}), this accelerator is {target:#010x}: "
                    f"{REMEDIES[Error.TARGET]}",
                    code=Error.TARGET,
                )
            if self._control.read("STATUS") & regmap.STATUS_BUSY:
                # Someone left it running: it might read what is going to be written.
                self._control.abort()
            in_memory = self._device.store is None
            self._require_room(program, 1, aligned(len(program.memory)) if in_memory else 0)
            self._place(program, progress)

    def _place(self, program: Program, progress: LoadProgress | None) -> None:
        """Have a program in the store and make it the one of :meth:`run`."""
        self._program = None
        in_memory = self._device.store is None
        room = _working_bytes(program, program.batch) if in_memory else 0
        self._program_at = self._resident.add(program.memory, room, program.model, progress)
        self._program, self._damaged = program, False

    def submit(self, images: np.ndarray, **options) -> Future[RunResult]:
        """Start :meth:`run` in the background and return its future.

        Several may be submitted; they run one after the other with the program that is loaded when
        they begin. :meth:`abort` ends the one under way. For asyncio:
        ``await asyncio.wrap_future(accelerator.submit(images))``.
        """
        return self._worker.submit(self.run, images, **options)

    def run(
        self,
        images: np.ndarray,
        *,
        timeout: float | None = None,
        watchdog: int | None = None,
        progress: Progress | None = None,
    ) -> RunResult:
        """Run images through the loaded program.

        The last batch is filled up by repeating the last image; what that gives is dropped.

        Parameters
        ----------
        images
            uint8 [N, height, width, 3] of the program's image size, RGB.
        timeout
            Seconds of the host's clock for all images; None leaves it to the watchdog.
        watchdog
            Clock cycles that one start of the accelerator may take; default: 16 times the
            compiler's prediction and a million more. So many images are started together at most
            that this fits the register of 32 bits; where a single batch takes longer, the host
            alone ends it.
        progress
            Called now and then and at the end.

        Raises
        ------
        AcceleratorError
            The accelerator reported an error, or :meth:`abort` was called.
        AcceleratorTimeout
            Neither it nor its watchdog ended the run in time. The accelerator has been reset.
        DeviceError
            The link failed.
        TypeError, ValueError
            The images do not fit the program.
        """
        with self._use():
            self._control.stop.clear()
            if self._closed:  # since the turn was taken: what was cleared was close()'s
                self._control.stop.set()
            return self._run(images, timeout, watchdog, progress)

    def abort(self) -> None:
        """Stop a run, that of another thread too, which then raises :class:`AcceleratorError`.

        Raises :class:`AcceleratorTimeout` if there is no such run and the hardware does not stop.
        """
        if not self._busy and self._turn.acquire(blocking=False):
            try:
                self._control.abort()
            finally:
                self._turn.release()
        else:
            self._control.stop.set()

    def _run(
        self,
        images: np.ndarray,
        timeout: float | None,
        watchdog: int | None,
        progress: Progress | None,
    ) -> RunResult:
        if self._program is None:
            raise AcceleratorError("no program is loaded: call load() first")
        program = self._program
        images = _check_images(images, program.image)
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout must be a positive number of seconds, not {timeout!r}")
        if watchdog is not None and not 0 < watchdog < 1 << 32:
            raise ValueError(f"watchdog must be in 1..2^32-1 cycles, not {watchdog!r}")
        if self._damaged:
            self._place(program, None)
        deadline = time.monotonic() + (timeout or 0)
        totals = dict.fromkeys(COUNTERS.values(), 0)
        logits, traces, processed, seconds = [], [], 0, 0.0
        step = self._require_room(program, len(images), self._working_at())
        if watchdog is None:
            step = min(step, _watched_images(program))
        for first in range(0, len(images), step):
            part = images[first : first + step]
            missing = -len(part) % program.batch
            whole = np.concatenate([part, *[part[-1:]] * missing])

            def report(done: int, cycles: int, first: int = first) -> None:
                if progress is not None:
                    done = min(first + done, len(images))
                    progress(done, len(images), totals["cycles"] + cycles)

            expected = len(whole) * program.predicted_cycles
            cycles = watchdog or WATCHDOG_FACTOR * expected + WATCHDOG_EXTRA
            limits = Limits(cycles + GRACE_CYCLES, expected, timeout, deadline)
            outputs, registers, took = self._run_part(
                program, whole, cycles, limits, report if progress is not None else None
            )
            processed += len(whole)
            seconds += took
            for register, name in COUNTERS.items():
                totals[name] += registers[register]
            report(len(part), 0)
            logits += [output.logits for output in outputs[: len(part)]]
            traces += [_entries(program, output.trace) for output in outputs[: len(part)]]
        return RunResult(
            logits=np.stack(logits),
            **totals,
            processed=processed,
            seconds=seconds,
            traces=None if program.trace is None else traces,
        )

    def _run_part(
        self,
        program: Program,
        images: np.ndarray,
        watchdog: int,
        limits: Limits,
        report: Callable[[int, int], None] | None,
    ) -> tuple[list[Output], dict[str, int], float]:
        """Run whole batches that fit in memory together.

        Returns outputs, registers, and the seconds from the start to the end.
        """
        device, control = self._device, self._control
        control.check(limits)
        if control.read("STATUS") & regmap.STATUS_BUSY:
            control.abort()
        packed = program.pack_images(images)
        image_at = device.memory_base + self._working_at()
        output_at = image_at + aligned(len(packed))
        size = len(images) * program.output_bytes
        device.write_memory(image_at, packed)
        if not device.slow_memory:
            device.write_memory(output_at, np.full(size, _POISON, np.uint8))
        control.check(limits)
        settings = {
            "PROGRAM": self._program_at,
            "PROGRAM_SIZE": len(program.memory),
            "IMAGE": image_at,
            "IMAGE_SIZE": len(packed),
            "OUTPUT": output_at,
            "OUTPUT_SIZE": size,
            "IMAGES": len(images),
            # 0: none, where the limit does not fit.
            "WATCHDOG": watchdog if watchdog < 1 << 32 else 0,
            "SCRATCH": output_at + aligned(size),
            "SCRATCH_SIZE": program.scratch_bytes,
        }
        started = time.monotonic()
        self._started = True
        try:
            control.start(settings)
            control.wait(limits, report)
        except AcceleratorError:
            raise
        except BaseException:
            # Whatever it is, the accelerator is not to go on alone; a link that failed may work.
            with contextlib.suppress(AcceleratorError, DeviceError):
                control.abort()
                self._started = False
            raise
        self._started = False
        took = time.monotonic() - started
        control.write("CONTROL", 0)
        registers = control.read_all()
        if registers["STATUS"] & regmap.STATUS_ERROR:
            raise self._error(program, registers)
        done = registers["IMAGES_DONE"]
        if done != len(images):
            raise AcceleratorError(
                f"the accelerator finished {done} of {len(images)} images without an error: "
                "bitstream and driver disagree",
                registers=registers,
            )
        data = device.read_memory(output_at, size).tobytes()
        return program.unpack_output(data, len(images)), registers, took

    def _error(self, program: Program, registers: dict[str, int]) -> AcceleratorError:
        """Return the exception for the error that the registers report."""
        code, pc = registers["ERROR"] & 0xFF, registers["ERROR_PC"]
        if code in DAMAGED:
            self._resident.forget(self._program_at)
            self._damaged = True
        instruction, layer = instruction_at(program, pc), layer_at(program, pc)
        where = f"at program offset {pc:#x}"
        if layer is not None:
            where += f", layer {layer!r}"
        if instruction is not None:
            where += f" ({instruction})"
        remedy = "bitstream and driver disagree"
        if code in set(Error):
            remedy = REMEDIES.get(Error(code), remedy)
        return AcceleratorError(
            f"accelerator error {error_name(code)} ({code}) {where} after "
            f"{registers['IMAGES_DONE']} images and {registers['CYCLES']} cycles: {remedy}",
            code=code,
            pc=pc,
            instruction=instruction,
            registers=registers,
        )

    def _working_at(self) -> int:
        """Return the offset of the memory that is free for images and results."""
        return self._resident.end() if self._device.store is None else 0

    def _require_room(self, program: Program, images: int, begin: int) -> int:
        """Return how many images, up to ``images`` in whole batches, memory takes at once.

        ``begin`` is the offset of what is free. Raises if it does not take one batch.
        """
        fixed = begin + _working_bytes(program, 0)
        each = _working_bytes(program, program.batch) - _working_bytes(program, 0)
        available = self._device.memory_size - DIRECTORY_BYTES - fixed
        if available < each:
            what = "one image" if program.batch == 1 else f"a batch of {program.batch} images"
            need = self._device.memory_size - available + each
            raise AcceleratorError(
                f"program {program.model!r} needs {need} bytes of memory for {what}, "
                f"the device has {self._device.memory_size}: open it with more memory"
            )
        batches = min(
            -(-images // program.batch), available // each, MAXIMUM_IMAGES // program.batch
        )
        return batches * program.batch


def _watched_images(program: Program) -> int:
    """Return how many images, in whole batches, the watchdog's register can guard in one start."""
    cycles = WATCHDOG_FACTOR * max(program.predicted_cycles, 1) * program.batch
    return max(((1 << 32) - 1 - WATCHDOG_EXTRA) // cycles, 1) * program.batch


def _working_bytes(program: Program, images: int) -> int:
    """Return the bytes behind the program that a run of some images takes at most."""
    height, _ = program.image
    scratch = program.scratch_bytes + (ALIGNMENT if program.scratch_bytes else 0)
    return scratch + 2 * ALIGNMENT + images * (height * program.pitch + program.output_bytes)


def _check_images(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return ``images`` as uint8 [N, height, width, 3] with N >= 1."""
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise TypeError(f"images must have elements of type uint8, not {images.dtype}")
    if images.ndim != 4 or len(images) < 1 or images.shape[1:] != (*size, 3):
        raise ValueError(
            f"images must have the shape [N, {size[0]}, {size[1]}, 3] with N >= 1 for this "
            f"program, not {list(images.shape)}"
        )
    return images


def _entries(program: Program, tensors: list[np.ndarray]) -> list[TraceEntry]:
    """Put the names of a trace to its tensors."""
    return [
        TraceEntry(item["name"], item["iteration"], tensor)
        for item, tensor in zip(program.image_trace, tensors, strict=True)
    ]


__all__ = ["Accelerator", "AcceleratorError", "AcceleratorTimeout", "DeviceError", "Progress"]
