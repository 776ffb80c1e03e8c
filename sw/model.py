# SPDX-License-Identifier: Apache-2.0
"""Models and the model file `.hfn` (docs/spec.md section 5).

A model is what training exports and what the golden model, the compiler and the command line
read. It does not depend on any hardware.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiddenfold.sw import frozen, model_file, model_summary, signs
from hiddenfold.sw.affine import FULL, SHIFTS, Affine, check_array, check_form
from hiddenfold.sw.files import write_atomically
from hiddenfold.sw.model_file import DenseReference
from hiddenfold.sw.operations import (
    IMAGE,
    MAX_CHANNELS,
    Classifier,
    Conv,
    Loop,
    MaxPool,
    Operation,
    Unfold,
    check_integer,
    check_printable,
    shorten,
)
from hiddenfold.sw.shapes import Execution, Shape, WeightShape, infer, unroll

__all__ = [
    "IMAGE",
    "SHIFTS",
    "Affine",
    "Classifier",
    "Conv",
    "DenseReference",
    "Execution",
    "Loop",
    "MaxPool",
    "Model",
    "Operation",
    "Shape",
    "Unfold",
    "WeightShape",
]

MAX_LOGIT = (1 << 31) - 1
MAX_IMAGE = 1024
MAX_PARAMETERS = (1 << 53) - 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Model:
    """A network: operations, masks, and constants.

    `image` is (height, width), `seed` the seed state, `masks` maps a stream number to
    uint64[Cout, taps, CW] (docs/spec.md section 2), and `affine` has one entry per execution of a
    conv in execution order. `free` has the m of section 2.1 for every stream, or nothing when no
    mask is partly frozen; masks are whole either way. `constants` ("full" or "short") says how a
    file stores the constants. `accuracy` may have the keys "float" and
    "golden" with a percentage or None; `provenance` holds free strings. `dense_reference` is what
    the size is compared with, None for the network itself, unfolded.

    Nothing is checked at construction; `validate` checks all rules, and loading and saving run it.
    """

    name: str
    dataset: str
    classes: tuple[str, ...]
    image: tuple[int, int]
    seed: int
    top_k: float
    act_bits: int
    folded_stages: tuple[int, ...] = ()
    ops: tuple[Operation, ...]
    masks: dict[int, NDArray[np.uint64]]
    affine: list[Affine]
    free: tuple[int, ...] = ()
    constants: str = FULL
    accuracy: dict[str, float | None] = field(default_factory=dict)
    provenance: dict[str, str] = field(default_factory=dict)
    dense_reference: DenseReference | None = None

    @classmethod
    def load(cls, path: str | Path) -> Model:
        """Read and validate a file. Raises `ValueError` that names a file with no legal model."""
        try:
            with Path(path).open("rb") as file:
                # One byte more than allowed, so that what is too long is seen and refused.
                return cls.from_bytes(file.read(model_file.MAX_FILE_BYTES + 1))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Validate, then write the file; it appears complete or not at all."""
        write_atomically(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """Validate and return the bytes of the model file."""
        self.validate()
        return model_file.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Model:
        """Validate and return the model in the bytes of a model file."""
        model = cls(**model_file.decode(data))
        model.validate()
        return model

    def executions(self) -> list[Execution]:
        """Every executed operation in order, with loops unrolled."""
        groups, _ = self._infer()
        return unroll(groups)

    def weight_shapes(self) -> dict[int, WeightShape]:
        """Shape of the weights of each stream, in stream order."""
        _, streams = self._infer()
        return streams

    def sign_words(self, stream: int) -> NDArray[np.uint64]:
        """Signs in the shape and order of the stream's mask (docs/spec.md section 1.3)."""
        shape = self.masks[stream].shape
        state = signs.layer_state(self.seed, stream)
        stride = frozen.word_stride(self.free_eighths(stream))
        return signs.sign_words(state, shape[0], shape[1] * shape[2], stride).reshape(shape)

    def free_eighths(self, stream: int) -> int:
        """How many of 8 neighbouring channels have a stored mask bit (docs/spec.md section 2.1)."""
        return self.free[stream] if self.free else 8

    def pattern(self, stream: int) -> frozen.Pattern:
        """What is free and what is frozen in the stream's mask."""
        shape = self.weight_shapes()[stream]
        return frozen.pattern(self.seed, stream, shape, self.free_eighths(stream))

    def weights(self, stream: int) -> NDArray[np.int8]:
        """Weights -1, 0, +1 as int8[Cout, Cin, K, K]."""
        shape = self.weight_shapes()[stream]
        mask = signs.unpack(self.masks[stream].reshape(shape[0], -1), *shape[1:])
        sign = signs.unpack(self.sign_words(stream).reshape(shape[0], -1), *shape[1:])
        return mask.astype(np.int8) * (1 - 2 * sign.astype(np.int8))

    def kept(self, stream: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of +1 and of -1 weights of each output channel, two int64[Cout]."""
        mask, sign = self.masks[stream], self.sign_words(stream)
        plus = np.bitwise_count(mask & ~sign).sum(axis=(1, 2), dtype=np.int64)
        minus = np.bitwise_count(mask & sign).sum(axis=(1, 2), dtype=np.int64)
        return plus, minus

    def accumulator_peak(self, stream: int, in_bits: int) -> int:
        """Largest absolute value that any partial sum of the stream's layer can reach."""
        return ((1 << in_bits) - 1) * max(int(counts.max()) for counts in self.kept(stream))

    def validate(self) -> None:
        """Raise `ValueError` unless every rule of docs/spec.md section 5 holds."""
        self._validate_fields()
        groups, streams = self._infer()
        if list(self.masks) != sorted(streams):
            raise ValueError(
                f"Masks must be those of streams {_list(sorted(streams))} in this order, "
                f"not {_list(self.masks)}"
            )
        frozen.check_free(self.free, len(streams))
        for stream, shape in streams.items():
            self._validate_mask(stream, shape)
        convs = [execution for execution in unroll(groups) if execution.affine is not None]
        if len(self.affine) != len(convs):
            raise ValueError(
                f"Affine tables must be {len(convs)}, one per execution of a conv, "
                f"not {len(self.affine)}"
            )
        for execution, affine in zip(convs, self.affine, strict=True):
            affine.validate(execution.name, execution.out_shape.channels, self.constants)
        self._validate_logits(groups[-1][1][0])

    def summary(self) -> dict[str, Any]:
        """Sizes and layers: the JSON object of `hiddenfold inspect`."""
        self.validate()
        return model_summary.summary(self)

    def _infer(self) -> tuple[list[tuple[int, list[Execution]]], dict[int, WeightShape]]:
        return infer(self.ops, self.image, len(self.classes))

    def _validate_fields(self) -> None:
        for key in ("name", "dataset"):
            value = getattr(self, key)
            if not isinstance(value, str):
                raise ValueError(f"Model: {key} must be a string, not {shorten(value)}")
            check_printable(f"Model: {key}", value)
        if not isinstance(self.classes, tuple) or not all(isinstance(c, str) for c in self.classes):
            raise ValueError(f"Model: classes must be strings, not {shorten(self.classes)}")
        check_printable("Model: classes", *self.classes)
        check_integer("Model: number of classes", len(self.classes), 1, MAX_CHANNELS)
        if not isinstance(self.image, tuple) or len(self.image) != 2:
            raise ValueError(f"Model: image must be (height, width), not {shorten(self.image)}")
        for key, value in zip(("height", "width"), self.image, strict=True):
            check_integer(f"Model: image {key}", value, 1, MAX_IMAGE)
        check_integer("Model: seed", self.seed, 1, (1 << 64) - 1)
        if not _is_number(self.top_k) or not 0 < self.top_k <= 1:
            raise ValueError(
                f"Model: top_k must be a number above 0, at most 1, not {shorten(self.top_k)}"
            )
        check_integer("Model: act_bits", self.act_bits, 1, 8)
        if not isinstance(self.folded_stages, tuple):
            raise ValueError(
                f"Model: folded_stages must be stage numbers, not {shorten(self.folded_stages)}"
            )
        for stage in self.folded_stages:
            check_integer("Model: folded_stages", stage, 0, 255)
        check_form(self.constants)
        self._validate_notes()

    def _validate_notes(self) -> None:
        accuracy = self.accuracy
        if not isinstance(accuracy, dict) or not set(accuracy) <= {"float", "golden"}:
            raise ValueError(
                f"Model: accuracy must have the keys 'float', 'golden', not {shorten(accuracy)}"
            )
        for key, value in accuracy.items():
            if value is not None and not (_is_number(value) and 0 <= value <= 100):
                raise ValueError(
                    f"Model: accuracy '{key}' must be a percentage or null, not {shorten(value)}"
                )
        notes = self.provenance
        if not isinstance(notes, dict) or not all(
            isinstance(text, str) for item in notes.items() for text in item
        ):
            raise ValueError(f"Model: provenance must map strings to strings, not {shorten(notes)}")
        if self.dense_reference is not None:
            name, parameters = self.dense_reference
            if not isinstance(name, str):
                raise ValueError(
                    f"Model: dense_reference name must be a string, not {shorten(name)}"
                )
            check_printable("Model: dense_reference name", name)
            check_integer("Model: dense_reference parameters", parameters, 1, MAX_PARAMETERS)

    def _validate_mask(self, stream: int, shape: WeightShape) -> None:
        mask = self.masks[stream]
        subject = f"Mask of stream {stream}"
        check_array(subject, mask, np.uint64, shape.words)
        used = shape.in_channels % 64
        if used and (extra := mask[:, :, -1] >> np.uint64(used)).any():
            channel, tap = np.argwhere(extra)[0]
            raise ValueError(
                f"{subject}: bits of input channels from {shape.in_channels} on must be 0, "
                f"not 1 as in output channel {channel}, tap {tap}"
            )
        if self.free_eighths(stream) < 8:
            made = frozen.pattern(self.seed, stream, shape, self.free_eighths(stream))
            if (wrong := (mask & ~made.free) ^ made.kept).any():
                channel, tap, _ = np.argwhere(wrong)[0]
                raise ValueError(
                    f"{subject}: frozen bits must be those of the seed, "
                    f"not others as in output channel {channel}, tap {tap}"
                )

    def _validate_logits(self, classifier: Execution) -> None:
        shape = classifier.in_shape
        assert classifier.stream is not None
        peak = self.accumulator_peak(classifier.stream, classifier.in_bits)
        largest = shape.height * shape.width * peak
        if largest > MAX_LOGIT:
            raise ValueError(
                f"Operation '{classifier.name}': logits must stay within {MAX_LOGIT}, "
                f"not reach {largest}"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _list(values: Any) -> str:
    return ", ".join(map(str, values)) or "none"
