# SPDX-License-Identifier: Apache-2.0
"""Reader of `.hfn` files (spec 5)."""

import json
import zlib

import numpy as np

from . import masks


class Model:
    """A model file.

    `header` is its JSON object, `streams` a list of `masks.Stream`, `executions` the constants
    (S, R, M [Cout], B [Cout]) of each execution of each convolution, `sizes` what section 5
    defines. Raises ValueError where the file breaks a rule of section 5.
    """

    def __init__(self, data):
        header, body = container(data, b"HFN1", 8)
        self.header, self.ops = header, header["ops"]
        self.seed = int(header["seed"], 16)
        self.height, self.width = header["image"]
        self.shapes = list(walk_shapes(header))  # an entry for each execution of an operation
        self.streams = self.read_streams(body)
        self.mask_bytes = body.at
        self.executions = self.read_constants(body)
        self.affine_bytes = body.at - self.mask_bytes
        self.total_bytes = len(data)
        if body.at != len(body.data):
            raise ValueError(f"{len(body.data) - body.at} bytes too many")

    def read_streams(self, body):
        """The masks, in the order of their streams."""
        free = self.header.get("free")
        streams: list = []
        for op, _, (_, _, cin), (_, _, cout) in self.shapes:
            if op.get("stream") != len(streams):
                continue  # no weights, or those of a stream already read
            number, kernel = op["stream"], op.get("kernel", 1)
            m = free[number] if free else 8
            words = -(-cout * masks.positions(cin, kernel) * m // 8)
            stored = np.frombuffer(body.take(8 * words), "<u8")
            streams.append(masks.Stream(self.seed, number, m, cout, cin, kernel, stored))
        return streams

    def read_constants(self, body):
        """The constants, in execution order."""
        short = self.header.get("constants", "full") == "short"
        executions = []
        for op, _, _, (_, _, cout) in self.shapes:
            if op["op"] == "conv":
                shift, residual = body.number(1), body.number(2)
                if shift > 28 or shift % 4:
                    raise ValueError(f"shift {shift}")
                executions.append((shift, residual, *(short_pair if short else full)(body, cout)))
        return executions


class Body:
    """The bytes between header and CRC."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        """The next bytes."""
        part = self.data[self.at : self.at + count]
        if len(part) != count:
            raise ValueError("file too short")
        self.at += count
        return part

    def number(self, count, signed=False):
        """The next integer of so many bytes."""
        return int.from_bytes(self.take(count), "little", signed=signed)


def full(body, cout):
    """M and B of full constants."""
    multipliers = [body.number(2, signed=True) for _ in range(cout)]
    return multipliers, [body.number(3, signed=True) for _ in range(cout)]


def short_pair(body, cout):
    """M and B of short constants."""
    shift = body.number(1)
    if shift > 12:
        raise ValueError(f"F {shift}")
    multipliers, biases = [], []
    for _ in range(cout):
        word = body.number(3)
        biases.append(signed(word & 0xFFF, 12) << shift)
        multipliers.append(signed(word >> 12 & 0x1FF, 9) << (word >> 21))
    return multipliers, biases


def signed(value, bits):
    """A field of so many bits as a signed number."""
    return value - (value >> (bits - 1) << bits)


def container(data, magic, align):
    """(header, Body) of a file: magic, length, JSON, padding, body, CRC."""
    if len(data) < 12 or data[:4] != magic:
        raise ValueError("no such file")
    if zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise ValueError("CRC")
    length = int.from_bytes(data[4:8], "little")
    if 8 + length > len(data) - 4 or (8 + length) % align:
        raise ValueError(f"header of {length} bytes")
    return json.loads(data[8 : 8 + length].decode()), Body(data[8 + length : -4])


def flatten(ops):
    """(operation, iteration) in execution order."""
    for op in ops:
        if op["op"] == "loop":
            for iteration in range(op["count"]):
                yield from ((inner, iteration) for inner in op["body"])
        else:
            yield op, 0


def walk_shapes(header):
    """(operation, iteration, input shape, output shape) in execution order.

    Shapes are (height, width, channels).
    """
    tensors = {"image": (*header["image"], 3)}
    for op, iteration in flatten(header["ops"]):
        height, width, channels = source = tensors[op["in"]]
        if op["op"] == "classifier":
            result = (1, 1, len(header["classes"]))
        else:
            stride = op["stride"]
            out = {"unfold": 3 * op["kernel"] ** 2, "maxpool": channels}
            result = (
                (height - 1) // stride + 1,
                (width - 1) // stride + 1,
                op["out_channels"] if op["op"] == "conv" else out[op["op"]],
            )
            tensors[op["out"]] = result
        yield op, iteration, source, result
