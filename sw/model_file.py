# SPDX-License-Identifier: Apache-2.0
"""Reading and writing the bytes of a model file `.hfn` (docs/spec.md section 5).

Use `Model.load` and `Model.save`. Files come from anywhere, so sizes that the header announces are
compared with the file's size before anything is built from them.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hiddenfold.sw import frozen
from hiddenfold.sw.affine import FULL, Affine, check_form
from hiddenfold.sw.header import parse_header
from hiddenfold.sw.operations import Conv, check_integer, from_json, shorten, to_json
from hiddenfold.sw.shapes import Execution, WeightShape, infer, unroll

if TYPE_CHECKING:
    from hiddenfold.sw.model import Model

__all__ = [
    "FORMAT",
    "MAGIC",
    "MAX_FILE_BYTES",
    "MAX_HEADER_BYTES",
    "DenseReference",
    "decode",
    "encode",
    "encode_header",
    "mask_sizes",
]

MAGIC = b"HFN1"
FORMAT = 1
MAX_FILE_BYTES = 1 << 30
MAX_HEADER_BYTES = 1 << 20

_REQUIRED = frozenset(
    "format name dataset classes image seed top_k act_bits folded_stages ops".split()
)
_OPTIONAL = frozenset({"accuracy", "constants", "dense_reference", "free", "provenance"})


class DenseReference(NamedTuple):
    """The network whose float32 size a model is compared with, and its number of parameters."""

    name: str
    parameters: int


def encode(model: Model) -> bytes:
    """The bytes of the file of a legal model. Raises `ValueError` when they are too many."""
    parts = [encode_header(model)]
    parts += [frozen.compress(mask, model.pattern(s)) for s, mask in model.masks.items()]
    parts += [affine.to_bytes(model.constants) for affine in model.affine]
    body = b"".join(parts)
    if len(body) + 4 > MAX_FILE_BYTES:
        raise ValueError(f"Model file must be at most {MAX_FILE_BYTES} bytes, not {len(body) + 4}")
    return body + struct.pack("<I", zlib.crc32(body))


def encode_header(model: Model) -> bytes:
    """The bytes before the payload; they depend on neither masks nor constants."""
    header: dict[str, Any] = {
        "format": FORMAT,
        "name": model.name,
        "dataset": model.dataset,
        "classes": list(model.classes),
        "image": list(model.image),
        "seed": f"{model.seed:016x}",
        "top_k": model.top_k,
        "act_bits": model.act_bits,
        "folded_stages": list(model.folded_stages),
        "ops": [to_json(op) for op in model.ops],
    }
    if any(m != 8 for m in model.free):
        header["free"] = list(model.free)
    if model.constants != FULL:
        header["constants"] = model.constants
    if model.accuracy:
        header["accuracy"] = model.accuracy
    if model.provenance:
        header["provenance"] = model.provenance
    if model.dense_reference is not None:
        header["dense_reference"] = model.dense_reference._asdict()
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"Model file: header must be at most {MAX_HEADER_BYTES}, not {len(text)}")
    return MAGIC + struct.pack("<I", len(text)) + text


def decode(data: bytes) -> dict[str, Any]:
    """What the bytes of a model file hold, as the arguments of `Model`.

    Raises `ValueError` when the bytes are not a model file; the rules for its values that reading
    them does not need are left to `Model.validate`.
    """
    if data[:4] != MAGIC:
        raise ValueError(f"Model file must start with {MAGIC!r}, not {data[:4]!r}")
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"Model file must be at most {MAX_FILE_BYTES} bytes, not more")
    if len(data) < 12:
        raise ValueError(f"Model file must be at least 12 bytes, not {len(data)}")
    (length,) = struct.unpack_from("<I", data, 4)
    if length > MAX_HEADER_BYTES or length % 8:
        raise ValueError(
            f"Model file: header length must be a multiple of 8 up to {MAX_HEADER_BYTES}, "
            f"not {length}"
        )
    if 8 + length + 4 > len(data):
        raise ValueError(
            f"Model file is truncated: its header of {length} bytes needs at least "
            f"{12 + length} bytes, found {len(data)}"
        )
    stored, found = struct.unpack("<I", data[-4:])[0], zlib.crc32(memoryview(data)[:-4])
    corrupted = f"Model file is corrupted: its CRC-32 must be {stored:08x}, not {found:08x}"
    try:
        fields = _parse_header(data[8 : 8 + length])
        groups, streams = infer(fields["ops"], fields["image"], len(fields["classes"]))
        frozen.check_free(fields["free"], len(streams))
    except ValueError:
        # Of two explanations, damage is the better one.
        if stored != found:
            raise ValueError(corrupted) from None
        raise
    form = fields["constants"]
    sizes = mask_sizes(streams, fields["free"])
    size = 12 + length + sum(sizes.values()) + _affine_bytes(groups, form)
    if size != len(data):
        fault = "truncated" if len(data) < size else "too long"
        raise ValueError(
            f"Model file is {fault}: by its header it must be {size} bytes, not {len(data)}"
        )
    if stored != found:
        raise ValueError(corrupted)
    position = 8 + length
    masks = {}
    for stream, stored_size in sizes.items():
        m = fields["free"][stream] if fields["free"] else 8
        made = frozen.pattern(fields["seed"], stream, streams[stream], m)
        masks[stream] = _mask(stream, data[position : position + stored_size], made)
        position += stored_size
    affine = []
    for execution in unroll(groups):
        if execution.affine is not None:
            end = position + Affine.size(execution.out_shape.channels, form)
            affine.append(Affine.from_bytes(data[position:end], form))
            position = end
    assert position == len(data) - 4
    return fields | {"masks": masks, "affine": affine}


def mask_sizes(streams: dict[int, WeightShape], free: tuple[int, ...]) -> dict[int, int]:
    """Bytes of each stream's mask in a file; `free` as in `Model`."""
    return {
        stream: frozen.stored_bytes(shape, free[stream] if free else 8)
        for stream, shape in sorted(streams.items())
    }


