# SPDX-License-Identifier: Apache-2.0
"""Cycles and bytes that an image will take: a model of the accelerator's pipeline.

The array works on a tile of weights while the next one is loaded, the partial sums of a pixel tile
are drained while the next pixel tile accumulates, and an instruction is fetched while the one
before executes. The constants are cycles of the hardware's state machines, measured with programs
that repeat one instruction. External memory answers after `MEMORY_LATENCY` cycles and then delivers
a beat each cycle, as that of the embedded device does.
"""

from __future__ import annotations

from typing import NamedTuple

from hiddenfold.gen import tiling
from hiddenfold.gen.plan import ConvPlan, map_shape
from hiddenfold.gen.schedule import Schedule
from hiddenfold.gen.target import Target
from hiddenfold.gen.tiling import PixelTile
from hiddenfold.hw import isa
from hiddenfold.sw.operations import Classifier, Unfold
from hiddenfold.sw.shapes import Execution

__all__ = ["Estimate", "MaskSupply", "Overhead", "execution_cost", "image_bytes", "overhead"]

#: Cycles from a read command to the first beat of data.
MEMORY_LATENCY = 40
#: Cycles of an instruction that does nothing, latency aside; most of it is the next one's fetch.
FETCH = 23
#: Cycles of a run besides its instructions.
RUN = 8
#: Beats of masks that are read before they are needed.
MASK_FIFO = 256
#: Cycles from the last pixel of a pixel tile to the first of its drain, and between two drains.
DRAIN_TURN = 8
#: Cycles in which the place of a kernel tap in a pixel tile is computed.
RECTANGLE = 5
#: Cycles of CONV, IMAGE, POOL and STORE besides their pixels or words, latency aside.
CONV = 26
IMAGE = 27
POOL = 15
STORE = 6
#: Cycles of a word in STORE besides its beats.
STORE_WORD = 3


class Estimate(NamedTuple):
    """What one execution of an operation takes."""

    cycles: int
    mask_bytes: int = 0
    affine_bytes: int = 0


class MaskSupply(NamedTuple):
    """How a layer's masks come: `stored` of 8 bits are in the program; it uses the mask cache."""

    stored: int = 8
    cached: bool = False


_FROM_MEMORY = MaskSupply()


class Overhead(NamedTuple):
    """What a batch takes besides its operations."""

    cycles: int
    bytes_read: int


def execution_cost(
    execution: Execution, target: Target, images: int = 1, supply: MaskSupply = _FROM_MEMORY
) -> Estimate:
    """Estimate one execution of an operation on `images` images together."""
    if execution.weight_shape is not None:
        plan = ConvPlan.make(execution, target, images)
        logits = isinstance(execution.op, Classifier)
        mask_bytes = _tile_count(plan) * target.tile_bits * supply.stored // 64
        if not supply.cached:
            mask_bytes *= len(plan.tiles)
        elif execution.iteration:
            mask_bytes = 0
        affine_bytes = 0 if logits else 8 * (2 + plan.blocks * target.rows)
        cycles = (
            MEMORY_LATENCY + CONV + _conv_cycles(plan, target, logits, mask_bytes, supply.cached)
        )
        return Estimate(_at_least_a_fetch(cycles), mask_bytes, affine_bytes)
    kernel = 1 if isinstance(execution.op, Classifier) else execution.op.kernel
    if isinstance(execution.op, Unfold):
        cycles = MEMORY_LATENCY + IMAGE + _image_cycles(execution, target, kernel)
        return Estimate(images * _at_least_a_fetch(cycles))
    return Estimate(images * _pool_cycles(execution, target, kernel))


