# SPDX-License-Identifier: Apache-2.0
"""An accelerator's registers by name, and the life of one run: set up, start, wait, abort."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from hiddenfold.hw import regmap
from hiddenfold.hw.isa import Error
from hiddenfold.sw.driver.device import Device, DeviceError
from hiddenfold.sw.driver.errors import AcceleratorError, AcceleratorTimeout

#: Cycles the accelerator gets to stop by itself after its watchdog or an abort.
GRACE_CYCLES = 20_000
#: Cycles of the first of the waits for the end of a run.
_FIRST_WAIT = 20_000
_LONGEST_WAIT = 10_000_000
#: Seconds between two looks at the registers that are aimed at.
_LOOK = 0.25
#: Seconds in which a write must show, and those after which it is written again.
_REACTION_SECONDS = 2.0
_REPEAT_SECONDS = 0.25
_ENDED = regmap.STATUS_DONE | regmap.STATUS_ERROR
_STARTED = regmap.STATUS_BUSY | _ENDED
_WORDS = 1 + max(register.offset // 4 + register.wide for register in regmap.REGISTERS.values())


class Limits(NamedTuple):
    """When to give up a run: after ``cycles`` of its clock, or at ``deadline`` (monotonic).

    ``expected`` is when it will probably end; ``timeout`` are the seconds that the user gave.
    """

    cycles: int
    expected: int
    timeout: float | None
    deadline: float


class Control:
    """Registers of a device by name.

    ``stop`` may be set by any thread: the wait for the end of a run then ends with an abort.
    """

    def __init__(self, device: Device):
        self._device = device
        self.stop = threading.Event()

    def read(self, name: str) -> int:
        """Return a register, of 64 bits for the wide ones."""
        register = regmap.REGISTERS[name]
        words = self._device.read_registers(register.offset, 1 + register.wide)
        return sum(word << 32 * i for i, word in enumerate(words))

    def write(self, name: str, value: int) -> None:
        """Write a register."""
        self._device.write32(regmap.REGISTERS[name].offset, value)

    def read_all(self) -> dict[str, int]:
        """Return all registers by name."""
        words = self._device.read_registers(0, _WORDS)
        values = {}
        for name, register in regmap.REGISTERS.items():
            at = register.offset // 4
            values[name] = words[at] | (words[at + 1] << 32 if register.wide else 0)
        return values

    def identify(self) -> int:
        """Check ID and VERSION and return the target identifier."""
        found = self.read("ID")
        if found != regmap.ID_VALUE:
            raise AcceleratorError(
                f"the device is no Hiddenfold accelerator: ID must be {regmap.ID_VALUE:#010x}, "
                f"not {found:#010x}; check the address of its registers and the bitstream"
            )
        version = self.read("VERSION")
        if version >> 16 != regmap.VERSION_VALUE >> 16:
            raise AcceleratorError(
                f"the accelerator's major version must be {regmap.VERSION_VALUE >> 16}, not "
                f"{version >> 16}: use a bitstream and a driver of the same release"
            )
        return self.read("TARGET")

    def start(self, values: Mapping[str, int]) -> None:
        """Write the registers of ``values``, which follow each other in memory, and START.

        Raises :class:`.AcceleratorError` if one of them does not read as written.
        """
        for run in _runs(values):
            offset, words = regmap.REGISTERS[run[0]].offset, [values[name] for name in run]
            self._device.write_registers(offset, words)
            found = self._device.read_registers(offset, len(words))
            for name, word, value in zip(run, words, found, strict=True):
                if word != value:
                    raise AcceleratorError(
                        f"register {name} reads {value:#x} after {word:#x} was written to it: "
                        "check the link, and that no other program uses the accelerator"
                    )
        # The end of the run before must not be taken for that of this one.
        self._until(
            "STATUS",
            _ENDED,
            lambda: not self.read("STATUS") & _ENDED,
            "keeps DONE or ERROR, which writing 1 clears",
        )
        self._until(
            "CONTROL",
            regmap.CONTROL_START | regmap.CONTROL_IRQ_ENABLE,
            lambda: (
                not self.read("CONTROL") & regmap.CONTROL_START and self.read("STATUS") & _STARTED
            ),
            "took START, which did not start anything",
        )

    def wait(self, limits: Limits, report: Callable[[int, int], None] | None) -> None:
        """Return when the run has ended; raise when it must be given up.

        ``report`` is called now and then with the images done and the cycles passed.
        """
        passed, longest, cycles, counted = 0, _FIRST_WAIT, limits.cycles, 0
        while True:
            # Up to the expected end at once where that is near, then with small steps.
            aim = max(limits.expected - passed, limits.expected // 32, 1)
            started = time.monotonic()
            # A device may come back at once.
            passed += max(1, self._device.wait(min(longest, aim, cycles - passed + 1)))
            status = self.read("STATUS")
            if status & _ENDED and not status & regmap.STATUS_BUSY:
                return
            if status & _ENDED:
                # The interrupt comes with the error, the end when the last bus access is answered.
                self.write("CONTROL", 0)
                cycles = min(cycles, passed + GRACE_CYCLES)
            now = time.monotonic()
            if self.stop.is_set():
                registers = self.read_all()
                self.abort()
                raise AcceleratorError(
                    f"the run was aborted by the host ({registers['IMAGES_DONE']} images done); "
                    "it can be started again",
                    code=Error.ABORTED,
                    registers=registers,
                )
            if limits.timeout is not None and now >= limits.deadline:
                self._give_up(f"did not finish within {limits.timeout} s", passed)
            if passed > cycles:
                # `passed` may be an estimate of a clock that is slower: what does it say itself?
                before, counted = counted, self.read("CYCLES")
                if counted > cycles or counted <= before:
                    self._give_up("did not finish, nor did its watchdog stop it", passed)
                passed = counted
            if report is not None:
                report(self.read("IMAGES_DONE"), passed)
            if now - started < _LOOK:
                longest = min(longest * 2, _LONGEST_WAIT)

    def check(self, limits: Limits) -> None:
        """Raise as :meth:`wait` does when the run must be given up, between two starts."""
        if self.stop.is_set():
            raise AcceleratorError(
                "the run was aborted by the host between two starts; it can be started again",
                code=Error.ABORTED,
            )
        if limits.timeout is not None and time.monotonic() >= limits.deadline:
            raise AcceleratorTimeout(
                f"the accelerator did not finish within {limits.timeout} s: images and results "
                "take their time as well; allow more"
            )

    def abort(self) -> None:
        """Stop a run; raise :class:`.AcceleratorTimeout` if that takes a reset."""
        passed = 0
        while passed < GRACE_CYCLES:
            # Again and again: a link may lose it, and it harms nothing.
            self.write("CONTROL", regmap.CONTROL_ABORT)
            if not self.read("STATUS") & regmap.STATUS_BUSY:
                return
            # A device may come back early.
            passed += max(1, self._device.wait(GRACE_CYCLES // 10))
        stuck = (
            "the accelerator did not stop after an abort{}: a memory access of its AXI port was "
            "never answered"
        )
        try:
            self._device.reset()
        except DeviceError as error:
            raise AcceleratorTimeout(stuck.format(f" and cannot be reset ({error})")) from error
        raise AcceleratorTimeout(stuck.format(" and has been reset"))

    def _until(self, name: str, value: int, done: Callable[[], object], symptom: str) -> None:
        """Write a register until that shows; hardware takes no time for it, a link may lose it."""
        deadline = time.monotonic() + _REACTION_SECONDS
        while time.monotonic() < deadline:
            self.write(name, value)
            again = time.monotonic() + _REPEAT_SECONDS
            while True:
                if done():
                    return
                if time.monotonic() > again:
                    break
        raise AcceleratorError(
            f"register {name} {symptom}: check the link and the address of the registers; what is "
            "there may be memory, or an accelerator in reset"
        )

    def _give_up(self, reason: str, passed: int) -> None:
        registers = self.read_all()
        stuck = ""
        try:
            self.abort()
        except AcceleratorTimeout as error:
            stuck = f"; {error}"
        raise AcceleratorTimeout(
            f"the accelerator {reason} (STATUS {_state(registers['STATUS'])}, {passed} cycles "
            f"passed, {registers['IMAGES_DONE']} images done){stuck}. Check the memory and the "
            "clock, or allow more time",
            registers=registers,
        )


def _runs(names: Mapping[str, int]) -> list[list[str]]:
    """Group names of registers that follow each other."""
    runs: list[list[str]] = []
    place = None
    for name in names:
        offset = regmap.REGISTERS[name].offset
        if offset != place:
            runs.append([])
        runs[-1].append(name)
        place = offset + 4
    return runs


def _state(status: int) -> str:
    bits = {
        "BUSY": regmap.STATUS_BUSY,
        "DONE": regmap.STATUS_DONE,
        "ERROR": regmap.STATUS_ERROR,
    }
    return "+".join(name for name, bit in bits.items() if status & bit) or "idle"
