# SPDX-License-Identifier: Apache-2.0
"""Test vectors of the specification: `python -m hiddenfold.sw.vectors > docs/vectors.json`.

Another implementation of docs/spec.md can be checked against that file without any of this
project's code. Words of 64 bits are 16 hexadecimal digits, most significant first; all other
numbers are decimal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from hiddenfold.hw import lfsr
from hiddenfold.sw import frozen, signs
from hiddenfold.sw.model import Classifier, Conv, Loop, MaxPool, Model, Unfold
from hiddenfold.sw.shapes import WeightShape

__all__ = ["dumps", "make", "requantize"]

_EXPONENTS = (0, 1, 64, 65, 1 << 40, 3 << 40, 65535 << 40, 1 << 56, 255 << 56, (1 << 64) - 1)
_STATES = (1, 1 << 63, 0x123456789ABCDEF0, lfsr.seed_state(0), (1 << 64) - 1)


def requantize(
    *,
    acc: int,
    multiplier: int,
    shift: int,
    residual: int,
    residual_multiplier: int,
    bias: int,
    bits: int,
) -> dict[str, int]:
    """`v` and `y` of docs/spec.md section 4.3 for one element, in integers of any size."""
    v = ((acc * multiplier) >> shift) + residual * residual_multiplier + bias
    return {"v": v, "y": max(0, min(v >> 8, (1 << bits) - 1))}


def make() -> dict[str, Any]:
    """All vectors."""
    return {
        "specification": 2,
        "steps": [
            {"state": _word(state), "next": [_word(s) for s in _states(lfsr.step, state, 4)]}
            for state in _STATES
        ],
        "leaps": [
            {"state": _word(state), "next": [_word(s) for s in _states(lfsr.leap, state, 4)]}
            for state in _STATES
        ],
        "jumps": [
            {"state": _word(state), "exponent": _word(n), "result": _word(lfsr.jump(state, n))}
            for state in _STATES[1:3]
            for n in _EXPONENTS
        ],
        "user_seeds": [
            {"seed": seed, "state": _word(lfsr.seed_state(seed))} for seed in (0, 1, 42, 20260101)
        ],
        "layer_states": [
            {
                "seed": _word(lfsr.seed_state(42)),
                "stream": stream,
                "state": _word(lfsr.layer_state(lfsr.seed_state(42), stream)),
            }
            for stream in (0, 1, 2, 3, 128, 255)
        ],
        "streams": [_stream(0, 3, 70, 3), _stream(7, 5, 4, 1), _stream(200, 1, 1, 5)],
        "weights": [_weights(1, 2, 3, 3), _weights(2, 4, 5, 1)],
        "frozen_masks": [_frozen(3, 2, 70, 3, 4), _frozen(4, 3, 20, 1, 2), _frozen(5, 3, 64, 3, 1)],
        "signatures": [_signature(words) for words in _signed()],
        "requantization": [case | requantize(**case) for case in _requantization_cases()],
        "network": _network(),
    }


def dumps(vectors: dict[str, Any]) -> str:
    """The vectors as JSON, one vector a line."""
    parts = []
    for key, value in vectors.items():
        items: Iterable[str]
        if isinstance(value, list):
            items, ends = (json.dumps(item) for item in value), "[]"
        elif isinstance(value, dict):
            items, ends = (f"{json.dumps(k)}: {_lines(v)}" for k, v in value.items()), "{}"
        else:
            parts.append(f"{json.dumps(key)}: {json.dumps(value)}")
            continue
        body = ",\n  ".join(items)
        parts.append(f"{json.dumps(key)}: {ends[0]}\n  {body}\n{ends[1]}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _lines(value: Any) -> str:
    """JSON with a line for each object of a list."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n    " + ",\n    ".join(json.dumps(item) for item in value) + "\n  ]"
    return json.dumps(value)


def _word(word: int) -> str:
    return f"{int(word):016x}"


