# SPDX-License-Identifier: Apache-2.0
"""Containers taken apart and sealed again, so that damage gets past lengths and checksums."""

from __future__ import annotations

import json
import struct
import zlib
from random import Random
from typing import Any

from hiddenfold.verif.fuzz.mutate import change_bytes, change_tree, dump_json

__all__ = ["change_container", "change_png"]


def change_container(rng: Random, data: bytes, align: int) -> bytes:
    """A `.hfn` or `.hfp` file damaged in its bytes, its header's text or fields, or its payload."""
    (length,) = struct.unpack_from("<I", data, 4)
    text, payload = data[8 : 8 + length], data[8 + length : -4]
    kind = rng.random()
    if kind < 0.1:
        return change_bytes(rng, data)
    if kind < 0.3:
        return _sealed(change_bytes(rng, data[:-4]))
    if kind < 0.4:
        text = change_bytes(rng, text)
    elif kind < 0.55:
        payload = change_bytes(rng, payload)
    else:
        header: Any = change_tree(rng, json.loads(text))
        text = dump_json(header)
    text += b" " * (-(8 + len(text)) % align)
    return _sealed(data[:4] + struct.pack("<I", len(text)) + text + payload)


def _sealed(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


def change_png(rng: Random, data: bytes) -> bytes:
    """A PNG file with a damaged chunk whose CRC is right again."""
    chunks, at = [], 8
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    number = rng.randrange(len(chunks))
    kind, body = chunks[number]
    choice = rng.randrange(5)
    if choice == 0:
        kind = rng.choice((b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"tRNS", b"PLTE", b"gAMA", b"acTL"))
        chunks.insert(number, (kind, change_bytes(rng, body)))
    elif choice == 1:
        chunks[number:number] = [chunks[rng.randrange(len(chunks))]]
    elif choice == 2:
        del chunks[number]
    else:
        chunks[number] = kind, change_bytes(rng, body)
    result = data[:8]
    for kind, body in chunks:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        result += struct.pack(">I", len(body)) + kind + body + crc
    return result
