# SPDX-License-Identifier: Apache-2.0
"""Compiler: a model and a target make a program (docs/spec.md sections 6, 7 and 10)."""

from __future__ import annotations

from typing import Any

from hiddenfold.gen import cost, limits
from hiddenfold.gen.code import Code, instruction_count
from hiddenfold.gen.cost import MaskSupply
from hiddenfold.gen.graph import build
from hiddenfold.gen.limits import CompileError
from hiddenfold.gen.mask_cache import cache_places
from hiddenfold.gen.schedule import Schedule
from hiddenfold.gen.streams import MaskStreams, Section, affine_record
from hiddenfold.gen.target import Target
from hiddenfold.hw import isa
from hiddenfold.sw.model import Model
from hiddenfold.sw.program import MAX_BATCH, Program
from hiddenfold.sw.shapes import Execution

__all__ = ["CompileError", "compile_model"]


def compile_model(model: Model, target: Target, *, trace: bool = False, batch: int = 1) -> Program:
    """Compile `model` for `target`.

    With `trace` the program also writes every tensor that `unfold`, `conv` and `maxpool` make to
    the output, in each iteration. `batch` images go through the network together.

    Raises
    ------
    CompileError
        When the target cannot run the model. The text names the operation and what would help.
    ValueError
        When the model is not legal.
    """
    if not 1 <= batch <= MAX_BATCH:
        raise CompileError(f"Batch must be in 1..{MAX_BATCH} images, not {batch}")
    model.validate()
    graph = build(model, target.lanes)
    limits.check(model, graph, target)
    schedule = limits.place(graph, target, batch)
    executions = model.executions()

    affine = Section()
    for execution in _in_order(executions, schedule):
        if execution.affine is not None:
            affine.add(affine_record(model.affine[execution.affine], target.rows))
    masks = MaskStreams(model, target)
    cached = cache_places(schedule, masks, target)

    affine_offset = instruction_count(schedule, trace) * isa.BYTES
    affine_bytes = affine.bytes()
    code, places = Code(
        target=target,
        schedule=schedule,
        masks=masks,
        cached=cached,
        seed=model.seed,
        affine_offset=affine_offset,
        mask_offset=affine_offset + len(affine_bytes),
    ).encode(trace)
    assert len(code) == affine_offset, "the affine stream follows the instructions"
    memory = code + affine_bytes + masks.section.bytes()
    if len(memory) >= 1 << 32:
        raise CompileError(f"Memory image must be below 2^32 bytes, not {len(memory)}")
    layers = [
        _layer(
            execution,
            places[execution.name],
            target,
            schedule.images_at_once(execution),
            MaskSupply(masks.eighths(execution), execution.name in cached),
        )
        for execution in executions
    ]
    traced = _trace_entries(executions, schedule, target) if trace else []
    return Program(
        model=model.name,
        target=target.name,
        target_id=target.identifier,
        target_parameters=target.parameters(),
        classes=list(model.classes),
        image=model.image,
        batch=batch,
        instructions=instruction_count(schedule, trace),
        mask_bytes=masks.section.size,
        affine_bytes=affine.size,
        layers=layers,
        trace=traced if trace else None,
        memory=memory,
        **_totals(model, schedule, target, layers, traced),
    )


def _in_order(executions: list[Execution], schedule: Schedule) -> list[Execution]:
    """The executions in the order of the program, those of the head once for each image."""
    head = [execution for execution in executions if schedule.in_head(execution)]
    return head * schedule.batch + executions[len(head) :]


def _totals(
    model: Model,
    schedule: Schedule,
    target: Target,
    layers: list[dict[str, Any]],
    traced: list[dict[str, Any]],
) -> dict[str, Any]:
    """Header fields that count something over a whole image, the mean of a batch."""

    def total(key: str) -> Any:
        return sum(layer[key] for layer in layers)

    logits = -(-len(model.classes) // target.rows) * target.rows
    stored = target.lanes * sum(
        entry["images"] * entry["height"] * entry["width"] * entry["lane_words"] for entry in traced
    )
    stored //= schedule.batch
    overhead = cost.overhead(schedule, bool(traced), target)
    read = total("mask_bytes") + total("affine_bytes") + cost.image_bytes(model.image)
    return {
        "logits": logits,
        "output_bytes": stored + 4 * logits,
        "macs": total("macs"),
        "ideal_cycles": total("ideal_cycles"),
        "predicted_cycles": round(total("predicted_cycles") + overhead.cycles / schedule.batch),
        "predicted_bytes_read": round(read + overhead.bytes_read / schedule.batch),
        "predicted_bytes_written": stored + 4 * logits,
    }


def _layer(
    execution: Execution, places: list[int], target: Target, images: int, supply: MaskSupply
) -> dict[str, Any]:
    """Entry of `layers` for one execution on `images` images at once."""
    estimate = cost.execution_cost(execution, target, images, supply)

    def each(value: int) -> int | float:
        return value / images if value % images else value // images

    bit_macs = execution.macs * execution.in_bits
    return {
        "name": execution.name,
        "op": execution.kind,
        "iteration": execution.iteration,
        "pcs": places,
        "macs": execution.macs,
        "ideal_cycles": bit_macs / (target.rows * target.lanes * target.planes),
        "predicted_cycles": each(estimate.cycles),
        "mask_bytes": each(estimate.mask_bytes),
        "affine_bytes": each(estimate.affine_bytes),
        "in": list(execution.in_shape),
        "out": list(execution.out_shape),
    }


def _trace_entries(
    executions: list[Execution], schedule: Schedule, target: Target
) -> list[dict[str, Any]]:
    """The tensors that a traced program stores, in order."""
    stored = [execution for execution in executions if execution.writes is not None]
    head = [execution for execution in stored if schedule.in_head(execution)]
    one_by_one = [
        _trace_entry(execution, target, range(image, image + 1))
        for image in range(schedule.batch)
        for execution in head
    ]
    every = range(schedule.batch)
    return one_by_one + [_trace_entry(each, target, every) for each in stored[len(head) :]]


def _trace_entry(execution: Execution, target: Target, images: range) -> dict[str, Any]:
    """Entry of `trace` for one execution on some images of the batch."""
    shape = execution.out_shape
    return {
        "name": execution.name,
        "iteration": execution.iteration,
        "image": images.start,
        "images": len(images),
        "height": shape.height,
        "width": shape.width,
        "channels": shape.channels,
        "lane_words": -(-shape.channels // target.lanes),
    }