def _states(function: Any, state: int, count: int) -> list[int]:
    result = []
    for _ in range(count):
        state = function(state)
        result.append(state)
    return result


def _stream(stream: int, out_channels: int, in_channels: int, kernel: int) -> dict[str, Any]:
    seed = lfsr.seed_state(42)
    words = signs.sign_words(
        lfsr.layer_state(seed, stream), out_channels, signs.words_per_channel(in_channels, kernel)
    )
    return {
        "seed": _word(seed),
        "stream": stream,
        "out_channels": out_channels,
        "in_channels": in_channels,
        "kernel": kernel,
        "words": [[_word(word) for word in row] for row in words],
    }


def _weights(stream: int, out_channels: int, in_channels: int, kernel: int) -> dict[str, Any]:
    """A layer whose mask keeps every weight but each third one."""
    seed = lfsr.seed_state(42)
    sign = signs.sign_tensor(seed, stream, out_channels, in_channels, kernel)
    kept = (np.arange(sign.size) % 3 != 0).reshape(sign.shape)
    return {
        "seed": _word(seed),
        "stream": stream,
        "mask": [[_word(word) for word in row] for row in signs.pack(kept)],
        "weights": (sign * kept).tolist(),
    }


def _frozen(
    stream: int, out_channels: int, in_channels: int, kernel: int, m: int
) -> dict[str, Any]:
    """A partly frozen mask that keeps two of three free weights, and its stored form."""
    seed = lfsr.seed_state(42)
    shape = WeightShape(out_channels, in_channels, kernel)
    made = frozen.pattern(seed, stream, shape, m)
    kept = (np.arange(shape.weights) % 3 != 0).reshape(*shape, kernel)
    mask = signs.pack(kept).reshape(shape.words) & made.free | made.kept
    stored = np.frombuffer(frozen.compress(mask, made), "<u8")
    return {
        "seed": _word(seed),
        "stream": stream,
        "out_channels": out_channels,
        "in_channels": in_channels,
        "kernel": kernel,
        "m": m,
        "mask": [[_word(word) for word in row] for row in mask.reshape(out_channels, -1)],
        "stored": [_word(word) for word in stored],
    }


def _signed() -> list[list[int]]:
    return [[], [0], [1], [(1 << 64) - 1], [1, 2, 3], [3, 2, 1], list(_STATES)]


def _signature(words: list[int]) -> dict[str, Any]:
    return {"words": [_word(word) for word in words], "signature": _word(lfsr.signature(words))}


def _requantization_cases() -> list[dict[str, int]]:
    keys = ("acc", "multiplier", "shift", "residual", "residual_multiplier", "bias", "bits")
    cases = [
        (0, 0, 0, 0, 0, 0, 8),
        (1, 256, 0, 0, 0, 0, 8),
        # Rounding half up, by a bias of 128, and just below the half.
        (1, 128, 0, 0, 0, 128, 8),
        (1, 127, 0, 0, 0, 128, 8),
        (5, 384, 0, 0, 0, 128, 4),
        # Both shifts round towards minus infinity.
        (-1, 1, 4, 0, 0, 256, 8),
        (-1, 1, 28, 0, 0, 512, 8),
        (-16, 1, 4, 0, 0, 257, 8),
        (-17, 1, 4, 0, 0, 257, 8),
        (-17, 1, 4, 0, 0, 258, 8),
        (1, -1, 28, 0, 0, 255, 8),
        (1, -1, 28, 0, 0, 256, 8),
        # Clamps of all widths.
        *((1000, 256, 0, 0, 0, 0, bits) for bits in range(1, 9)),
        (-1000, 256, 0, 0, 0, 0, 8),
        (255, 256, 0, 0, 0, 0, 8),
        (256, 256, 0, 0, 0, 0, 8),
        # Residuals, with and without a zero point.
        (3, 256, 0, 10, 256, 0, 8),
        (0, 0, 0, 255, 65535, -8388608, 8),
        (0, 0, 0, 255, 33153, -8388608, 8),
        (-40, 300, 4, 200, 77, -77 * 128 + 128, 5),
        (1234, 7777, 16, 7, 4096, -9000, 4),
        (-1234, -7777, 16, 7, 4096, -9000, 4),
        # Extremes of the constants and of a 24-bit accumulator.
        (8388607, 32767, 28, 0, 0, 0, 8),
        (8388607, 32767, 28, 255, 65535, 8388607, 8),
        (8388607, -32768, 0, 255, 65535, 8388607, 8),
        (-8388608, -32768, 28, 0, 0, -8388608, 8),
        (-8388608, -32768, 12, 0, 0, -8388608, 8),
        (-8388608, 32767, 28, 0, 65535, 8388607, 8),
        (0, 32767, 0, 0, 0, -8388608, 8),
        (0, -32768, 0, 0, 0, 8388607, 8),
        # Every shift.
        *((100003, 30011, shift, 3, 500, -20000, 8) for shift in range(0, 32, 4)),
        *((-100003, 30011, shift, 3, 500, 60000, 8) for shift in range(0, 32, 4)),
    ]
    return [dict(zip(keys, case, strict=True)) for case in cases]


