# SPDX-License-Identifier: Apache-2.0
"""Mutants of the generated Verilog: many in one simulator, chosen by an input at run time.

Yosys' ``mutate`` spreads mutations (a bit of a cell's input or output inverted or stuck) over
modules, cells and wires. Each is made to act only while the new input ``mutant`` has its number, so
one compilation, which is what costs time, serves all of them.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from hiddenfold.gen.tools import find_verilator, run_yosys

TOP = "hiddenfold"
PORT = "mutant"
#: Bits inverted and stuck. Modes that invert a bit when another one is set can close loops.
_MODES = ("inv", "const0", "const1")
_OPTION = re.compile(r"-(\w+) ((?:(?! -\w+ ).)+)")
#: What synthesis leaves out, so that lines have the numbers that the names of mutants have.
_NOT_HARDWARE = re.compile(
    r" *// synthesis translate_off\n.*?// synthesis translate_on\n", re.DOTALL
)
_LOOP = re.compile(r"%Warning-UNOPTFLAT: \S+?:(\d+):\d+: Signal unoptimizable")


@dataclass(frozen=True)
class Mutant:
    """A mutation; ``line`` is a command for Yosys without the number, ``where`` says what it is."""

    number: int
    line: str

    @property
    def options(self) -> dict[str, str]:
        """The command's options by name (the last one of a name counts)."""
        return dict(_OPTION.findall(self.line))

    @property
    def module(self) -> str:
        """Path of the module in the generated Verilog."""
        return self.options["module"]

    @property
    def where(self) -> str:
        """Module, cell, port, bit and mode: the same for the same Verilog and seed."""
        options = self.options
        place = f"{options['cell']}.{options['port']}[{options['portbit']}]"
        wire = f" (wire {options['wire']}[{options['wirebit']}])" if "wire" in options else ""
        return f"{self.module} {place} {options['mode']}{wire}"


def make_mutants(verilog: Path, folder: Path, *, count: int, seed: int) -> list[Mutant]:
    """Write ``mutants.v`` with ``count`` mutants of a Verilog file into ``folder``."""
    lists = [f"{mode}.txt" for mode in _MODES]
    commands = [
        f"mutate -list {count // len(lists) + 1} -mode {mode} "
        f"-seed {len(lists) * seed + number} -o {name}"
        for number, (mode, name) in enumerate(zip(_MODES, lists, strict=True))
    ]
    # Equal cells are merged, and bits that nothing reads and choices of something undefined are cut
    # off first: to mutate them does no harm. Yosys from PyPI sees the working folder, but not all
    # others.
    text = _NOT_HARDWARE.sub("", verilog.read_text(encoding="utf-8"))
    (folder / "design.v").write_text(text, encoding="utf-8")
    run_yosys(
        f"read_verilog design.v; hierarchy -top {TOP}; proc; opt -mux_undef; wreduce; "
        f"opt -mux_undef; opt_clean; "
        f"write_rtlil base.il; {'; '.join(commands)}",
        cwd=folder,
    )
    texts = [(folder / name).read_text(encoding="utf-8").splitlines() for name in lists]
    lines = [line for group in zip(*texts, strict=True) for line in group][:count]
    mutants = [Mutant(number, line) for number, line in enumerate(lines, 1)]
    _write(mutants, folder)
    _split_vectors(folder / "mutants.v")
    return mutants


def _write(mutants: list[Mutant], folder: Path) -> None:
    bits = len(mutants).bit_length()
    script = [
        mutant.line.replace("mutate ", f"mutate -ctrl {PORT} {bits} {mutant.number} ", 1)
        for mutant in mutants
    ]
    (folder / "mutate.ys").write_text("\n".join(script) + "\n", encoding="utf-8")
    run_yosys(
        "read_rtlil base.il; script mutate.ys; opt_clean; write_verilog -noattr mutants.v",
        cwd=folder,
    )


def _split_vectors(file: Path) -> None:
    """Tell Verilator to split the signals that it takes for loops.

    A bit of a vector that depends on another bit of it is no loop, but Verilator would evaluate the
    whole design again and again.
    """
    arguments = ["--lint-only", "-Wno-fatal", "-Wno-lint", "-Wno-style", "-Wwarn-UNOPTFLAT"]
    found = _LOOP.findall(find_verilator().run([*arguments, "--top-module", TOP, file]))
    lines = file.read_text(encoding="utf-8").split("\n")
    for number in found:
        lines[int(number) - 1] = lines[int(number) - 1].replace(";", " /*verilator split_var*/;", 1)
    file.write_text("\n".join(lines), encoding="utf-8")
