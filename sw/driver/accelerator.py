# SPDX-License-Identifier: Apache-2.0
"""Loads programs into an accelerator, runs images through it and explains its errors."""

import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np

from hiddenfold.hw import regmap
from hiddenfold.hw.isa import Error
from hiddenfold.sw.driver.device import Device, DeviceError, open_device
from hiddenfold.sw.driver.errors import (
    REMEDIES,
    AcceleratorError,
    AcceleratorTimeout,
    error_name,
)
from hiddenfold.sw.driver.locate import instruction_at, layer_at
from hiddenfold.sw.driver.result import COUNTERS, RunResult, TraceEntry
from hiddenfold.sw.program import Output, Program

#: Called as ``progress(images done, images in all, clock cycles so far)``.
Progress = Callable[[int, int, int], None]

MAXIMUM_IMAGES = 65535
#: Multiple of bytes at which the regions in memory start.
ALIGNMENT = 64
#: A run may take this many times the cycles that the compiler predicted, and some more.
WATCHDOG_FACTOR = 16
WATCHDOG_EXTRA = 1_000_000
#: Cycles the accelerator gets to stop by itself after its watchdog or an abort.
GRACE_CYCLES = 20_000
#: Bytes the output is filled with before a run, so that missing writes show.
_POISON = 0xA5