def _tiny_model() -> Model:
    """A network with each operation: two projections, a folded block, odd sizes."""
    from hiddenfold.verif.golden.random_constants import random_constants, random_masks

    def conv(name: str, tensors: str, stream: int, shape: tuple[int, int, int], bits: int) -> Conv:
        source, output, *residual = tensors.split()
        return Conv(
            name=name,
            input=source,
            output=output,
            residual=residual[0] if residual else None,
            kernel=shape[0],
            stride=shape[1],
            out_channels=shape[2],
            bits=bits,
            stream=stream,
        )

    ops = (
        Unfold(name="unfold", output="u", kernel=3),
        conv("stem", "u x", 0, (1, 1, 5), 4),
        conv("first", "x t", 1, (3, 2, 6), 4),
        conv("projection", "x r", 2, (1, 2, 7), 6),
        conv("second", "t x r", 3, (3, 1, 7), 4),
        Loop(
            count=3,
            body=(
                conv("down", "x t", 4, (1, 1, 3), 2),
                conv("middle", "t s", 5, (5, 1, 4), 3),
                conv("up", "s x x", 6, (1, 1, 7), 4),
            ),
        ),
        MaxPool(name="pool", input="x", output="x", kernel=3, stride=2),
        conv("last", "x x", 7, (1, 1, 67), 8),
        Classifier(name="classifier", input="x", stream=8),
    )
    model = Model(
        name="tiny",
        dataset="none",
        classes=("one", "two", "three"),
        image=(6, 5),
        seed=lfsr.seed_state(2026),
        top_k=0.5,
        act_bits=4,
        folded_stages=(1,),
        ops=ops,
        masks={},
        affine=[],
    )
    rng = np.random.default_rng(2026)
    model = replace(model, masks=random_masks(rng, model, model.top_k))
    return replace(model, affine=random_constants(rng, model, _tiny_image()))


def _tiny_image() -> np.ndarray:
    return (np.arange(6 * 5 * 3) * 89 % 256).astype(np.uint8).reshape(6, 5, 3)


def _network() -> dict[str, Any]:
    """The tiny model's file in hexadecimal, an image [y][x][c], and what each layer makes of it."""
    # The golden model needs PyTorch; making vectors is the only use for it here.
    from hiddenfold.verif.golden.model import Golden

    model = _tiny_model()
    image = _tiny_image()
    *layers, logits = Golden(model).trace(image[None])
    return {
        "hfn": model.to_bytes().hex(),
        "image": image.tolist(),
        "layers": [
            {
                "name": layer.name,
                "iteration": layer.iteration,
                "values": layer.values[0].tolist(),
            }
            for layer in layers
        ],
        "logits": logits.values[0].tolist(),
    }


if __name__ == "__main__":
    sys.stdout.write(dumps(make()))
