# SPDX-License-Identifier: Apache-2.0
"""Operations of a model and their JSON form (docs/spec.md sections 4 and 5).

Each operation checks its own fields when it is made; `hiddenfold.sw.shapes` checks how they fit
together. Everything here may come from a file, so each error is a `ValueError` that names the
operation, what is allowed and what was found.
"""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = [
    "IMAGE",
    "KERNELS",
    "MAX_CHANNELS",
    "Classifier",
    "Conv",
    "Loop",
    "MaxPool",
    "Operation",
    "Unfold",
    "check_integer",
    "check_printable",
    "from_json",
    "keys_text",
    "kind_name",
    "label",
    "shorten",
    "to_json",
]

IMAGE = "image"
KERNELS = (1, 3, 5, 7)
STRIDES = (1, 2)
MAX_CHANNELS = 4096
MAX_STREAMS = 256
MAX_COUNT = 255
MAX_NAME = 100


@dataclass(frozen=True, kw_only=True)
class Unfold:
    """The image's windows as channels (docs/spec.md section 4.1)."""

    name: str
    input: str = IMAGE
    output: str
    kernel: int
    stride: int = 1

    def __post_init__(self) -> None:
        _check_names(self, input=self.input, output=self.output)
        _check_window(self)


@dataclass(frozen=True, kw_only=True)
class Conv:
    """Masked convolution with requantization to `bits` bits (docs/spec.md sections 4.2, 4.3)."""

    name: str
    input: str
    output: str
    kernel: int
    stride: int = 1
    out_channels: int
    bits: int
    stream: int
    residual: str | None = None

    def __post_init__(self) -> None:
        _check_names(self, input=self.input, output=self.output)
        if self.residual is not None:
            _check_names(self, residual=self.residual)
        _check_window(self)
        check_integer(f"{label(self)}: out_channels", self.out_channels, 1, MAX_CHANNELS)
        check_integer(f"{label(self)}: bits", self.bits, 1, 8)
        check_integer(f"{label(self)}: stream", self.stream, 0, MAX_STREAMS - 1)


@dataclass(frozen=True, kw_only=True)
class MaxPool:
    """Maximum over windows (docs/spec.md section 4.4)."""

    name: str
    input: str
    output: str
    kernel: int
    stride: int = 1

    def __post_init__(self) -> None:
        _check_names(self, input=self.input, output=self.output)
        _check_window(self)


@dataclass(frozen=True, kw_only=True)
class Loop:
    """A body of convolutions that runs `count` times (docs/spec.md section 4.6)."""

    count: int
    body: tuple[Conv, ...]

    def __post_init__(self) -> None:
        check_integer("Loop: count", self.count, 1, MAX_COUNT)
        if not isinstance(self.body, tuple) or not self.body:
            raise ValueError(
                f"Loop: body must be a tuple of at least 1 conv, not {shorten(self.body)}"
            )
        for op in self.body:
            if not isinstance(op, Conv):
                raise ValueError(f"Loop: body must hold conv operations only, not {label(op)}")


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """Global sum and linear layer (docs/spec.md section 4.5)."""

    name: str
    input: str
    stream: int

    def __post_init__(self) -> None:
        _check_names(self, input=self.input)
        check_integer(f"{label(self)}: stream", self.stream, 0, MAX_STREAMS - 1)


Operation = Unfold | Conv | MaxPool | Loop | Classifier

_KINDS: dict[str, type] = {
    "unfold": Unfold,
    "conv": Conv,
    "maxpool": MaxPool,
    "loop": Loop,
    "classifier": Classifier,
}
_KIND_NAMES = {kind: name for name, kind in _KINDS.items()}
# Keys of the JSON objects that are spelled differently from the attributes.
_KEYS = {"input": "in", "output": "out"}


def kind_name(op: Operation) -> str:
    """What an operation is called in files: unfold, conv, maxpool, loop or classifier."""
    return _KIND_NAMES[type(op)]


def label(op: Any = None) -> str:
    """What messages call an operation."""
    return f"Operation '{op.name}'" if hasattr(op, "name") else type(op).__name__


def to_json(op: Operation) -> dict[str, Any]:
    """The operation as the JSON object of a model file."""
    result: dict[str, Any] = {"op": kind_name(op)}
    if isinstance(op, Loop):
        return result | {"count": op.count, "body": [to_json(conv) for conv in op.body]}
    for field in _fields(type(op)):
        result[_KEYS.get(field, field)] = getattr(op, field)
    return result


def from_json(data: Any) -> Operation:
    """The operation that a JSON object of a model file describes."""
    kind = data.get("op") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        allowed = ", ".join(_KINDS)
        raise ValueError(
            f"Operation must be an object whose 'op' is one of {allowed}, not {shorten(data)}"
        )
    subject = f"Operation {shorten(data.get('name', kind))}"
    fields = {_KEYS.get(field, field): field for field in _fields(_KINDS[kind])}
    expected, found = {"op", *fields}, set(data)
    if expected != found:
        raise ValueError(
            f"{subject}: keys must be {', '.join(sorted(expected))}, not {keys_text(found)}"
        )
    values = {field: data[key] for key, field in fields.items()}
    if kind == "loop":
        if not isinstance(values["body"], list):
            raise ValueError(f"Loop: body must be a list of objects, not {shorten(values['body'])}")
        for item in values["body"]:
            # Checked before the recursion, which nested loops would make as deep as they like.
            if not isinstance(item, dict) or item.get("op") != "conv":
                raise ValueError(f"Loop: body must hold conv operations only, not {shorten(item)}")
        values["body"] = tuple(from_json(item) for item in values["body"])
    return _KINDS[kind](**values)


def check_integer(subject: str, value: Any, low: int, high: int) -> None:
    """Raise `ValueError` unless `value` is an integer in low..high."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{subject} must be an integer in {low}..{high}, not {shorten(value)}")


def check_printable(subject: str, *texts: str) -> None:
    """Raise `ValueError` unless texts can be shown in a line, without effects on a terminal."""
    for text in texts:
        if not text.isprintable():
            raise ValueError(
                f"{subject} must have printable characters and spaces only, not {shorten(text)}"
            )


def keys_text(keys: Iterable[str]) -> str:
    """Keys for messages: those that come from a file may be anything and as many as they like."""
    shown = [key if key.isprintable() and len(key) <= 30 else shorten(key) for key in sorted(keys)]
    return ", ".join(shown[:20])


def shorten(value: Any) -> str:
    """`repr` for messages about values of any size and depth."""
    return reprlib.repr(value)


def _fields(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def _check_names(op: Any, **tensors: Any) -> None:
    _check_name("Operation: name", op.name)
    for field, value in tensors.items():
        _check_name(f"{label(op)}: {_KEYS.get(field, field)}", value)


def _check_name(subject: str, value: Any) -> None:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME:
        raise ValueError(
            f"{subject} must be a string of 1..{MAX_NAME} characters, not {shorten(value)}"
        )
    check_printable(subject, value)


def _check_window(op: Any) -> None:
    for field, allowed in (("kernel", KERNELS), ("stride", STRIDES)):
        value = getattr(op, field)
        if isinstance(value, bool) or not isinstance(value, int) or value not in allowed:
            options = ", ".join(map(str, allowed))
            raise ValueError(f"{label(op)}: {field} must be one of {options}, not {shorten(value)}")
