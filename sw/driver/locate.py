# SPDX-License-Identifier: Apache-2.0
"""Finds the instruction and the layer that belong to a program offset, for error messages."""

from collections.abc import Iterator

from hiddenfold.hw.isa import BYTES, Opcode
from hiddenfold.sw.instructions import decode, disassemble
from hiddenfold.sw.program import Program

_LAYERS = (Opcode.CONV, Opcode.IMAGE, Opcode.POOL)


def instruction_at(program: Program, pc: int) -> str | None:
    """Return the instruction at offset ``pc`` as text, or None if there can be none."""
    if pc % BYTES or not 0 <= pc <= len(program.memory) - BYTES:
        return None
    line = disassemble(program.memory[pc : pc + BYTES])
    # The listing begins with the offset within what it was given, and shows fields in columns.
    return " ".join(line.split()[1:])


def execution_order(memory: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (offset, opcode, iteration) of every executed instruction of one image.

    Loops are unrolled. Stops after END, at the end of the memory image or at the first thing that
    is no instruction.
    """
    pc, start, iteration, count = 0, None, 0, 0
    while pc + BYTES <= len(memory):
        fields = decode(memory[pc : pc + BYTES])
        opcode = fields["opcode"]
        if opcode not in list(Opcode):
            return
        yield pc, opcode, iteration
        pc += BYTES
        if opcode == Opcode.END:
            return
        if opcode == Opcode.LOOP:
            start, iteration, count = pc, 0, fields["count"]
        elif opcode == Opcode.ENDLOOP and start is not None:
            if iteration + 1 < count:
                pc, iteration = start, iteration + 1
            else:
                start, iteration = None, 0


def layer_at(program: Program, pc: int) -> str | None:
    """Return the name of the layer whose instruction is at offset ``pc``, or None.

    A STORE belongs to the layer before it.
    """
    index = -1
    for offset, opcode, _ in execution_order(program.memory):
        index += opcode in _LAYERS
        if offset == pc:
            named = opcode in (*_LAYERS, Opcode.STORE) and 0 <= index < len(program.layers)
            return program.layers[index]["name"] if named else None
    return None
