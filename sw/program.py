# SPDX-License-Identifier: Apache-2.0
"""Programs and the program file `.hfp` (docs/spec.md section 10).

A program is a model compiled for one target: a memory image and a header that says what the host
needs to know to run it. This module needs numpy and the standard library only.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiddenfold.sw.files import write_atomically
from hiddenfold.sw.header import parse_header
from hiddenfold.sw.instructions import disassemble
from hiddenfold.sw.operations import check_printable, keys_text, shorten

__all__ = ["FORMAT", "MAGIC", "Output", "Program"]

MAGIC = b"HFP1"
FORMAT = 2
ALIGNMENT = 64
MAX_FILE_BYTES = 1 << 30
MAX_HEADER_BYTES = 1 << 26
MAX_NUMBER = 1 << 63
#: What the instructions can count.
MAX_BATCH = 255
_CRC_BYTES = 4


@dataclass(frozen=True, eq=False)
class Output:
    """What one image makes the accelerator write: its traced tensors in order, and the logits.

    `trace` holds uint8[height, width, channels], `logits` is int32[classes].
    """

    trace: list[NDArray[np.uint8]]
    logits: NDArray[np.int32]


@dataclass(frozen=True, eq=False, kw_only=True)
class Program:
    """The fields of the header (docs/spec.md section 10) and the memory image `memory`."""

    model: str
    target: str
    target_id: int
    target_parameters: dict[str, int]
    classes: list[str]
    image: tuple[int, int]
    batch: int
    logits: int
    output_bytes: int
    macs: int
    ideal_cycles: float
    predicted_cycles: int
    predicted_bytes_read: int
    predicted_bytes_written: int
    predicted_bytes_spilled: int
    instructions: int
    mask_bytes: int
    affine_bytes: int
    layers: list[dict[str, Any]]
    trace: list[dict[str, Any]] | None
    trace_order: list[list[int]] | None
    scratch_bytes: int
    memory: bytes

    @classmethod
    def load(cls, path: str | Path) -> Program:
        """Read a file. Raises `ValueError` when it is not a program."""
        try:
            with Path(path).open("rb") as file:
                # One byte more than allowed, so that what is too long is seen and refused.
                return cls.from_bytes(file.read(MAX_FILE_BYTES + 1))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write the file; it appears complete or not at all."""
        write_atomically(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """The bytes of the program file."""
        if not self.memory or len(self.memory) % ALIGNMENT:
            raise ValueError(
                f"Program: memory image must be a positive multiple of {ALIGNMENT} bytes, "
                f"not {len(self.memory)}"
            )
        header = {"format": FORMAT} | {key: getattr(self, key) for key in _HEADER_KEYS}
        header["image"] = list(self.image)
        header["image_bytes"] = len(self.memory)
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-(8 + len(text)) % ALIGNMENT)
        body = b"".join((MAGIC, struct.pack("<I", len(text)), text, self.memory))
        return body + struct.pack("<I", zlib.crc32(body))

    @classmethod
    def from_bytes(cls, data: bytes) -> Program:
        """The program in the bytes of a program file. Raises `ValueError` when there is none."""
        if data[:4] != MAGIC:
            raise ValueError(f"Program file must start with {MAGIC!r}, not {data[:4]!r}")
        if len(data) > MAX_FILE_BYTES:
            raise ValueError(f"Program file must be at most {MAX_FILE_BYTES} bytes, not more")
        if len(data) < 8 + _CRC_BYTES:
            raise ValueError(f"Program file is truncated: found only {len(data)} bytes")
        (length,) = struct.unpack_from("<I", data, 4)
        if length > MAX_HEADER_BYTES or (8 + length) % ALIGNMENT:
            raise ValueError(
                f"Program file: header length must be 8 below a multiple of {ALIGNMENT} and at "
                f"most {MAX_HEADER_BYTES}, not {length}"
            )
        if len(data) < 8 + length + _CRC_BYTES:
            raise ValueError(
                f"Program file is truncated: its header needs {8 + length + _CRC_BYTES} bytes, "
                f"found {len(data)}"
            )
        stored, found = struct.unpack("<I", data[-_CRC_BYTES:])[0], zlib.crc32(data[:-_CRC_BYTES])
        if stored != found:
            raise ValueError(
                f"Program file is damaged or truncated: its CRC-32 must be {stored:08x}, "
                f"not {found:08x}"
            )
        header = _parse_header(data[8 : 8 + length])
        memory = data[8 + length : -_CRC_BYTES]
        if header.pop("image_bytes") != len(memory) or not memory or len(memory) % ALIGNMENT:
            raise ValueError(
                f"Program file: memory image must be the header's image_bytes, a positive "
                f"multiple of {ALIGNMENT}, not {len(memory)} bytes"
            )
        return cls(**header, memory=memory)

    @property
    def total_bytes(self) -> int:
        """Size of the program file."""
        return len(self.to_bytes())

    @property
    def image_trace(self) -> list[dict[str, Any]]:
        """The entries of `trace` with the first image of the batch; each image has the same."""
        return [entry for entry in self.trace or [] if entry["image"] == 0]

    @property
    def pitch(self) -> int:
        """Bytes from one row of an image to the next in external memory."""
        return -(-4 * self.image[1] // 16) * 16

    def pack_images(self, images: NDArray[np.uint8]) -> bytes:
        """Images uint8[n, height, width, 3] as the accelerator reads them (spec section 6)."""
        expected = (*self.image, 3)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
            shape = ", ".join(map(str, expected))
            raise ValueError(
                f"Images must be uint8[n, {shape}], not {images.dtype}{list(images.shape)}"
            )
        rows = np.zeros((len(images), self.image[0], self.pitch // 4, 4), dtype=np.uint8)
        rows[:, :, : self.image[1], :3] = images
        return rows.tobytes()

    def unpack_output(self, data: bytes, images: int = 1) -> list[Output]:
        """What `images` images wrote, whole batches, from the bytes at the register OUTPUT."""
        if images % self.batch:
            raise ValueError(
                f"Images must be a multiple of the program's batch of {self.batch}, not {images}"
            )
        if len(data) < images * self.output_bytes:
            raise ValueError(
                f"Output of {images} images must be {images * self.output_bytes} bytes, "
                f"not {len(data)}"
            )
        size = self.batch * self.output_bytes
        return [
            output
            for first in range(0, images // self.batch * size, size)
            for output in self._unpack_batch(data[first : first + size])
        ]

    def _unpack_batch(self, data: bytes) -> list[Output]:
        """What the images of a batch wrote."""
        lanes = self.target_parameters["lanes"]
        traces: list[list[NDArray[np.uint8]]] = [[] for _ in range(self.batch)]
        position = 0
        entries = self.trace or []
        whole = [[number, entry["height"]] for number, entry in enumerate(entries)]
        stripes: list[list[NDArray[np.uint8]]] = [[] for _ in entries]
        for number, rows in self.trace_order or whole:
            entry = entries[number]
            shape = (entry["images"], rows, entry["width"], entry["lane_words"] * lanes)
            size = math.prod(shape)
            stripes[number].append(np.frombuffer(data, np.uint8, size, position).reshape(shape))
            position += size
        for entry, parts in zip(entries, stripes, strict=True):
            tensors = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
            first = entry["image"]
            for trace, tensor in zip(traces[first : first + len(tensors)], tensors, strict=True):
                trace.append(tensor[:, :, : entry["channels"]])
        # Block by block those of all images.
        rows = self.target_parameters["rows"]
        logits = np.frombuffer(data, "<i4", self.batch * self.logits, position)
        logits = logits.reshape(-1, self.batch, rows).swapaxes(0, 1).reshape(self.batch, -1)
        return [
            Output(trace, row[: len(self.classes)].astype(np.int32))
            for trace, row in zip(traces, logits, strict=True)
        ]

    def disassemble(self) -> str:
        """The instructions as text."""
        return disassemble(self.memory)


_HEADER_KEYS = tuple(field.name for field in fields(Program) if field.name != "memory")
_KINDS: dict[str, type] = {
    "model": str,
    "target": str,
    "target_parameters": dict,
    "classes": list,
    "image": list,
    "ideal_cycles": float,
    "layers": list,
}


def _parse_header(text: bytes) -> dict[str, Any]:
    """The header's fields, each of the right kind."""
    header = parse_header("Program file", text)
    version = header.pop("format", None)
    if type(version) is not int or version != FORMAT:
        raise ValueError(f"Program file: format must be {FORMAT}, not {shorten(version)}")
    expected = {*_HEADER_KEYS, "image_bytes"}
    if set(header) != expected:
        wrong = keys_text(set(header) ^ expected)
        raise ValueError(f"Program file: header keys missing or unknown: {wrong}")
    optional = ("trace", "trace_order")
    for key in optional:
        if header[key] is not None:
            _check_kind(key, header[key], list)
    for key, value in header.items():
        if key not in optional:
            _check_kind(key, value, _KINDS.get(key, int))
    if len(header["image"]) != 2 or not all(_is_count(size) for size in header["image"]):
        raise ValueError(
            f"Program file: image must be [height, width], not {shorten(header['image'])}"
        )
    header["image"] = tuple(header["image"])
    header["ideal_cycles"] = float(header["ideal_cycles"])
    if not all(_is_count(header["target_parameters"].get(key)) for key in ("rows", "lanes")):
        raise ValueError("Program file: target_parameters must have the numbers of rows and lanes")
    if not 1 <= header["batch"] <= MAX_BATCH:
        raise ValueError(f"Program file: batch must be in 1..{MAX_BATCH}, not {header['batch']}")
    if not header["classes"] or not all(isinstance(label, str) for label in header["classes"]):
        raise ValueError("Program file: classes must be strings, at least one")
    check_printable("Program file: classes", *header["classes"])
    check_printable("Program file: names", header["model"], header["target"])
    _check_lists(header["layers"], header["trace"] or [])
    _check_order(header["trace"] or [], header["trace_order"])
    _check_output(header)
    return header


def _check_output(header: dict[str, Any]) -> None:
    """Raise `ValueError` unless the output holds just what it is said to hold."""
    rows, lanes = (header["target_parameters"][key] for key in ("rows", "lanes"))
    batch = header["batch"]
    stored = [0] * batch  # bytes of each image
    for entry in header["trace"] or []:
        images = range(entry["image"], entry["image"] + entry["images"])
        if images.stop > batch:
            raise ValueError(
                f"Program file: images of a trace must be below the batch of {batch}, "
                f"not {images.stop - 1}"
            )
        for image in images:
            stored[image] += entry["height"] * entry["width"] * entry["lane_words"] * lanes
    if len(set(stored)) > 1:
        raise ValueError("Program file: trace must have as many bytes of each image")
    if header["logits"] % rows:
        raise ValueError(
            f"Program file: logits must be a multiple of {rows} rows, not {header['logits']}"
        )
    expected = 4 * header["logits"] + stored[0]
    if header["output_bytes"] != expected:
        raise ValueError(
            f"Program file: output_bytes must be {expected} as logits and trace say, "
            f"not {header['output_bytes']}"
        )
    if header["logits"] < len(header["classes"]):
        raise ValueError(
            f"Program file: logits must be at least the {len(header['classes'])} classes, "
            f"not {header['logits']}"
        )
    for entry in header["trace"] or []:
        if entry["channels"] > entry["lane_words"] * lanes:
            raise ValueError(
                f"Program file: channels of a trace must be at most {entry['lane_words'] * lanes}, "
                f"not {entry['channels']}"
            )


def _check_lists(layers: list[Any], trace: list[Any]) -> None:
    """Raise `ValueError` unless the entries have what the driver reads."""
    for layer in layers:
        places = layer.get("pcs") if isinstance(layer, dict) else None
        good = isinstance(places, list) and places and all(map(_is_count, places))
        if not good or not isinstance(layer.get("name"), str):
            raise ValueError(f"Program file: layers must have name and pcs, not {shorten(layer)}")
        check_printable("Program file: names", layer["name"])
    sizes = ("images", "height", "width", "channels", "lane_words")
    for entry in trace:
        good = isinstance(entry, dict) and all(_is_count(entry.get(key)) for key in sizes)
        if not (
            good
            and isinstance(entry.get("name"), str)
            and all(_is_natural(entry.get(key)) for key in ("image", "iteration"))
        ):
            raise ValueError(
                f"Program file: trace must have name, iteration, image, {', '.join(sizes)}, "
                f"not {shorten(entry)}"
            )
        check_printable("Program file: names", entry["name"])


def _check_order(trace: list[Any], order: list[Any] | None) -> None:
    """Raise `ValueError` unless the stripes of each traced tensor make the whole of it."""
    if order is None:
        return
    heights = [0] * len(trace)
    for item in order:
        pair = isinstance(item, list) and len(item) == 2 and all(map(_is_natural, item))
        if not pair or item[0] >= len(trace) or not item[1]:
            raise ValueError(
                "Program file: trace_order must have pairs of an entry of the trace and a number "
                f"of rows, not {shorten(item)}"
            )
        heights[item[0]] += item[1]
    if heights != [entry["height"] for entry in trace]:
        raise ValueError("Program file: trace_order must have all rows of the trace")


def _check_kind(key: str, value: Any, kind: type) -> None:
    """Raise `ValueError` unless `value` is what the header has under `key`."""
    accepted = isinstance(value, int | float if kind is float else kind)
    if accepted and kind in (int, float):
        accepted = not isinstance(value, bool) and 0 <= value < MAX_NUMBER
    if not accepted:
        raise ValueError(f"Program file: {key} must be {_NAMES[kind]}, not {shorten(value)}")


def _is_count(value: Any) -> bool:
    return _is_natural(value) and value > 0


def _is_natural(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


_NAMES = {
    int: "an integer in 0..2^63-1",
    float: "a number in 0..2^63-1",
    str: "a string",
    list: "a list",
    dict: "an object",
}
