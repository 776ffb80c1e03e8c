# SPDX-License-Identifier: Apache-2.0
"""What each word of a program's memory image is, and which instruction reads it first."""

from collections.abc import Iterator
from typing import NamedTuple

from hiddenfold.hw.isa import BYTES, FIELDS, Opcode
from hiddenfold.hw.lfsr import signature
from hiddenfold.sw.instructions import decode, instructions
from hiddenfold.sw.program import Program


class Step(NamedTuple):
    """An executed instruction: its offset, its fields, and the iteration if it is in a loop."""

    pc: int
    fields: dict[str, int]
    iteration: int | None


def executed(program: Program) -> Iterator[Step]:
    """The instructions in the order of execution, loops unrolled."""
    listing = list(instructions(program.memory))
    at, body, turns = 0, 0, 0
    iteration = None
    while at < len(listing):
        pc, fields = listing[at]
        at += 1
        yield Step(pc, fields, iteration)
        if fields["opcode"] == Opcode.END:
            return
        if fields["opcode"] == Opcode.LOOP:
            body, turns, iteration = at, fields["count"], 0
        elif fields["opcode"] == Opcode.ENDLOOP:
            turns -= 1
            at, iteration = (body, (iteration or 0) + 1) if turns else (at, None)


class Layout:
    """Offsets of 64-bit words in the memory image, by what they are."""

    def __init__(self, program: Program):
        """Walk through ``program`` once.

        ``code`` are words of instructions; ``masks`` and ``constants`` map a word to the offset of
        the instruction that is the first to read it.
        """
        self.code: list[int] = []
        self.masks: dict[int, int] = {}
        self.constants: dict[int, int] = {}
        rows = program.target_parameters["rows"]
        affine = 0
        for pc, fields, _ in executed(program):
            self.code += range(pc, pc + BYTES, 8)
            if fields["opcode"] == Opcode.BEGIN:
                affine = fields["offset"]
            elif fields["opcode"] == Opcode.CONV:
                for word in range(fields["count"] * fields["blocks"]):
                    self.masks.setdefault(fields["offset"] + 8 * word, pc)
                if not fields["logits"]:
                    words = 2 + fields["blocks"] * rows
                    for word in range(words):
                        self.constants.setdefault(affine + 8 * word, pc)
                    affine += 8 * words
        self.code = sorted(set(self.code))


def signed(memory: bytes, at: int, **fields: int) -> bytes:
    """Return the instruction at offset ``at`` with changed fields and the signature that fits."""
    changed = decode(memory[at : at + BYTES]) | fields
    words = [0] * (BYTES // 8)
    for name, value in changed.items():
        field = FIELDS[name]
        if name != "signature":
            words[field.word] |= value << field.lsb
    words[-1] = signature(words[:-1])
    return b"".join(word.to_bytes(8, "little") for word in words)
