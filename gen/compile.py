# SPDX-License-Identifier: Apache-2.0
"""Compiler: a model and a target make a program (docs/spec.md sections 6, 7 and 10)."""

from __future__ import annotations

from typing import Any

from hiddenfold.gen import cost, limits
from hiddenfold.gen.code import Code, instruction_count
from hiddenfold.gen.graph import Graph, build
from hiddenfold.gen.limits import CompileError
from hiddenfold.gen.streams import MaskStreams, Section, affine_record
from hiddenfold.gen.target import Target
from hiddenfold.hw import isa
from hiddenfold.sw.model import Model
from hiddenfold.sw.program import Program
from hiddenfold.sw.shapes import Execution

__all__ = ["CompileError", "compile_model"]


def compile_model(model: Model, target: Target, *, trace: bool = False, batch: int = 1) -> Program:
    """Compile `model` for `target`.

    With `trace` the program also writes every tensor that `unfold`, `conv` and `maxpool` make to
    the output, in each iteration.

    Raises
    ------
    CompileError
        When the target cannot run the model. The text names the operation and what would help.
    ValueError
        When the model is not legal.
    """
    if batch != 1:
        raise CompileError(
            "--batch above 1 is not supported yet by this hardware: compile with --batch 1 and let "
            f"the driver queue images (IMAGES register), found --batch {batch}"
        )
    model.validate()
    graph = build(model, target.lanes)
    limits.check(model, graph, target)
    addresses = limits.place(graph, target)

    affine = Section()
    for constants in model.affine:
        affine.add(affine_record(constants, target.rows))
    masks = MaskStreams(target.rows, target.lanes)
    for stream, shape in model.weight_shapes().items():
        masks.add(stream, model.masks[stream], shape.in_channels)

    affine_offset = instruction_count(graph, trace) * isa.BYTES
    affine_bytes = affine.bytes()
    code, places = Code(
        target=target,
        graph=graph,
        addresses=addresses,
        masks=masks,
        seed=model.seed,
        affine_offset=affine_offset,
        mask_offset=affine_offset + len(affine_bytes),
    ).encode(trace)
    assert len(code) == affine_offset, "the affine stream follows the instructions"
    memory = code + affine_bytes + masks.section.bytes()
    if len(memory) >= 1 << 32:
        raise CompileError(f"Memory image must be below 2^32 bytes, not {len(memory)}")
    executions = model.executions()
    layers = [_layer(execution, places[execution.name], target) for execution in executions]
    traced = [_trace_entry(e, target) for e in executions if e.writes is not None] if trace else []
    return Program(
        model=model.name,
        target=target.name,
        target_id=target.identifier,
        target_parameters=target.parameters(),
        classes=list(model.classes),
        image=model.image,
        batch=1,
        instructions=instruction_count(graph, trace),
        mask_bytes=masks.section.size,
        affine_bytes=affine.size,
        layers=layers,
        trace=traced if trace else None,
        memory=memory,
        **_totals(model, graph, target, layers, traced),
    )


def _totals(
    model: Model,
    graph: Graph,
    target: Target,
    layers: list[dict[str, Any]],
    traced: list[dict[str, Any]],
) -> dict[str, Any]:
    """Header fields that count something over a whole image."""

    def total(key: str) -> Any:
        return sum(layer[key] for layer in layers)

    logits = -(-len(model.classes) // target.rows) * target.rows
    stored = sum(
        entry["height"] * entry["width"] * entry["lane_words"] * target.lanes for entry in traced
    )
    overhead = cost.overhead(graph.nodes, bool(traced), target)
    read = total("mask_bytes") + total("affine_bytes") + cost.image_bytes(model.image)
    return {
        "logits": logits,
        "output_bytes": stored + 4 * logits,
        "macs": total("macs"),
        "ideal_cycles": total("ideal_cycles"),
        "predicted_cycles": total("predicted_cycles") + overhead.cycles,
        "predicted_bytes_read": read + overhead.bytes_read,
        "predicted_bytes_written": stored + 4 * logits,
    }


def _layer(execution: Execution, place: int, target: Target) -> dict[str, Any]:
    """Entry of `layers` for one execution."""
    estimate = cost.execution_cost(execution, target)
    bit_macs = execution.macs * execution.in_bits
    return {
        "name": execution.name,
        "op": execution.kind,
        "iteration": execution.iteration,
        "pc": place,
        "macs": execution.macs,
        "ideal_cycles": bit_macs / (target.rows * target.lanes * target.planes),
        "predicted_cycles": estimate.cycles,
        "mask_bytes": estimate.mask_bytes,
        "affine_bytes": estimate.affine_bytes,
        "in": list(execution.in_shape),
        "out": list(execution.out_shape),
    }


def _trace_entry(execution: Execution, target: Target) -> dict[str, Any]:
    """Entry of `trace` for one execution."""
    shape = execution.out_shape
    return {
        "name": execution.name,
        "iteration": execution.iteration,
        "height": shape.height,
        "width": shape.width,
        "channels": shape.channels,
        "lane_words": -(-shape.channels // target.lanes),
    }
