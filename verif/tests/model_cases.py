# SPDX-License-Identifier: Apache-2.0
"""Models and model files for tests."""

import json
import struct
import zlib
from dataclasses import replace

import numpy as np

from hiddenfold.sw import signs
from hiddenfold.sw.model import Affine, Classifier, Conv, Loop, MaxPool, Model, Unfold


def small_ops():
    """One of each operation; the loop carries `x`."""
    return (
        Unfold(name="unfold", output="u", kernel=3),
        Conv(name="stem", input="u", output="x", kernel=1, out_channels=70, bits=4, stream=0),
        Loop(
            count=3,
            body=(
                Conv(name="a", input="x", output="t", kernel=3, out_channels=5, bits=2, stream=1),
                Conv(
                    name="b",
                    input="t",
                    output="x",
                    kernel=1,
                    out_channels=70,
                    bits=4,
                    stream=2,
                    residual="x",
                ),
            ),
        ),
        MaxPool(name="pool", input="x", output="p", kernel=3, stride=2),
        Classifier(name="classifier", input="p", stream=3),
    )


def small_model(**changes):
    """A legal model with `small_ops`, random masks and constants."""
    model = Model(
        name="small",
        dataset="none",
        classes=("cat", "dog"),
        image=(5, 6),
        seed=0x0123456789ABCDEF,
        top_k=0.3,
        act_bits=4,
        folded_stages=(2,),
        ops=small_ops(),
        masks={},
        affine=[],
        accuracy={"float": 71.5, "golden": None},
        provenance={"config": "none", "date": "today"},
    )
    model = replace(model, free=changes.get("free", ()))
    rng = np.random.default_rng(1)
    masks = {}
    for stream, shape in model.weight_shapes().items():
        words = signs.pack(rng.random((*shape, shape.kernel)) < 0.3).reshape(shape.words)
        made = model.pattern(stream)
        masks[stream] = words & made.free | made.kept
    affine = [
        Affine(
            shift=8,
            residual=int(rng.integers(0, 65536)),
            multiplier=rng.integers(-(1 << 15), 1 << 15, e.out_shape.channels).astype(np.int16),
            bias=rng.integers(-(1 << 23), 1 << 23, e.out_shape.channels).astype(np.int32),
        )
        for e in model.executions()
        if e.affine is not None
    ]
    return replace(replace(model, masks=masks, affine=affine), **changes)


def with_op(model, name, **changes):
    """The model with some fields of the operation `name` replaced."""

    def change(op):
        if isinstance(op, Loop):
            return replace(op, body=tuple(change(conv) for conv in op.body))
        return replace(op, **changes) if op.name == name else op

    return replace(model, ops=tuple(change(op) for op in model.ops))


def with_header(data, change):
    """A model file with an edited header: `change` edits the object, or returns another text."""
    (length,) = struct.unpack_from("<I", data, 4)
    header = json.loads(data[8 : 8 + length])
    text = change(header)
    if text is None:
        text = json.dumps(header)
    text = text.encode() if isinstance(text, str) else text
    text += b" " * (-(8 + len(text)) % 8)
    return sealed(data[:4] + struct.pack("<I", len(text)) + text + data[8 + length : -4])


def sealed(body):
    """A file's bytes with the right CRC-32 after them."""
    return body + struct.pack("<I", zlib.crc32(body))
