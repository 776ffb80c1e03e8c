# SPDX-License-Identifier: Apache-2.0
"""How the operations of a model fit together, and the shapes they make.

The rules are those of docs/spec.md section 5. What is checked here may come from a file, so each
error is a `ValueError` that names the operation, what is allowed and what was found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from hiddenfold.sw.operations import (
    IMAGE,
    Classifier,
    Conv,
    Loop,
    MaxPool,
    Operation,
    Unfold,
    kind_name,
    label,
)

__all__ = ["IMAGE_CHANNELS", "Execution", "Shape", "WeightShape", "infer", "unroll"]

IMAGE_CHANNELS = 3


class Shape(NamedTuple):
    """Height, width and channels of a tensor."""

    height: int
    width: int
    channels: int


class WeightShape(NamedTuple):
    """Shape of a layer's weights, masks and signs; the kernel is square."""

    out_channels: int
    in_channels: int
    kernel: int

    @property
    def weights(self) -> int:
        """Number of weights, that is of mask bits without padding."""
        return self.out_channels * self.in_channels * self.kernel**2

    @property
    def words(self) -> tuple[int, int, int]:
        """Shape [Cout, taps, CW] of the mask or sign words (docs/spec.md section 1.3)."""
        return self.out_channels, self.kernel**2, -(-self.in_channels // 64)


@dataclass(frozen=True)
class Execution:
    """One execution of an operation; loops are unrolled.

    `iteration` counts from 0 and is 0 outside loops. `affine` is the index of the execution's
    constants, None where there are none. `macs` is nominal: padding counts, and a classifier has
    in x out channels. A classifier's output is 1 x 1 x classes of 32 bits.
    """

    op: Unfold | Conv | MaxPool | Classifier
    iteration: int
    in_shape: Shape
    in_bits: int
    out_shape: Shape
    out_bits: int
    affine: int | None
    macs: int

    @property
    def name(self) -> str:
        """Name of the operation."""
        return self.op.name

    @property
    def kind(self) -> str:
        """What the operation is called in files: unfold, conv, maxpool or classifier."""
        return kind_name(self.op)

    @property
    def residual(self) -> str | None:
        """Name of the tensor that is added; None where there is none."""
        return self.op.residual if isinstance(self.op, Conv) else None

    @property
    def reads(self) -> set[str]:
        """Names of the tensors that are read."""
        return {self.op.input} if self.residual is None else {self.op.input, self.residual}

    @property
    def writes(self) -> str | None:
        """Name of the tensor that is assigned; None for a classifier."""
        return None if isinstance(self.op, Classifier) else self.op.output

    @property
    def stream(self) -> int | None:
        """Stream number of the weights; None for operations without weights."""
        return self.op.stream if isinstance(self.op, (Conv, Classifier)) else None

    @property
    def weight_shape(self) -> WeightShape | None:
        """Shape of the weights; None for operations without weights."""
        if isinstance(self.op, Conv):
            return WeightShape(self.out_shape.channels, self.in_shape.channels, self.op.kernel)
        if isinstance(self.op, Classifier):
            return WeightShape(self.out_shape.channels, self.in_shape.channels, 1)
        return None


def infer(
    ops: Sequence[Operation], image: tuple[int, int], classes: int
) -> tuple[list[tuple[int, list[Execution]]], dict[int, WeightShape]]:
    """Check how the operations fit together and infer all shapes.

    Returns the operations in order, each as a pair of a count and the executions of one iteration
    (1 and one execution outside loops; `affine` is None everywhere, see
    `Model.executions`), and the weight shape of each stream.
    """
    walk = _Walk(image, classes)
    if not ops or not isinstance(ops[0], Unfold):
        raise ValueError(f"First operation must be an unfold, not {label(*ops[:1])}")
    if not isinstance(ops[-1], Classifier):
        raise ValueError(f"Last operation must be a classifier, not {label(ops[-1])}")
    result = []
    for index, op in enumerate(ops):
        if isinstance(op, Unfold) and index:
            raise ValueError(f"{label(op)} must be the first operation, not number {index + 1}")
        if isinstance(op, Classifier) and index != len(ops) - 1:
            raise ValueError(f"{label(op)} must be the last operation, not number {index + 1}")
        if isinstance(op, Loop):
            result.append((op.count, walk.loop(op)))
        else:
            result.append((1, [walk.step(op)]))
    return result, walk.streams


class _Walk:
    """Shapes of the tensors that exist so far."""

    def __init__(self, image: tuple[int, int], classes: int) -> None:
        self.tensors = {IMAGE: (Shape(*image, IMAGE_CHANNELS), 8)}
        self.streams: dict[int, WeightShape] = {}
        self._classes = classes
        self._names: set[str] = set()

    def loop(self, loop: Loop) -> list[Execution]:
        before = dict(self.tensors)
        assigned: set[str] = set()
        carried: dict[str, Conv] = {}
        executions = []
        for op in loop.body:
            for tensor in (op.input, op.residual):
                if tensor is not None and tensor not in assigned:
                    carried.setdefault(tensor, op)
            executions.append(self.step(op))
            assigned.add(op.output)
        for tensor, op in carried.items():
            if before[tensor] != self.tensors[tensor]:
                raise ValueError(
                    f"{label(op)}: tensor '{tensor}' must end the loop body as it entered it, "
                    f"{_describe(before[tensor])}, not {_describe(self.tensors[tensor])}"
                )
        return executions

    def step(self, op: Unfold | Conv | MaxPool | Classifier) -> Execution:
        if op.name in self._names:
            raise ValueError(f"{label(op)}: name must be unique, not used twice")
        self._names.add(op.name)
        shape, bits = self._read(op, op.input)
        if (op.input == IMAGE) != isinstance(op, Unfold):
            raise ValueError(f"{label(op)}: input must be {_INPUTS[type(op)]}, not '{op.input}'")
        if isinstance(op, Classifier):
            out, out_bits = Shape(1, 1, self._classes), 32
            macs = self._weights(op, WeightShape(self._classes, shape.channels, 1)).weights
            return Execution(op, 0, shape, bits, out, out_bits, None, macs)
        if op.output == IMAGE:
            raise ValueError(f"{label(op)}: output must be a tensor other than '{IMAGE}'")
        height = (shape.height - 1) // op.stride + 1
        width = (shape.width - 1) // op.stride + 1
        out_bits, macs = bits, 0
        if isinstance(op, Conv):
            out, out_bits = Shape(height, width, op.out_channels), op.bits
            weights = self._weights(op, WeightShape(op.out_channels, shape.channels, op.kernel))
            macs = height * width * weights.weights
            self._check_residual(op, out)
        elif isinstance(op, Unfold):
            out = Shape(height, width, IMAGE_CHANNELS * op.kernel**2)
        else:
            out = Shape(height, width, shape.channels)
        self.tensors[op.output] = out, out_bits
        return Execution(op, 0, shape, bits, out, out_bits, None, macs)

    def _read(self, op: Any, tensor: str) -> tuple[Shape, int]:
        if tensor not in self.tensors:
            names = [f"'{name}'" for name in self.tensors]
            known = ", ".join(names if len(names) <= 6 else [*names[:2], "...", *names[-3:]])
            raise ValueError(f"{label(op)} must read one of {known}, not '{tensor}'")
        return self.tensors[tensor]

    def _check_residual(self, op: Conv, out: Shape) -> None:
        if op.residual is None:
            return
        found, _ = self._read(op, op.residual)
        if op.residual == IMAGE or found != out:
            raise ValueError(
                f"{label(op)}: residual must have the output's shape {_size(out)}, "
                f"not {_size(found)} as '{op.residual}' has"
            )

    def _weights(self, op: Conv | Classifier, shape: WeightShape) -> WeightShape:
        if op.stream not in self.streams and op.stream != len(self.streams):
            raise ValueError(
                f"{label(op)}: stream must be {len(self.streams)}, the first one not in use, "
                f"or one in use, not {op.stream}"
            )
        if self.streams.setdefault(op.stream, shape) != shape:
            raise ValueError(
                f"{label(op)}: weights of stream {op.stream} must be "
                f"{_weights(self.streams[op.stream])}, not {_weights(shape)}"
            )
        return shape


def unroll(groups: list[tuple[int, list[Execution]]]) -> list[Execution]:
    """All executions in order, with their iterations and affine indices."""
    result = []
    affine = 0
    for count, body in groups:
        for iteration in range(count):
            for execution in body:
                index = None
                if isinstance(execution.op, Conv):
                    index = affine
                    affine += 1
                result.append(replace(execution, iteration=iteration, affine=index))
    return result


_INPUTS = {
    Unfold: f"'{IMAGE}'",
    Conv: f"a tensor other than '{IMAGE}'",
    MaxPool: f"a tensor other than '{IMAGE}'",
    Classifier: f"a tensor other than '{IMAGE}'",
}


def _describe(tensor: tuple[Shape, int]) -> str:
    shape, bits = tensor
    return f"{_size(shape)} of {bits} bits"


def _size(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _weights(shape: WeightShape) -> str:
    return f"{shape.in_channels} to {shape.out_channels} channels with kernel {shape.kernel}"
