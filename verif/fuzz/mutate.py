# SPDX-License-Identifier: Apache-2.0
"""Changes of bytes, of texts and of what JSON and TOML hold, made by a `random.Random`."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

__all__ = ["change_bytes", "change_tree", "dump_json", "dump_toml"]

#: Integers at which formats change their mind, and some far beyond.
NUMBERS: tuple[int, ...] = (
    0,
    1,
    -1,
    2,
    3,
    7,
    8,
    63,
    64,
    65,
    127,
    255,
    256,
    4095,
    4096,
    4097,
    65535,
    65536,
)
NUMBERS += (1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 53, (1 << 64) - 1, 1 << 64)
NUMBERS += (-(1 << 31), -(1 << 63), 10**30, 10**400)
FLOATS = (0.0, -0.0, 0.5, 1.0, 1.5, -1.0, 1e-320, 1e308, float("inf"), float("-inf"), float("nan"))
TEXTS: tuple[str, ...] = (
    "",
    "x",
    "image",
    "0" * 16,
    "g" * 16,
    "f" * 16,
    "\0",
    "\n",
    "ä" * 101,
    "'\"\\",
    "\U0010ffff",
)
TEXTS += ("a" * 5000, "../../etc/passwd", "{0}", "%s%n", "true", "null", "conv", "loop", "\ud800")


def change_bytes(rng: Random, data: bytes) -> bytes:
    """The bytes with one to eight small or large damages."""
    result = bytearray(data)
    for _ in range(1 + (rng.random() < 0.3) * rng.randrange(8)):
        at = rng.randrange(len(result) + 1)
        kind = rng.randrange(8)
        if kind <= 2 and at < len(result):
            result[at] ^= 1 << rng.randrange(8)
        elif kind == 3 and at < len(result):
            result[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x20, 0x22, 0x2C, 0x30, 0x5B, 0x7B))
        elif kind == 4:
            del result[at : at + rng.choice((1, 2, 4, 8, 64, len(result)))]
        elif kind == 5:
            result[at:at] = rng.randbytes(rng.choice((1, 2, 4, 8, 64)))
        elif kind == 6:
            piece = result[at : at + rng.choice((1, 8, 64))]
            place = rng.randrange(len(result) + 1)
            result[place:place] = piece * rng.choice((1, 2, 50))
        else:
            word = rng.choice(NUMBERS[:27]) & (1 << 64) - 1
            size = rng.choice((1, 2, 4, 8))
            result[at : at + size] = (word & (1 << 8 * size) - 1).to_bytes(size, "little")
    return bytes(result)


def change_tree(rng: Random, tree: Any) -> Any:
    """A copy of dicts, lists and scalars with one to four places changed."""
    tree = copy.deepcopy(tree)
    for _ in range(1 + (rng.random() < 0.3) * rng.randrange(4)):
        holder, key = _place(rng, tree)
        if holder is None:
            return odd_value(rng)
        _change(rng, holder, key)
    return tree


def _place(rng: Random, tree: Any) -> tuple[Any, Any]:
    """Some place in the tree: a dict or list and a key of it; (None, None) when there is none."""
    holder, key = None, None
    while isinstance(tree, (dict, list)) and tree and (holder is None or rng.random() < 0.8):
        holder = tree
        key = rng.choice(list(tree)) if isinstance(tree, dict) else rng.randrange(len(tree))
        tree = tree[key]
    return holder, key


def _change(rng: Random, holder: Any, key: Any) -> None:
    value, kind = holder[key], rng.randrange(8)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), rng.choice(holder))
    elif kind == 1:
        holder[rng.choice(TEXTS)] = value
    elif kind == 2 and isinstance(holder, list):
        rng.shuffle(holder)
    elif kind == 2:
        other = rng.choice(list(holder))
        holder[key], holder[other] = holder[other], value
    elif kind == 3 and isinstance(value, list):
        holder[key] = value * rng.choice((0, 2, 3, 20))
    elif kind <= 5 and isinstance(value, int):
        holder[key] = value + rng.choice((-1, 1, 2, -value, value))
    elif kind <= 5 and isinstance(value, str):
        holder[key] = rng.choice((value + "x", value[:-1], value * 9, value.upper(), "image", "x"))
    else:
        holder[key] = odd_value(rng)


def odd_value(rng: Random) -> Any:
    """A value that hardly anything expects."""
    kind = rng.randrange(8)
    if kind <= 2:
        return rng.choice(NUMBERS)
    if kind == 3:
        return rng.choice(FLOATS)
    if kind == 4:
        return rng.choice(TEXTS)
    if kind == 5:
        return rng.choice((None, True, False))
    if kind == 6:
        return rng.choice(([], {}, [[]], {"": {}}, [None], [{}], {"op": "conv"}, [0] * 300))
    deep: Any = 0
    for _ in range(rng.choice((2, 50, 2000))):
        deep = [deep] if rng.random() < 0.5 else {"a": deep}
    return deep


def dump_json(tree: Any) -> bytes:
    """JSON text, also of what is too deep for `json` (which is then just deep)."""
    try:
        text = json.dumps(tree, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        text = "[" * 100_000
    return text.encode("utf-8", "surrogatepass")


def dump_toml(tree: dict[str, Any]) -> bytes:
    """TOML with inline tables; None becomes a bare word, which TOML does not have."""
    try:
        text = "".join(f"{_toml(str(key))} = {_toml(value)}\n" for key, value in tree.items())
    except RecursionError:
        text = "a = " + "[" * 100_000
    return text.encode("utf-8", "surrogatepass")


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(str(k))} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return repr(value)
