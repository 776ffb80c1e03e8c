# SPDX-License-Identifier: Apache-2.0
"""Compiler: a model and a target make a program (docs/spec.md sections 6, 7 and 10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hiddenfold.gen import limits
from hiddenfold.gen.actions import Action, actions
from hiddenfold.gen.bus import Memory
from hiddenfold.gen.code import Code
from hiddenfold.gen.graph import build
from hiddenfold.gen.limits import CompileError
from hiddenfold.gen.mask_cache import cache_places
from hiddenfold.gen.streams import MaskStreams, Section, affine_record
from hiddenfold.gen.target import Target
from hiddenfold.gen.timeline import Forecast, forecast, unrolled
from hiddenfold.hw import isa
from hiddenfold.hw.isa import Opcode
from hiddenfold.sw.model import Model
from hiddenfold.sw.program import (
    ALIGNMENT,
    MAX_BATCH,
    MAX_FILE_BYTES,
    MAX_HEADER_BYTES,
    Program,
)
from hiddenfold.sw.shapes import Execution

__all__ = ["CompileError", "compile_model"]


def compile_model(
    model: Model,
    target: Target,
    *,
    trace: bool = False,
    batch: int = 1,
    act_words: int | None = None,
    external: Memory | None = None,
) -> Program:
    """Compile `model` for `target`.

    With `trace` the program also writes every tensor that `unfold`, `conv` and `maxpool` make to
    the output, in each iteration. `batch` images go through the network together. `act_words`, a
    power of two, is how many words of the activation memory the program may use, by default all:
    with fewer of them small networks show how large ones run. `external` is the memory that cycles
    are predicted for.

    Raises
    ------
    CompileError
        When the target cannot run the model. The text names the operation and what would help.
    ValueError
        When the model or the batch is not legal.
    """
    if not 1 <= batch <= MAX_BATCH:
        raise ValueError(f"Batch must be in 1..{MAX_BATCH} images, not {batch}")
    model.validate()
    graph = build(model, target.lanes)
    limits.check(model, graph, target)
    room = target
    if act_words is not None:
        room = replace(target, act_banks=1, act_bank_words=min(act_words, target.act_words))
    program = actions(graph, limits.place(graph, room, batch), target, trace)

    scratch_bytes = _scratch_bytes(program, target)
    if scratch_bytes >= 1 << 32:
        raise CompileError(
            "Activations that do not fit on chip must have less than 2^32 bytes, not "
            f"{scratch_bytes}: use a smaller batch or image"
        )
    affine = _constants(model, program, target)
    masks = MaskStreams(model, target)
    cached = cache_places(program, masks, target)
    affine_offset = len(program) * isa.BYTES
    affine_bytes = affine.bytes()
    code = Code(
        target=target,
        masks=masks,
        cached=cached,
        seed=model.seed,
        affine_offset=affine_offset,
        mask_offset=affine_offset + len(affine_bytes),
    ).encode(program)
    memory = code + affine_bytes + masks.section.bytes()
    if len(memory) > _LARGEST_IMAGE:
        raise CompileError(
            f"Memory image must have at most {_LARGEST_IMAGE} bytes, not {len(memory)}"
        )
    expected = forecast(program, target, masks.eighths, cached, external)
    layers = _layers(model, program, expected, target)
    traced, order = _trace(model, program, target) if trace else (None, None)
    return Program(
        model=model.name,
        target=target.name,
        target_id=target.identifier,
        target_parameters=target.parameters(),
        classes=list(model.classes),
        image=model.image,
        batch=batch,
        instructions=len(program),
        mask_bytes=masks.section.size,
        affine_bytes=affine.size,
        layers=layers,
        trace=traced,
        trace_order=order,
        scratch_bytes=scratch_bytes,
        memory=memory,
        **_totals(model, target, layers, expected, batch),
    )


#: What a program file has room for beside the longest header.
_LARGEST_IMAGE = MAX_FILE_BYTES - MAX_HEADER_BYTES - ALIGNMENT


def _constants(model: Model, program: Sequence[Action], target: Target) -> Section:
    """The affine stream: a record for each CONV, as often as it is executed."""
    indices = {(e.name, e.iteration): e.affine for e in model.executions()}
    result = Section()
    records: dict[int, bytes] = {}
    for iteration, action in unrolled(program):
        if action.opcode != Opcode.CONV or action.node is None:
            continue
        index = indices[action.node.execution.name, iteration]
        if index is not None:
            if index not in records:
                records[index] = affine_record(model.affine[index], target.rows)
            result.add(records[index])
    return result


def _scratch_bytes(program: Sequence[Action], target: Target) -> int:
    """External memory for the tensors that do not fit on chip."""
    words = max((action.outside.end for action in program if action.outside is not None), default=0)
    return -(-words * target.lanes // ALIGNMENT) * ALIGNMENT


def _totals(
    model: Model, target: Target, layers: list[dict[str, Any]], expected: Forecast, batch: int
) -> dict[str, Any]:
    """Header fields that count something over a whole image, the mean of a batch."""
    logits = -(-len(model.classes) // target.rows) * target.rows
    return {
        "logits": logits,
        "output_bytes": (expected.bytes_written - expected.saved) // batch,
        "macs": sum(layer["macs"] for layer in layers),
        "ideal_cycles": sum(layer["ideal_cycles"] for layer in layers),
        "predicted_cycles": round(expected.cycles / batch),
        "predicted_bytes_read": round(expected.bytes_read / batch),
        "predicted_bytes_written": expected.bytes_written // batch,
        "predicted_bytes_spilled": (expected.loaded + expected.saved) // batch,
    }


def _layers(
    model: Model, program: Sequence[Action], expected: Forecast, target: Target
) -> list[dict[str, Any]]:
    """Entries of `layers`, one for each execution."""
    places: dict[str, list[int]] = {}
    for index, action in enumerate(program):
        if action.stripe is not None and action.node is not None and not action.node.copy:
            places.setdefault(action.node.execution.name, []).append(index * isa.BYTES)
    batch = len(program[-1].images)

    def each(value: int) -> int | float:
        return value / batch if value % batch else value // batch

    result = []
    for execution in model.executions():
        estimate = expected.executions[execution.name, execution.iteration]
        bit_macs = execution.macs * execution.in_bits
        result.append(
            {
                "name": execution.name,
                "op": execution.kind,
                "iteration": execution.iteration,
                "pcs": places[execution.name],
                "macs": execution.macs,
                "ideal_cycles": bit_macs / (target.rows * target.lanes * target.planes),
                "predicted_cycles": each(estimate.cycles),
                "predicted_array_cycles": each(estimate.array),
                "predicted_tile_stalls": each(estimate.tile_stalls),
                "predicted_drain_stalls": each(estimate.drain_stalls),
                "predicted_transfer_stalls": each(estimate.fences),
                "mask_bytes": each(estimate.mask_bytes),
                "affine_bytes": each(estimate.affine_bytes),
                "in": list(execution.in_shape),
                "out": list(execution.out_shape),
            }
        )
    return result


def _trace(
    model: Model, program: Sequence[Action], target: Target
) -> tuple[list[dict[str, Any]], list[list[int]] | None]:
    """The tensors that a traced program stores, and the order of their rows if not one by one.

    An operation of a batch is one tensor of all images, or one for each of them.
    """
    executions = {(e.name, e.iteration): e for e in model.executions()}
    entries: list[dict[str, Any]] = []
    numbers: dict[tuple[str, int, int], int] = {}
    order = []
    for iteration, action in unrolled(program):
        if action.opcode != Opcode.STORE or action.node is None:
            continue
        name, images = action.node.execution.name, action.images
        key = name, iteration, images.start
        if key not in numbers:
            numbers[key] = len(entries)
            entries.append(_trace_entry(executions[name, iteration], target, images))
        order.append([numbers[key], action.rows[1]])
    whole = [[number, entry["height"]] for number, entry in enumerate(entries)]
    return entries, None if order == whole else order


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
