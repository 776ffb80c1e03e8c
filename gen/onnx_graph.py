# SPDX-License-Identifier: Apache-2.0
"""A model as an ONNX graph of integers that computes the same bits (docs/spec.md section 4).

It has standard operators of opset 13 only: ``ConvInteger``, arithmetic on int64, ``MaxPool``.
Loops are unrolled; their iterations share their weights. Weights are written out, one byte each:
signs and masks are what makes a model small, and ONNX has no operator for them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hiddenfold.sw.model import Affine, Classifier, Conv, Execution, MaxPool, Model, Unfold

__all__ = ["onnx_model"]

OPSET = 13
IR_VERSION = 8
#: ONNX divides towards 0. What is divided has this added before, a multiple of every divisor that
#: is larger than any product, so that nothing is negative; the bias takes it away again.
_ABOVE = 1 << 45


def onnx_model(model: Model) -> onnx.ModelProto:
    """The graph: ``image`` uint8 [N, height, width, 3] to ``logits`` int64 [N, classes]."""
    model.validate()
    graph = _Graph()
    tensors = {"image": graph.node("Transpose", "image_planes", ["image"], perm=[0, 3, 1, 2])}
    for number, execution in enumerate(model.executions()):
        op = execution.op
        name = f"{number}.{execution.name}"
        source = tensors[op.input]
        if isinstance(op, Classifier):
            _classify(graph, model, op, source)
            break
        if isinstance(op, Unfold):
            result = _unfold(graph, name, op, source, model.image)
        elif isinstance(op, MaxPool):
            pad = (op.kernel - 1) // 2
            result = graph.node(
                "MaxPool",
                name,
                [source],
                kernel_shape=[op.kernel] * 2,
                strides=[op.stride] * 2,
                pads=[pad] * 4,
            )
        else:
            residual = None if op.residual is None else tensors[op.residual]
            result = _convolve(graph, model, execution, name, source, residual)
        tensors[op.output] = result
    height, width = model.image
    made = helper.make_graph(
        graph.nodes,
        model.name,
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", height, width, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.INT64, ["N", len(model.classes)])],
        list(graph.constants.values()),
    )
    result = helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="hiddenfold",
    )
    helper.set_model_props(result, {"dataset": model.dataset, "classes": "\n".join(model.classes)})
    onnx.checker.check_model(result)
    return result


class _Graph:
    """Nodes in their order, and constants by name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def node(self, kind: str, output: str, inputs: list[str], **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: Any, dtype: type = np.int64) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(value, dtype), name)
        return name


def _unfold(graph: _Graph, name: str, op: Unfold, source: str, size: tuple[int, int]) -> str:
    """The windows of the image as channels, row by row."""
    pad = (op.kernel - 1) // 2
    pads = graph.constant(f"{name}.pads", [0, 0, pad, pad, 0, 0, pad, pad])
    padded = graph.node("Pad", f"{name}.padded", [source, pads])
    axes = graph.constant(f"{name}.axes", [2, 3])
    steps = graph.constant(f"{name}.steps", [op.stride] * 2)
    windows = []
    for y in range(op.kernel):
        for x in range(op.kernel):
            part = f"{name}.{y}.{x}"
            starts = graph.constant(f"{part}.starts", [y, x])
            ends = graph.constant(f"{part}.ends", [y + size[0], x + size[1]])
            windows.append(graph.node("Slice", part, [padded, starts, ends, axes, steps]))
    return graph.node("Concat", name, windows, axis=1)


def _convolve(
    graph: _Graph,
    model: Model,
    execution: Execution,
    name: str,
    source: str,
    residual: str | None,
) -> str:
    op = execution.op
    assert isinstance(op, Conv) and execution.affine is not None
    # Runtimes like unsigned weights: 0, 1, 2 with a zero point of 1.
    weights = graph.constants.get(f"weights.{op.stream}")
    if weights is None:
        graph.constant(f"weights.{op.stream}", model.weights(op.stream) + 1, np.uint8)
    zero = graph.constant("zero", 0, np.uint8)
    one = graph.constant("one", 1, np.uint8)
    sums = graph.node(
        "ConvInteger",
        f"{name}.sums",
        [source, f"weights.{op.stream}", zero, one],
        kernel_shape=[op.kernel] * 2,
        strides=[op.stride] * 2,
        pads=[(op.kernel - 1) // 2] * 4,
    )
    return _requantize(graph, name, sums, model.affine[execution.affine], residual, op.bits)


def _requantize(
    graph: _Graph, name: str, sums: str, affine: Affine, residual: str | None, bits: int
) -> str:
    """Section 4.3: clamp((((sums * M) >> S) + residual * R + B) >> 8)."""
    wide = graph.node("Cast", f"{name}.wide", [sums], to=TensorProto.INT64)
    multiplier = graph.constant(f"{name}.M", _channels(affine.multiplier))
    product = graph.node("Mul", f"{name}.product", [wide, multiplier])
    above = graph.constant("above", _ABOVE)
    positive = graph.node("Add", f"{name}.positive", [product, above])
    divisor = graph.constant(f"divisor.{affine.shift}", 1 << affine.shift)
    value = graph.node("Div", f"{name}.shifted", [positive, divisor])
    bias = _channels(affine.bias) - (_ABOVE >> affine.shift)
    value = graph.node("Add", f"{name}.biased", [value, graph.constant(f"{name}.B", bias)])
    if residual is not None:
        other = graph.node("Cast", f"{name}.residual", [residual], to=TensorProto.INT64)
        factor = graph.constant(f"{name}.R", affine.residual)
        scaled = graph.node("Mul", f"{name}.residual_scaled", [other, factor])
        value = graph.node("Add", f"{name}.with_residual", [value, scaled])
    low = graph.constant("low", 0)
    high = graph.constant(f"high.{bits}", (1 << bits + 8) - 1)
    value = graph.node("Clip", f"{name}.clamped", [value, low, high])
    value = graph.node("Div", f"{name}.whole", [value, graph.constant("divisor.8", 1 << 8)])
    return graph.node("Cast", name, [value], to=TensorProto.UINT8)


def _classify(graph: _Graph, model: Model, op: Classifier, source: str) -> None:
    # Other nodes begin with the number of their execution.
    wide = graph.node("Cast", "classifier.wide", [source], to=TensorProto.INT64)
    axes = graph.constant("classifier.axes", [2, 3])
    sums = graph.node("ReduceSum", "classifier.sums", [wide, axes], keepdims=0)
    weights = model.weights(op.stream).astype(np.int64)
    matrix = graph.constant(f"weights.{op.stream}.matrix", weights.reshape(len(weights), -1).T)
    graph.node("MatMul", "logits", [sums, matrix])


def _channels(values: NDArray[Any]) -> NDArray[np.int64]:
    return values.astype(np.int64)[:, np.newaxis, np.newaxis]
