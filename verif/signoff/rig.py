# SPDX-License-Identifier: Apache-2.0
"""One program on the embedded simulator, driven register by register, with exact expectations.

The driver (:mod:`hiddenfold.sw.driver.accelerator`) hides what faults and mutants show in: the
state of each register after each kind of end. The rig shows it, and gives up after a bounded number
of clock cycles whatever the hardware does.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hiddenfold.gen.compile import compile_model
from hiddenfold.gen.target import Target
from hiddenfold.hw import regmap
from hiddenfold.hw.isa import Error
from hiddenfold.sw.model import Model
from hiddenfold.sw.program import Program
from hiddenfold.verif.golden.compare import Layer, first_mismatch
from hiddenfold.verif.golden.model import Golden
from hiddenfold.verif.signoff.device import ProbeDevice

#: Cycles in which a memory that works answers all that is under way.
SETTLE = 4000
_START = regmap.CONTROL_START | regmap.CONTROL_IRQ_ENABLE
_POISON = 0xA5
#: Registers that count events.
COUNTERS = (
    *("CYCLES", "ARRAY_CYCLES", "TILE_STALLS", "DRAIN_STALLS", "BUS_STALLS"),
    *("READ_BYTES", "WRITE_BYTES"),
)


class Failure(AssertionError):
    """The accelerator did something else than it should; the text says what."""


class Hang(Failure):
    """A run did not end."""


@dataclass(frozen=True)
class Ending:
    """How a run ended: error code, program counter of the error, and its clock cycles."""

    code: int
    pc: int
    cycles: int


class Case:
    """A program with images and what the golden model makes of them."""

    def __init__(
        self, model: Model, target: Target, images: NDArray[np.uint8], *, trace: bool, **options
    ):
        """Compile ``model``; ``options`` are those of :func:`compile_model`."""
        self.target = target
        self.program: Program = compile_model(model, target, trace=trace, **options)
        self.images = images
        layers = Golden(model).trace(images)
        self.golden: list[Layer] = layers if trace else layers[-1:]
        self.names = [(layer.name, layer.iteration) for layer in self.golden]


class Rig:
    """A device with a case in its memory."""

    def __init__(self, device: ProbeDevice, case: Case, *, spread: int = 0):
        """``spread`` is the number of unused bytes (a multiple of 4096) between the regions."""
        self.device, self.case = device, case
        program, count = case.program, len(case.images)
        self.packed = np.frombuffer(program.pack_images(case.images), np.uint8).copy()
        # What the specification says is ignored: the fourth byte of a pixel.
        self.packed[3::4] = np.random.default_rng(2).integers(0, 256, len(self.packed) // 4)
        self.output_bytes = count * program.output_bytes
        at = device.memory_base + spread
        self.places: dict[str, tuple[int, int]] = {}
        for name, size in (
            ("PROGRAM", len(program.memory)),
            ("IMAGE", len(self.packed)),
            ("OUTPUT", self.output_bytes),
            ("SCRATCH", program.scratch_bytes),
        ):
            self.places[name] = at, size
            at += -(-size // 4096) * 4096 + spread
        self._ended = 0
        self.limit = 4 * program.predicted_cycles * count + 20_000

    def read(self, name: str) -> int:
        """Read a register, both words of a wide one."""
        register = regmap.REGISTERS[name]
        value = self.device.read32(register.offset)
        if register.wide:
            value |= self.device.read32(register.offset + 4) << 32
        return value

    def write(self, name: str, value: int) -> None:
        """Write a register."""
        self.device.write32(regmap.REGISTERS[name].offset, value)

    def fill(self) -> None:
        """Write the undamaged program and the images to memory; poison the output."""
        self.device.write_memory(self.places["PROGRAM"][0], self.case.program.memory)
        self.device.write_memory(self.places["IMAGE"][0], self.packed)
        self.poison()

    def poison(self) -> None:
        """Fill the output with bytes that the run has to overwrite."""
        at, size = self.places["OUTPUT"]
        self.device.write_memory(at, np.full(size, _POISON, np.uint8))

    def configure(self, **changed: int) -> dict[str, int]:
        """Write all registers that a run needs, with ``changed`` replacing values by name."""
        values = {"IMAGES": len(self.case.images), "WATCHDOG": 0}
        for name, (at, size) in self.places.items():
            values |= {name: at, f"{name}_SIZE": size}
        values |= changed
        for name, value in values.items():
            self.write(name, value)
        return values

    def start(self, **changed: int) -> None:
        """Write the registers and START."""
        self.configure(**changed)
        self.device.began_within_beat()
        self.write("CONTROL", _START)

    def finish(self, limit: int = 0) -> Ending:
        """Wait for the interrupt and for BUSY to fall; check the registers of the end."""
        limit = limit or self.limit
        passed = self.device.advance(limit, until_interrupt=True)
        if not self.device.interrupt:
            raise Hang(f"no interrupt within {limit} cycles")
        settled = self.device.cycles + SETTLE
        while self.read("STATUS") & regmap.STATUS_BUSY:
            if self.device.cycles > settled:
                raise Hang("BUSY does not fall after the interrupt")
        # One of them at a time: the next might have settled meanwhile.
        counter = COUNTERS[self._ended % len(COUNTERS)]
        self._ended += 1
        early = self.read(counter)
        code, pc, status = self.read("ERROR"), self.read("ERROR_PC"), self.read("STATUS")
        wanted = regmap.STATUS_ERROR if code else regmap.STATUS_DONE
        if status != wanted:
            raise Failure(f"STATUS is {status} at the end of a run with error {code}")
        if self.read(counter) != early:
            raise Failure(f"{counter} changes after BUSY has fallen")
        return Ending(code, pc, passed)

    def expect_good(self, **changed: int) -> None:
        """Run; every byte that means something must be that of the golden model."""
        self.poison()
        self.start(**changed)
        self.expect_good_end()

    def expect_good_end(self) -> None:
        """Wait for the end of a run that must be good."""
        ending = self.finish()
        if ending.code:
            raise Failure(f"{_name(ending.code)} at {ending.pc:#x} instead of a good end")
        if self.device.began_within_beat():
            raise Failure("a burst began within a beat")
        if self.read("IMAGES_DONE") != len(self.case.images):
            raise Failure(f"IMAGES_DONE is {self.read('IMAGES_DONE')}")
        self.compare()

    def compare(self) -> None:
        """Compare the output with the golden trace."""
        mismatch = self.mismatch()
        if mismatch is not None:
            raise Failure(f"wrong answer: {mismatch}")

    def mismatch(self) -> str | None:
        """Return the first difference between the output and the golden trace."""
        at, size = self.places["OUTPUT"]
        data = self.device.read_memory(at, size).tobytes()
        outputs = self.case.program.unpack_output(data, len(self.case.images))
        found = [[*output.trace, output.logits] for output in outputs]
        layers = [
            Layer(name, iteration, np.stack(values))
            for (name, iteration), values in zip(
                self.case.names, zip(*found, strict=True), strict=True
            )
        ]
        difference = first_mismatch(self.case.golden, layers)
        return None if difference is None else str(difference)

    def expect_error(self, code: Error, pc: int | None = None, **changed: int) -> Ending:
        """Run what is in memory; it must end with this error, at this instruction if given."""
        self.start(**changed)
        return self.expect_error_end(code, pc)

    def expect_error_end(self, code: Error, pc: int | None = None) -> Ending:
        """Wait for the end of a run that must fail like this."""
        ending = self.finish()
        if ending.code != code:
            raise Failure(f"error must be {code.name}, not {_name(ending.code)}")
        if pc is not None and ending.pc != pc:
            raise Failure(f"ERROR_PC of {code.name} must be {pc:#x}, not {ending.pc:#x}")
        return ending


def _name(code: int) -> str:
    return Error(code).name if code in set(Error) else f"code {code}"
