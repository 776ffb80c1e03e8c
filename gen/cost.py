# SPDX-License-Identifier: Apache-2.0
"""Cycles and bytes that an image will take: a model of the accelerator's pipeline.

The array works on a tile of weights while the next one is loaded, and the partial sums of a pixel
tile are drained while the next pixel tile accumulates. The constants are cycles of the hardware's
state machines; external memory is taken to answer after `MEMORY_LATENCY` cycles and then to deliver
a beat each cycle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hiddenfold.gen import tiling
from hiddenfold.gen.graph import Node
from hiddenfold.gen.plan import ConvPlan, map_shape
from hiddenfold.gen.target import Target
from hiddenfold.hw import isa
from hiddenfold.sw.operations import Classifier
from hiddenfold.sw.shapes import Execution

__all__ = ["Estimate", "Overhead", "execution_cost", "image_bytes", "overhead"]

#: Cycles from a read command to the first beat of data.
MEMORY_LATENCY = 16
#: Cycles from the start of an instruction's fetch to the start of its execution, latency aside.
DECODE = 12
#: Cycles in which the loader of weight tiles waits between two tiles.
TILE_TURN = 3
#: Cycles from the last pixel of a pixel tile to the first of its drain.
DRAIN_START = 8
#: Cycles from the last drained pixel of a block to the first of the next block.
DRAIN_TURN = 10


class Estimate(NamedTuple):
    """What one execution of an operation takes, its instruction fetch included in `cycles`."""

    cycles: int
    mask_bytes: int = 0
    affine_bytes: int = 0


class Overhead(NamedTuple):
    """What an image takes besides its operations."""

    cycles: int
    bytes_read: int


def execution_cost(execution: Execution, target: Target) -> Estimate:
    """Estimate one execution of an operation."""
    start = fetch_cycles(target)
    if execution.weight_shape is not None:
        plan = ConvPlan.make(execution, target)
        logits = isinstance(execution.op, Classifier)
        tile_bytes = target.tile_bits // 8
        mask_bytes = tile_bytes * plan.blocks * len(plan.tiles) * plan.shape.kernel**2
        affine_bytes = 0 if logits else 8 * (2 + plan.blocks * target.rows)
        cycles = start + _conv_cycles(plan, target, logits)
        return Estimate(cycles, mask_bytes * plan.in_words, affine_bytes)
    shape = map_shape(execution)
    words = -(-shape.channels // target.lanes)
    if execution.kind == "unfold":
        return Estimate(start + _image_cycles(execution, target))
    return Estimate(start + _pool_cycles(shape.height, shape.width, words, execution.op.kernel))


def overhead(nodes: Sequence[Node], trace: bool, target: Target) -> Overhead:
    """Estimate loops, traces, copies, BEGIN and END; the bytes are those of all instructions."""
    cycles = 2 * fetch_cycles(target)
    fetched = 2
    times = 1
    for node in nodes:
        if node.loop_start:
            times = node.loop_count
            fetched += 1
            cycles += fetch_cycles(target)
        fetched += times
        shape = map_shape(node.execution)
        words = -(-shape.channels // target.lanes)
        if node.copy:
            pool = _pool_cycles(shape.height, shape.width, words, 1)
            cycles += times * (fetch_cycles(target) + pool)
        elif trace and not isinstance(node.execution.op, Classifier):
            beats = shape.height * shape.width * words * 8 * target.lanes // target.bus_bits
            cycles += times * (fetch_cycles(target) + MEMORY_LATENCY + beats)
            fetched += times
        if node.loop_end:
            fetched += times
            cycles += times * fetch_cycles(target)
            times = 1
    return Overhead(cycles, fetched * isa.BYTES)


def image_bytes(image: tuple[int, int]) -> int:
    """Bytes of one image in external memory: rows of whole 16-byte units (spec section 6)."""
    return image[0] * -(-4 * image[1] // 16) * 16


def fetch_cycles(target: Target) -> int:
    """Cycles to fetch and decode an instruction."""
    return MEMORY_LATENCY + DECODE + 8 * isa.BYTES // target.bus_bits


def _conv_cycles(plan: ConvPlan, target: Target, logits: bool) -> int:
    """Two banks of partial sums: one accumulates while the other is drained."""
    supply = target.rows + TILE_TURN
    tiles = [_accumulate(plan, first, rows, supply) for first, rows in plan.tiles]
    summed = MEMORY_LATENCY + supply  # when the array is free
    free = [0, 0]  # when each bank is
    drained = 0
    bank = 0
    for _ in range(plan.blocks):
        for cycles, pixels in tiles:
            summed = max(summed, free[bank]) + cycles
            drained = max(drained, summed + DRAIN_START) + pixels
            free[bank] = drained
            bank ^= 1
        drained += DRAIN_TURN + (target.rows * 32 // target.bus_bits if logits else 0)
    return drained


def _accumulate(plan: ConvPlan, first: int, rows: int, supply: int) -> tuple[int, int]:
    """Cycles in which the array works on a pixel tile, and its pixels."""
    pause = isa.PIXEL_SPACING if plan.gap else 0
    cycles = 0
    for box in tiling.rectangles(plan.shape, first, rows):
        busy = plan.passes * (max(1, box.pixels) + pause)
        cycles += plan.in_words * max(busy, supply)
    return cycles, rows * plan.shape.out_w


def _image_cycles(execution: Execution, target: Target) -> int:
    """Windows are made at the rate of a word a cycle, or of the pixels that come in."""
    words = -(-execution.out_shape.channels // target.lanes)
    made = execution.out_shape.height * execution.out_shape.width * words
    read = 8 * image_bytes(execution.in_shape[:2]) // target.bus_bits
    return MEMORY_LATENCY + max(made, read)


def _pool_cycles(height: int, width: int, words: int, kernel: int) -> int:
    """A word of the window is read each cycle."""
    return height * width * words * kernel**2
