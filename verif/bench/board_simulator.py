# SPDX-License-Identifier: Apache-2.0
"""A board as a program: its whole design with a model of its SDRAM, its UART on a pseudo-terminal.

``python -m hiddenfold.verif.bench.board_simulator TARGET [MODEL]`` starts one and prints the URL by
which the driver reaches it. With a model, its program is in memory from the beginning, as if the
driver had been there before: UART is slow to simulate.
"""

import contextlib
import os
import pty
import subprocess
import sys
import tempfile
import tty
from collections.abc import Mapping
from pathlib import Path
from typing import Self, cast

import numpy as np

from hiddenfold.gen.compile import compile_model
from hiddenfold.gen.target import Target
from hiddenfold.gen.tools import find_compiler, find_verilator, run_tool
from hiddenfold.sw.driver.bridge import MEMORY_SIZE
from hiddenfold.sw.driver.cache import cached, digest
from hiddenfold.sw.driver.device import Device
from hiddenfold.sw.driver.resident import MemoryStore, Resident
from hiddenfold.sw.driver.simulator import Log, target_verilog
from hiddenfold.sw.model import Model
from hiddenfold.sw.program import Program

SOURCES = Path(__file__).with_name("ulx3s")
DESIGN = "hiddenfold.hw.boards.ulx3s"
SYS_HZ = 50_000_000
#: Clock cycles of ``sys`` per bit of the UART; a real one has 50.
BIT = 4
#: Steps of time in a cycle of ``sys``.
STEPS = 4
#: What the driver is told, so that it waits for a simulation: clock in MHz, and seconds.
CLOCK, TIMEOUT = 0.01, 300

_FLAGS = (
    *("--cc", "--exe", "--build", "--prefix", "Vbench", "--top-module", "bench", "-o", "board"),
    *("-O3", "--x-assign", "fast", "--x-initial", "fast", "--threads", "1", "--no-timing"),
    *("-Wno-fatal", "-Wno-lint", "-Wno-style", "-Wno-MULTIDRIVEN", "--output-split", "20000"),
)
#: How much the compiler works on what is often executed: less is ready sooner.
QUICK, FAST = "-O1", "-O3"


def board_program(target: Target, optimise: str, log: Log) -> Path:
    """Return the program that simulates a target on the board, compiling it if need be."""
    verilator, compiler = find_verilator(), find_compiler()
    core = target_verilog(target, log)
    sources = sorted(SOURCES.iterdir())
    key = digest(
        core.read_text(),
        repr((_FLAGS, optimise, BIT)),
        *(path.read_text() for path in [*sources, *_design_sources()]),
        f"{verilator.version} {compiler.path} {compiler.version}",
    )

    def make(folder: Path) -> None:
        log("compiling the simulator of the board (once)")
        options = ["--clock-mhz", "100", "--baud", str(SYS_HZ / BIT)]
        options += ["--bus-bits", str(target.bus_bits), "-o", str(folder / "top")]
        run_tool([sys.executable, "-m", DESIGN, *options])
        files = [core, folder / "top" / "top.v", *sources]
        flags = ["-MAKEFLAGS", f"OPT_FAST={optimise} OPT_SLOW=-O0 OPT_GLOBAL=-O1"]
        verilator.run([*_FLAGS, *flags, "--Mdir", folder / "build", *files])
        (folder / "build" / "board").rename(folder / "board")

    return cached(f"board-{key}", make) / "board"


class BoardSimulator:
    """A simulated board; a context manager.

    Attributes
    ----------
    url
        For :meth:`hiddenfold.sw.driver.accelerator.Accelerator.open`.
    """

    def __init__(
        self,
        target: Target,
        *,
        memory: Mapping[int, bytes] | None = None,
        optimise: str = QUICK,
        log: Log | None = None,
    ):
        """Start it; ``memory`` is what its SDRAM has, pieces by offset (a multiple of 2)."""
        log = log or (lambda text: print(text, file=sys.stderr, flush=True))
        program = board_program(target, optimise, log)
        self._folder = tempfile.TemporaryDirectory()
        contents = Path(self._folder.name, "memory")
        contents.write_text("".join(_words(*piece) for piece in (memory or {}).items()))
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self.url = f"serial:{os.ttyname(self._slave)}?clock={CLOCK}&timeout={TIMEOUT}&check=off"
        self._process = subprocess.Popen(
            [program, str(BIT * STEPS), f"+memory={contents}"],
            stdin=self._master,
            stdout=self._master,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)
        os.close(self._slave)
        self._folder.cleanup()

    def wait(self) -> None:
        """Wait for the end of the simulation, which only comes when a rule is broken."""
        self._process.wait()

    @property
    def failed(self) -> bool:
        """The simulation has ended by itself: a rule of the SDRAM was broken."""
        return self._process.poll() is not None


def _words(offset: int, data: bytes) -> str:
    """Lines of a memory file: bits 8:0 of a word's address are its column, 10:9 its bank."""
    lines = []
    for place in range(0, len(data), 2):
        word = (offset + place) // 2
        column, bank, row = word & 0x1FF, word >> 9 & 3, word >> 11
        if place == 0 or column == 0:
            lines.append(f"@{bank << 22 | row << 9 | column:x}\n")
        lines.append(f"{int.from_bytes(data[place : place + 2], 'little'):x}\n")
    return "".join(lines)


def _design_sources() -> list[Path]:
    import hiddenfold.hw.boards

    return sorted(Path(hiddenfold.hw.boards.__path__[0]).glob("*.py"))


class _Memory:
    """The part of a device that :class:`.Resident` needs, to be copied into a simulation."""

    memory_base, memory_size, checks_writes = 0, MEMORY_SIZE, True

    def __init__(self):
        self.pieces: dict[int, bytes] = {}

    def read_memory(self, address: int, size: int) -> np.ndarray:
        return np.zeros(size, np.uint8)

    def write_memory(self, address: int, data: np.ndarray | bytes) -> None:
        self.pieces[address] = bytes(data)


def loaded(program: Program) -> dict[int, bytes]:
    """Contents of a memory into which the driver has loaded a program."""
    memory = _Memory()
    Resident(MemoryStore(cast(Device, memory))).add(program.memory, 0, program.model, None)
    return memory.pieces


def main() -> None:
    """Run a board until Ctrl-C."""
    target = Target.load(sys.argv[1])
    memory = loaded(compile_model(Model.load(sys.argv[2]), target)) if sys.argv[2:] else {}
    board = BoardSimulator(target, memory=memory, optimise=FAST)
    with board, contextlib.suppress(KeyboardInterrupt):
        print(board.url, flush=True)
        board.wait()


if __name__ == "__main__":
    main()
