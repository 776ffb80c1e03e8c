# SPDX-License-Identifier: Apache-2.0
"""Reader of `.hfp` files and of instructions (spec 7 and 10)."""

import zlib
from typing import TYPE_CHECKING

from . import lfsr
from .model_file import container

OPCODES = {
    0x01: "BEGIN",
    0x02: "END",
    0x10: "CONV",
    0x11: "IMAGE",
    0x12: "POOL",
    0x13: "STORE",
    0x14: "LOAD",
    0x15: "SAVE",
    0x20: "LOOP",
    0x21: "ENDLOOP",
}
# name: (word, high bit, low bit), as the table of section 7 names them
FIELDS = {
    "opcode": (0, 7, 0),
    "kernel": (0, 11, 8),
    "stride": (0, 15, 12),
    "passes": (0, 19, 16),
    "out_bits": (0, 23, 20),
    "residual": (0, 24, 24),
    "logits": (0, 25, 25),
    "gap": (0, 26, 26),
    "cached": (0, 27, 27),
    "free": (0, 29, 28),
    "advance": (0, 30, 30),
    "frozen": (0, 31, 31),
    "blocks": (0, 43, 32),
    "in_words": (0, 53, 44),
    "fence_loads": (0, 55, 54),
    "fence_saves": (0, 57, 56),
    "top": (0, 61, 58),
    "in_h": (1, 11, 0),
    "in_w": (1, 23, 12),
    "out_h": (1, 35, 24),
    "out_w": (1, 47, 36),
    "images": (1, 55, 48),
    "tile_images": (1, 63, 56),
    "src": (2, 23, 0),
    "dst": (2, 47, 24),
    "cache": (2, 63, 48),
    "res": (3, 23, 0),
    "tile_rows": (3, 35, 24),
    "out_words": (3, 45, 36),
    "seed": (4, 63, 0),
    "offset": (5, 31, 0),
    "count": (5, 63, 32),
    "mask_signature": (6, 63, 0),
    "signature": (7, 63, 0),
}


class Instruction:
    """The fields of an instruction of 64 bytes, `name` its opcode's (None when unknown)."""

    if TYPE_CHECKING:

        def __getattr__(self, field: str) -> int: ...

    def __init__(self, data):
        words = [int.from_bytes(data[8 * i : 8 * i + 8], "little") for i in range(8)]
        for field, (word, high, low) in FIELDS.items():
            setattr(self, field, words[word] >> low & (2 << high - low) - 1)
        self.name = OPCODES.get(self.opcode)
        self.intact = self.signature == lfsr.signature(words[:7])


class Program:
    """`header`, `image` (bytes: the memory image) and `target` (the numbers of section 6)."""

    def __init__(self, data):
        self.header, body = container(data, b"HFP1", 64)
        self.image = body.take(self.header["image_bytes"])
        if body.at != len(body.data) or body.at % 64:
            raise ValueError("the memory image has another size than the header says")
        self.target = self.header["target_parameters"]
        if target_id(self.target) != self.header["target_id"]:
            raise ValueError("target_id is not that of target_parameters")


def target_id(target):
    """The target identifier of spec 7."""
    names = "rows lanes planes act_banks act_bank_words psum_depth acc_bits bus_bits image_width"
    names += " stem_kernel load_rows mask_cache"
    text = " ".join(f"{name}={target[name]}" for name in names.split())
    return zlib.crc32(f"hiddenfold 2 {text}".encode())