class Accelerator:
    """An accelerator with a program.

    Open one by URL, load a program and run images; it is a context manager::

        with Accelerator.open("rtl:sim-tiny") as accelerator:
            accelerator.load(Program.load("net.hfp"))
            print(accelerator.run(images).top5())

    Every failure of the hardware is an :class:`AcceleratorError` that names the error, the
    instruction and a remedy; after it the next :meth:`run` works again.
    """

    def __init__(self, device: Device):
        """Take over an opened device; raise :class:`AcceleratorError` if it is none of ours."""
        self._device = device
        self._program: Program | None = None
        self._loaded: tuple[int, int] | None = None
        self.identify()

    @classmethod
    def open(cls, url: str, **options) -> Self:
        """Open the accelerator that ``url`` names.

        ``rtl`` and ``rtl:TARGET`` are the generated Verilog in an embedded simulator (its options:
        :meth:`hiddenfold.sw.driver.rtl.RtlDevice.open`); other schemes come from
        :func:`hiddenfold.sw.driver.device.register`.
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

    def close(self) -> None:
        """Close the device."""
        self._device.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def identify(self) -> int:
        """Check ID and VERSION and return the target identifier."""
        found = self._read("ID")
        if found != regmap.ID_VALUE:
            raise AcceleratorError(
                f"the device is no Hiddenfold accelerator: ID must be {regmap.ID_VALUE:#010x}, "
                f"not {found:#010x}; check the address of its registers and the bitstream"
            )
        version = self._read("VERSION")
        if version >> 16 != regmap.VERSION_VALUE >> 16:
            raise AcceleratorError(
                f"the accelerator's major version must be {regmap.VERSION_VALUE >> 16}, not "
                f"{version >> 16}: use a bitstream and a driver of the same release"
            )
        return self._read("TARGET")

    def registers(self) -> dict[str, int]:
        """Return all registers by name."""
        return {name: self._read(name) for name in regmap.REGISTERS}

    def load(self, program: Program | str | Path, *, check_target: bool = True) -> None:
        """Write a program to the accelerator's memory and read it back.

        A program that is loaded already is not written again. ``check_target=False`` leaves it to
        the hardware to refuse a program for another target. Raises :class:`AcceleratorError` if the
        program does not fit this accelerator or does not read back as written.
        """
        if isinstance(program, str | Path):
            program = Program.load(program)
        if not isinstance(program, Program):
            raise TypeError(f"program must be a Program or the path of one, not {program!r}")
        memory = np.frombuffer(program.memory, np.uint8)
        target = self.identify()
        if check_target and program.target_id != target:
            raise AcceleratorError(
                f"program {program.model!r} was compiled for target {program.target!r} "
                f"({program.target_id:#010x}), this accelerator is {target:#010x}: "
                f"{REMEDIES[Error.TARGET]}",
                code=Error.TARGET,
            )
        self._require_room(program, 1)
        key = len(memory), zlib.crc32(program.memory)
        if self._loaded != key:
            self._loaded = None
            base = self._device.memory_base
            self._device.write_memory(base, memory)
            if zlib.crc32(self._device.read_memory(base, len(memory)).tobytes()) != key[1]:
                raise AcceleratorError(
                    f"program {program.model!r} does not read back as written from memory at "
                    f"{base:#x}: check the memory, and that nothing else uses these addresses"
                )
            self._loaded = key
        self._program = program

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
            compiler's prediction and a million more.
        progress
            Called now and then and at the end.

        Raises
        ------
        AcceleratorError
            The accelerator reported an error.
        AcceleratorTimeout
            Neither it nor its watchdog ended the run in time. The accelerator has been reset.
        TypeError, ValueError
            The images do not fit the program.
        """
        if self._program is None:
            raise AcceleratorError("no program is loaded: call load() first")
        program = self._program
        images = _check_images(images, program.image)
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout must be a positive number of seconds, not {timeout!r}")
        if watchdog is not None and not 0 < watchdog < 1 << 32:
            raise ValueError(f"watchdog must be in 1..2^32-1 cycles, not {watchdog!r}")
        limit = None if timeout is None else (timeout, time.monotonic() + timeout)
        totals = dict.fromkeys(COUNTERS.values(), 0)
        logits, traces, processed, seconds = [], [], 0, 0.0
        step = self._require_room(program, len(images))
        for first in range(0, len(images), step):
            part = images[first : first + step]
            missing = -len(part) % program.batch
            whole = np.concatenate([part, *[part[-1:]] * missing])

            def report(done: int, cycles: int, first: int = first) -> None:
                if progress is not None:
                    done = min(first + done, len(images))
                    progress(done, len(images), totals["cycles"] + cycles)

            started = time.monotonic()
            outputs = self._run_part(program, whole, watchdog, limit, report)[: len(part)]
            processed += len(whole)
            seconds += time.monotonic() - started
            for register, name in COUNTERS.items():
                totals[name] += self._read(register)
            report(len(part), 0)
            logits += [output.logits for output in outputs]
            traces += [_entries(program, output.trace) for output in outputs]
        return RunResult(
            logits=np.stack(logits),
            **totals,
            processed=processed,
            seconds=seconds,
            traces=None if program.trace is None else traces,
        )

    def abort(self) -> None:
        """Stop a run; raise :class:`AcceleratorTimeout` (after a reset) if it does not stop."""
        self._write("CONTROL", regmap.CONTROL_ABORT)
        for _ in range(10):
            if not self._read("STATUS") & regmap.STATUS_BUSY:
                return
            self._device.wait(GRACE_CYCLES // 10)
        self._device.reset()
        raise AcceleratorTimeout(
            "the accelerator did not stop after an abort and has been reset: a memory access of "
            "its AXI port was never answered"
        )

    def _run_part(
        self,
        program: Program,
        images: np.ndarray,
        watchdog: int | None,
        limit: tuple[float, float] | None,
        report: Callable[[int, int], None],
    ) -> list[Output]:
        """Run whole batches that fit in memory together; ``limit`` is (timeout, deadline)."""
        device = self._device
        if self._read("STATUS") & regmap.STATUS_BUSY:
            self.abort()
        packed = program.pack_images(images)
        image_at, output_at, scratch_at = self._regions(program, len(images))
        size = len(images) * program.output_bytes
        if watchdog is None:
            expected = WATCHDOG_FACTOR * len(images) * program.predicted_cycles
            watchdog = min(expected + WATCHDOG_EXTRA, (1 << 32) - 1)
        device.write_memory(image_at, packed)
        device.write_memory(output_at, np.full(size, _POISON, np.uint8))
        for name, value in (
            ("PROGRAM", device.memory_base),
            ("PROGRAM_SIZE", len(program.memory)),
            ("IMAGE", image_at),
            ("IMAGE_SIZE", len(packed)),
            ("OUTPUT", output_at),
            ("OUTPUT_SIZE", size),
            ("SCRATCH", scratch_at),
            ("SCRATCH_SIZE", program.scratch_bytes),
            ("IMAGES", len(images)),
            ("WATCHDOG", watchdog),
        ):
            self._write(name, value)
        self._write("CONTROL", regmap.CONTROL_START | regmap.CONTROL_IRQ_ENABLE)
        try:
            self._wait(watchdog + GRACE_CYCLES, limit, report)
        except KeyboardInterrupt:
            self.abort()
            raise
        self._write("CONTROL", 0)
        if self._read("STATUS") & regmap.STATUS_ERROR:
            raise self._error(program)
        done = self._read("IMAGES_DONE")
        if done != len(images):
            raise AcceleratorError(
                f"the accelerator finished {done} of {len(images)} images without an error: "
                "bitstream and driver disagree",
                registers=self.registers(),
            )
        return program.unpack_output(device.read_memory(output_at, size).tobytes(), len(images))

    def _wait(
        self,
        cycles: int,
        limit: tuple[float, float] | None,
        report: Callable[[int, int], None],
    ) -> None:
        """Return when the run has ended; raise after ``cycles`` cycles or at the deadline."""
        passed, portion = 0, 20_000
        while True:
            started = time.monotonic()
            passed += self._device.wait(min(portion, cycles - passed + 1))
            status = self._read("STATUS")
            if not status & regmap.STATUS_BUSY:
                return
            if status & regmap.STATUS_ERROR:
                # The interrupt comes with the error, the end when the last bus access is answered.
                self._write("CONTROL", 0)
                cycles = min(cycles, passed + GRACE_CYCLES)
            now = time.monotonic()
            report(self._read("IMAGES_DONE"), passed)
            if limit is not None and now >= limit[1]:
                reason = f"did not finish within {limit[0]} s"
            elif passed > cycles:
                reason = "did not finish, nor did its watchdog stop it"
            else:
                # Aim at about half a second between two looks at the registers.
                portion = min(portion * 2, 10_000_000) if now - started < 0.25 else portion
                continue
            registers = self.registers()
            stuck = ""
            try:
                self.abort()
            except AcceleratorTimeout as error:
                stuck = f"; {error}"
            raise AcceleratorTimeout(
                f"the accelerator {reason} ({passed} cycles passed, "
                f"{registers['IMAGES_DONE']} images done){stuck}. Check the memory and the clock, "
                "or allow more time",
                registers=registers,
            )

    def _error(self, program: Program) -> AcceleratorError:
        """Return the exception for the error that the registers report."""
        registers = self.registers()
        code, pc = registers["ERROR"] & 0xFF, registers["ERROR_PC"]
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

    def _regions(self, program: Program, images: int) -> tuple[int, int, int]:
        """Return the addresses of the images, of the output and of the spilled tensors."""
        height, _ = program.image
        image_at = self._device.memory_base + _aligned(len(program.memory))
        output_at = image_at + _aligned(images * height * program.pitch)
        return image_at, output_at, output_at + _aligned(images * program.output_bytes)

    def _require_room(self, program: Program, images: int) -> int:
        """Return how many images, up to ``images`` in whole batches, memory takes at once.

        Raises if it does not take one batch.
        """
        height, _ = program.image
        fixed = _aligned(len(program.memory)) + ALIGNMENT
        fixed += program.scratch_bytes + (ALIGNMENT if program.scratch_bytes else 0)
        each = program.batch * (height * program.pitch + program.output_bytes)
        available = self._device.memory_size - fixed
        if available < each:
            what = "one image" if program.batch == 1 else f"a batch of {program.batch} images"
            raise AcceleratorError(
                f"program {program.model!r} needs {fixed + each} bytes of memory for {what}, "
                f"the device has {self._device.memory_size}: open it with more memory"
            )
        batches = min(
            -(-images // program.batch), available // each, MAXIMUM_IMAGES // program.batch
        )
        return batches * program.batch

    def _read(self, name: str) -> int:
        register = regmap.REGISTERS[name]
        value = self._device.read32(register.offset)
        if register.wide:
            value |= self._device.read32(register.offset + 4) << 32
        return value

    def _write(self, name: str, value: int) -> None:
        self._device.write32(regmap.REGISTERS[name].offset, value)


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


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


__all__ = ["Accelerator", "AcceleratorError", "AcceleratorTimeout", "DeviceError", "Progress"]