def overhead(schedule: Schedule, trace: bool, target: Target) -> Overhead:
    """Estimate loops, traces, copies, BEGIN and END; the bytes are those of all instructions."""
    empty = MEMORY_LATENCY + FETCH
    cycles = RUN + 2 * empty
    fetched = 2
    times = 1
    for node, runs in schedule.parts():
        images = sum(map(len, runs))
        if node.loop_start:
            times = node.loop_count
            fetched += 1
            cycles += empty
        fetched += times * len(runs)
        if node.copy:
            cycles += times * len(runs) * _pool_cycles(node.execution, target, 1)
        elif trace and node.traced:
            shape = map_shape(node.execution)
            words = images * shape.height * shape.width * -(-shape.channels // target.lanes)
            beats = 8 * target.lanes // target.bus_bits
            cycles += times * _at_least_a_fetch(STORE + words * (beats + STORE_WORD))
            fetched += times
        if node.loop_end:
            fetched += times
            cycles += times * empty
            times = 1
    return Overhead(cycles, fetched * isa.BYTES)


def image_bytes(image: tuple[int, int]) -> int:
    """Bytes of one image in external memory: rows of whole 16-byte units (spec section 6)."""
    return image[0] * -(-4 * image[1] // 16) * 16


def _at_least_a_fetch(cycles: int) -> int:
    """The next instruction is fetched meanwhile, which takes its time, too."""
    return max(cycles, MEMORY_LATENCY + FETCH)


def _tile_count(plan: ConvPlan) -> int:
    """Tiles of weights that all blocks of a layer have."""
    return plan.blocks * plan.shape.kernel**2 * plan.in_words


def _conv_cycles(
    plan: ConvPlan, target: Target, logits: bool, mask_bytes: int, cached: bool
) -> int:
    """Two banks of partial sums: one accumulates while the other is drained."""
    supply = target.rows // target.load_rows
    tiles = [(tile, _accumulate(plan, tile, supply)) for tile in plan.tiles]
    # A block's masks and constants come over one bus.
    constants = 0 if logits else 64 * target.rows // target.bus_bits
    masks = 8 * mask_bytes // (plan.blocks * target.bus_bits)
    busy = sum(cycles for _, cycles in tiles)
    bus_stall = max(0, masks + constants - busy)
    if cached:
        # All that a block needs is read during its first pixel tile, and some of it before.
        bus_stall = max(bus_stall, masks + constants - tiles[0][1] - MASK_FIFO)
    summed = constants + supply  # when the array is free
    free = [0, 0]  # when each bank is
    drained = 0
    bank = 0
    for _ in range(plan.blocks):
        summed += bus_stall
        for tile, cycles in tiles:
            summed = max(summed, free[bank]) + cycles
            drained = max(drained, summed) + DRAIN_TURN
            drained += tile.images * tile.rows * plan.shape.out_w
            if logits and tile.first_row + tile.rows == plan.shape.out_h:
                # The logits of each image are sent before the next one's are summed up.
                drained += tile.images * target.rows * 32 // target.bus_bits
                drained += (tile.images - 1) * DRAIN_TURN
            free[bank] = drained
            bank ^= 1
    return drained


def _accumulate(plan: ConvPlan, tile: PixelTile, supply: int) -> int:
    """Cycles in which the array works on a pixel tile."""
    pause = isa.PIXEL_SPACING if plan.gap else 0
    cycles = 0
    for box in tiling.rectangles(plan.shape, tile.first_row, tile.rows):
        busy = plan.passes * (max(1, tile.images * box.pixels) + pause)
        cycles += max(plan.in_words * max(busy, supply), RECTANGLE)
    return cycles


def _image_cycles(execution: Execution, target: Target, kernel: int) -> int:
    """The image is scanned with its padding; an output pixel takes a cycle for each word."""
    height, width, _ = execution.in_shape
    edge = kernel // 2
    words = -(-execution.out_shape.channels // target.lanes)
    made = execution.out_shape.height * execution.out_shape.width * (words - 1)
    return (height + edge) * (width + edge) + made


def _pool_cycles(execution: Execution, target: Target, kernel: int) -> int:
    """A tap of a word takes a cycle, whether it is in the tensor or not."""
    height, width, channels = map_shape(execution)
    words = -(-channels // target.lanes)
    return _at_least_a_fetch(POOL + height + height * width * words * kernel**2)
