# SPDX-License-Identifier: Apache-2.0
"""Finds the instruction and the layer that belong to a program offset, for error messages."""

from hiddenfold.hw.isa import BYTES, Opcode
from hiddenfold.sw.instructions import decode, disassemble
from hiddenfold.sw.program import Program

_PARTS = (Opcode.CONV, Opcode.IMAGE, Opcode.POOL, Opcode.STORE)


def instruction_at(program: Program, pc: int) -> str | None:
    """Return the instruction at offset ``pc`` as text, or None if there can be none."""
    if pc % BYTES or not 0 <= pc <= len(program.memory) - BYTES:
        return None
    line = disassemble(program.memory[pc : pc + BYTES])
    # The listing begins with the offset within what it was given, and shows fields in columns.
    return " ".join(line.split()[1:])


def layer_at(program: Program, pc: int) -> str | None:
    """Return the name of the layer whose instruction is at offset ``pc``, or None.

    A STORE, and a POOL that copies the state of a loop, belong to the layer before them.
    """
    if pc % BYTES or not 0 <= pc <= len(program.memory) - BYTES:
        return None
    if decode(program.memory[pc : pc + BYTES])["opcode"] not in _PARTS:
        return None
    before = [
        (place, layer["name"]) for layer in program.layers for place in layer["pcs"] if place <= pc
    ]
    return max(before)[1] if before else None
