# SPDX-License-Identifier: Apache-2.0
"""Sizes and layers of a model, as `hiddenfold inspect` prints them (docs/spec.md section 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hiddenfold.sw import frozen, model_file
from hiddenfold.sw.affine import Affine
from hiddenfold.sw.operations import Loop
from hiddenfold.sw.shapes import Execution

if TYPE_CHECKING:
    from hiddenfold.sw.model import Model

__all__ = ["dense_parameters", "summary", "trained_summary"]

CRC_BYTES = 4


def summary(model: Model) -> dict[str, Any]:
    """The JSON object of `hiddenfold inspect`; needs neither masks nor affine tables.

    Sizes are in bytes. `mask_bits` counts weights with a stored mask bit, each once. `shape` of a
    layer is its output's [height, width, channels], `macs` those of all its iterations.
    """
    executions = model.executions()
    shapes = model.weight_shapes()
    weights = sum(shape.weights for shape in shapes.values())
    mask_bits = sum(
        frozen.stored_bits(model.seed, stream, shape, model.free_eighths(stream))
        for stream, shape in shapes.items()
    )
    mask_bytes = sum(model_file.mask_sizes(shapes, model.free).values())
    affine_bytes = sum(
        Affine.size(e.out_shape.channels, model.constants)
        for e in executions
        if e.affine is not None
    )
    total = len(model_file.encode_header(model)) + mask_bytes + affine_bytes + CRC_BYTES
    reference = model.dense_reference
    dense = 4 * (reference.parameters if reference else dense_parameters(executions))
    paper = -(-(32 + weights + 32 * 2 * _loop_channels(model)) // 8)
    return {
        "name": model.name,
        "dataset": model.dataset,
        "classes": len(model.classes),
        "top_k": model.top_k,
        "act_bits": model.act_bits,
        "folded_stages": list(model.folded_stages),
        "layers": _layers(executions),
        "mask_bits": mask_bits,
        "total_bytes": total,
        "mask_bytes": mask_bytes,
        "affine_bytes": affine_bytes,
        "other_bytes": total - mask_bytes - affine_bytes,
        "dense_fp32_bytes": dense,
        "compression": dense / total,
        "paper_bytes": paper,
        "paper_compression": dense / paper,
        "top1_float": model.accuracy.get("float"),
        "top1_golden": model.accuracy.get("golden"),
    }


def trained_summary(model: Model) -> dict[str, Any]:
    """The same for a network with the model's operations whose weights are trained, in float32.

    Nothing is regenerated and nothing is masked: each weight and each scale and shift of a batch
    norm takes 4 bytes, which is also what the paper's code counts for such a network.
    """
    weights = 4 * sum(shape.weights for shape in model.weight_shapes().values())
    norms = 8 * sum(e.out_shape.channels for e in model.executions() if e.affine is not None)
    data = summary(model)
    compression = data["dense_fp32_bytes"] / (weights + norms)
    return data | {
        "act_bits": 32,
        "mask_bits": 0,
        "total_bytes": weights + norms,
        "mask_bytes": 0,
        "affine_bytes": norms,
        "other_bytes": weights,
        "compression": compression,
        "paper_bytes": weights + norms,
        "paper_compression": compression,
    }


def dense_parameters(executions: list[Execution]) -> int:
    """Weights, batch-norm scales and shifts of a network whose loops are unfolded."""
    weights = sum(e.weight_shape.weights for e in executions if e.weight_shape)
    return weights + 2 * sum(e.out_shape.channels for e in executions if e.affine is not None)


def _loop_channels(model: Model) -> int:
    """Channels of all batch norms inside loops, one batch norm per iteration."""
    return sum(
        op.count * conv.out_channels for op in model.ops if isinstance(op, Loop) for conv in op.body
    )


def _layers(executions: list[Execution]) -> list[dict[str, Any]]:
    layers: dict[str, dict[str, Any]] = {}
    for execution in executions:
        op = execution.op
        layer = layers.setdefault(
            op.name,
            {
                "name": op.name,
                "op": execution.kind,
                "shape": list(execution.out_shape),
                "kernel": getattr(op, "kernel", 1),
                "stride": getattr(op, "stride", 1),
                "iterations": 0,
                "weights": execution.weight_shape.weights if execution.weight_shape else 0,
                "macs": 0,
            },
        )
        layer["iterations"] += 1
        layer["macs"] += execution.macs
    return list(layers.values())
