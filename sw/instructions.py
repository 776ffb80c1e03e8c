# SPDX-License-Identifier: Apache-2.0
"""Instructions as bytes, as dictionaries of fields and as text (docs/spec.md section 7)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from hiddenfold.hw import isa, lfsr

__all__ = ["decode", "disassemble", "encode", "instructions"]

_FORMAT = struct.Struct(f"<{isa.WORDS}Q")

#: What the text of each instruction shows, in this order; flags are shown when they are set.
_SHOWN = {
    isa.Opcode.BEGIN: ("seed", "offset"),
    isa.Opcode.IMAGE: (
        "dst",
        "in",
        "out",
        "out_words",
        "kernel",
        "stride",
        "top",
        "offset",
        "advance",
    ),
    isa.Opcode.CONV: (
        "dst",
        "src",
        "res",
        "in",
        "out",
        "in_words",
        "out_words",
        "kernel",
        "stride",
        "top",
        "passes",
        "out_bits",
        "blocks",
        "images",
        "tile_images",
        "tile_rows",
        "gap",
        "logits",
        "offset",
        "count",
        "seed",
    ),
    isa.Opcode.POOL: ("dst", "src", "in", "out", "in_words", "kernel", "stride", "top"),
    isa.Opcode.STORE: ("src", "count"),
    isa.Opcode.LOAD: ("dst", "count", "offset"),
    isa.Opcode.SAVE: ("src", "count", "offset"),
    isa.Opcode.LOOP: ("count",),
    isa.Opcode.END: ("images",),
}
_HEXADECIMAL = frozenset({"seed", "offset"})
_FLAGS = frozenset({"gap", "logits", "advance"})
#: Any instruction may have them.
_FENCES = ("fence_loads", "fence_saves")
#: Shown unless they are 0.
_RARE = frozenset({*_FENCES, "top"})


def encode(opcode: isa.Opcode, **fields: int) -> bytes:
    """Return the 64 bytes of an instruction; its signature is computed, other fields default to 0.

    Raises `ValueError` when a field is unknown or its value does not fit.
    """
    words = [0] * isa.WORDS
    for name, value in {"opcode": int(opcode), **fields}.items():
        if name not in isa.FIELDS or name == "signature":
            allowed = ", ".join(key for key in isa.FIELDS if key not in ("opcode", "signature"))
            raise ValueError(f"{opcode.name}: field must be one of {allowed}, not {name!r}")
        word, lsb, width = isa.FIELDS[name]
        if not 0 <= value < 1 << width:
            raise ValueError(f"{opcode.name}: {name} must be in 0..2^{width}-1, not {value}")
        words[word] |= int(value) << lsb
    words[-1] = lfsr.signature(words[:-1])
    return _FORMAT.pack(*words)


def decode(data: bytes) -> dict[str, int]:
    """Return all fields of the 64 bytes of an instruction, also of a damaged one."""
    if len(data) != isa.BYTES:
        raise ValueError(f"Instruction must be {isa.BYTES} bytes, not {len(data)}")
    words = _FORMAT.unpack(data)
    return {
        name: words[field.word] >> field.lsb & (1 << field.width) - 1
        for name, field in isa.FIELDS.items()
    }


def instructions(memory: bytes) -> Iterator[tuple[int, dict[str, int]]]:
    """Offset and fields of each instruction of a memory image, up to END or an unknown opcode."""
    for offset in range(0, len(memory) - isa.BYTES + 1, isa.BYTES):
        fields = decode(memory[offset : offset + isa.BYTES])
        yield offset, fields
        if fields["opcode"] == isa.Opcode.END or fields["opcode"] not in list(isa.Opcode):
            return


def disassemble(memory: bytes, names: Mapping[int, str] | None = None) -> str:
    """The instructions of a memory image as text, one line each.

    `names` maps offsets of instructions to what is written behind them as a comment. A wrong
    signature is marked.
    """
    lines = []
    indent = ""
    for offset, fields in instructions(memory):
        if fields["opcode"] == isa.Opcode.ENDLOOP:
            indent = ""
        line = f"{offset:06x}  {indent}{_text(fields)}"
        words = _FORMAT.unpack_from(memory, offset)
        if fields["signature"] != lfsr.signature(words[:-1]):
            line += "  ! signature"
        if names and offset in names:
            line += f"  ; {names[offset]}"
        lines.append(line.rstrip())
        if fields["opcode"] == isa.Opcode.LOOP:
            indent = "  "
    return "\n".join(lines) + "\n"


def _text(fields: Mapping[str, int]) -> str:
    """Opcode and fields of one instruction."""
    if fields["opcode"] not in list(isa.Opcode):
        return f"opcode {fields['opcode']:#04x}"
    opcode = isa.Opcode(fields["opcode"])
    parts = []
    for name in (*_SHOWN.get(opcode, ()), *_FENCES):
        if name in ("in", "out"):
            parts.append(f"{name}={fields[name + '_h']}x{fields[name + '_w']}")
        elif name in _FLAGS:
            parts += [name] if fields[name] else []
        elif name in _RARE and not fields[name]:
            continue
        elif name == "res":
            parts += [f"res={fields['res']}"] if fields["residual"] else []
        else:
            value = fields[name]
            parts.append(f"{name}={value:#x}" if name in _HEXADECIMAL else f"{name}={value}")
    return f"{opcode.name:<8}{' '.join(parts)}".rstrip()