def _mask(stream: int, data: bytes, made: frozen.Pattern) -> NDArray[np.uint64]:
    try:
        return frozen.expand(data, made)
    except ValueError as error:
        raise ValueError(f"Mask of stream {stream}: {error}") from error


def _affine_bytes(groups: list[tuple[int, list[Execution]]], form: str) -> int:
    return sum(
        count * Affine.size(execution.out_shape.channels, form)
        for count, body in groups
        for execution in body
        if isinstance(execution.op, Conv)
    )


def _parse_header(text: bytes) -> dict[str, Any]:
    """The fields of a `Model` that are in the header; what they hold is checked later."""
    header = parse_header("Model file", text)
    if missing := _REQUIRED - set(header):
        raise ValueError(f"Model file: header must have the keys {_join(missing)}")
    if unknown := set(header) - _REQUIRED - _OPTIONAL:
        raise ValueError(
            f"Model file: header keys must be {_join(_REQUIRED | _OPTIONAL)}, not {_join(unknown)}"
        )
    version = header.pop("format")
    if version != FORMAT or not isinstance(version, int) or isinstance(version, bool):
        raise ValueError(f"Model file: format must be {FORMAT}, not {shorten(version)}")
    header.setdefault("free", [])
    check_form(header.setdefault("constants", FULL))
    for key in ("classes", "image", "folded_stages", "ops", "free"):
        if not isinstance(header[key], list):
            raise ValueError(f"Model file: {key} must be a list, not {shorten(header[key])}")
        header[key] = tuple(header[key])
    seed = header["seed"]
    if not isinstance(seed, str) or not re.fullmatch(r"[0-9a-fA-F]{16}", seed):
        raise ValueError(f"Model file: seed must be 16 hexadecimal digits, not {shorten(seed)}")
    header["seed"] = int(seed, 16)
    check_integer("Model: seed", header["seed"], 1, (1 << 64) - 1)
    if len(header["image"]) != 2:
        raise ValueError(
            f"Model file: image must be [height, width], not {shorten(list(header['image']))}"
        )
    for value in header["image"]:
        check_integer("Model file: image height and width", value, 1, 1024)
    check_integer("Model file: number of classes", len(header["classes"]), 1, 4096)
    header["ops"] = tuple(from_json(op) for op in header["ops"])
    if "dense_reference" in header:
        header["dense_reference"] = _parse_reference(header["dense_reference"])
    return header


def _parse_reference(reference: Any) -> DenseReference:
    keys = DenseReference._fields
    if not isinstance(reference, dict) or set(reference) != set(keys):
        raise ValueError(
            f"Model file: dense_reference must have the keys {_join(keys)}, "
            f"not {shorten(reference)}"
        )
    return DenseReference(**reference)


def _join(keys: Any) -> str:
    return ", ".join(shorten(key) for key in sorted(keys)[:20])
