# SPDX-License-Identifier: Apache-2.0
"""Cycles and bytes that an instruction will take: a model of the accelerator's pipeline.

The array works on a tile of weights while the next one is loaded, the partial sums of a pixel tile
are drained while the next pixel tile accumulates, and an instruction is fetched while the one
before executes. The constants are cycles of the hardware's state machines, measured with programs
that repeat one instruction. External memory answers after `MEMORY_LATENCY` cycles and then delivers
a beat each cycle, as that of the embedded device does.
"""

from __future__ import annotations

from typing import NamedTuple

from hiddenfold.gen import tiling
from hiddenfold.gen.graph import Node
from hiddenfold.gen.plan import ConvPlan, map_shape
from hiddenfold.gen.target import Target
from hiddenfold.gen.tiling import PixelTile, Stripe
from hiddenfold.hw import isa
from hiddenfold.sw.operations import Classifier, Unfold
from hiddenfold.sw.shapes import Execution, Shape

__all__ = ["Estimate", "MaskSupply", "execution_cost", "image_pitch", "store_cycles"]

#: Cycles from a read command to the first beat of data.
MEMORY_LATENCY = 40
#: Cycles of an instruction that does nothing, latency aside; most of it is the next one's fetch.
FETCH = 23
EMPTY = MEMORY_LATENCY + FETCH
#: Cycles of a run besides its instructions.
RUN = 8
#: Cycles from the command for a layer's masks to the first of them at the array, latency included.
#: They are saved when the masks are read ahead or come from the mask cache.
MASKS_COME = MEMORY_LATENCY + 13
#: Cycles from the end of an instruction to the first mask that the next one needs, if it is here.
DISPATCH = 12
#: Beats of masks that are read before they are needed.
MASK_FIFO = 256
#: Cycles from the last pixel of a pixel tile to the first of its drain, and between two drains.
DRAIN_TURN = 8
#: Cycles in which the place of a kernel tap in a pixel tile is computed.
RECTANGLE = 5
#: Cycles of CONV, IMAGE, POOL and STORE besides their pixels or words, latency aside.
CONV = 25
IMAGE = 27
POOL = 15
STORE = 6
#: Cycles of the read of an image's row besides its beats.
ROW_READ = 3.5
#: Cycles of a word in STORE besides its beats.
STORE_WORD = 3


class Estimate(NamedTuple):
    """What one execution of an operation takes.

    In the last `tail` cycles masks of the next instruction may be read.
    """

    cycles: int
    mask_bytes: int = 0
    affine_bytes: int = 0
    image_bytes: int = 0
    tail: int = 0

    @property
    def lead(self) -> int:
        """Cycles that a CONV which follows need not wait for its first masks."""
        # It must have been fetched, too.
        return max(0, min(MASKS_COME, self.tail + DISPATCH, self.cycles - EMPTY + DISPATCH))


class MaskSupply(NamedTuple):
    """How a layer's masks come: `stored` of 8 bits are in the program; it uses the mask cache.

    `repeated` in the second and later iterations of a loop, which find them there. `lead` is that
    of the instruction before.
    """

    stored: int = 8
    cached: bool = False
    repeated: bool = False
    lead: int = 0


def execution_cost(
    node: Node,
    target: Target,
    images: int = 1,
    supply: MaskSupply | None = None,
    stripe: Stripe | None = None,
) -> Estimate:
    """Estimate one execution of an operation, or of a stripe of it, on `images` images together."""
    execution = node.execution
    supply = supply or MaskSupply()
    result = map_shape(execution)
    stripe = stripe or Stripe(0, result.height, 0, execution.in_shape.height, 0)
    if node.copy:
        return _other(images * _pool_cycles(result, stripe.rows, target, 1))
    if execution.weight_shape is not None:
        plan = ConvPlan.make(execution, target, images, stripe)
        logits = isinstance(execution.op, Classifier)
        mask_bytes = _tile_count(plan) * target.tile_bits * supply.stored // 64
        if not supply.cached:
            mask_bytes *= len(plan.tiles)
        elif supply.repeated:
            mask_bytes = 0
        affine_bytes = 0 if logits else 8 * (2 + plan.blocks * target.rows)
        cycles, tail = _conv_cycles(plan, target, logits, mask_bytes, supply)
        cycles = _at_least_a_fetch(MEMORY_LATENCY + CONV + cycles)
        return Estimate(cycles, mask_bytes, affine_bytes, tail=tail)
    kernel = execution.op.kernel
    if isinstance(execution.op, Unfold):
        cycles = MEMORY_LATENCY + IMAGE + _image_cycles(execution, stripe, target, kernel)
        moved = images * stripe.in_rows * image_pitch(execution.in_shape.width)
        return Estimate(images * _at_least_a_fetch(cycles), image_bytes=moved)
    return _other(images * _pool_cycles(result, stripe.rows, target, kernel))


def _other(cycles: int) -> Estimate:
    """An operation that reads nothing."""
    return Estimate(cycles, tail=cycles)


def store_cycles(words: int, target: Target) -> int:
    """Cycles of a STORE."""
    beats = 8 * target.lanes // target.bus_bits
    return _at_least_a_fetch(STORE + words * (beats + STORE_WORD))


def image_pitch(width: int) -> int:
    """Bytes of a row of an image in external memory: whole 16-byte units (spec section 6)."""
    return -(-4 * width // 16) * 16


def _at_least_a_fetch(cycles: int) -> int:
    """The next instruction is fetched meanwhile, which takes its time, too."""
    return max(cycles, EMPTY)


def _tile_count(plan: ConvPlan) -> int:
    """Tiles of weights that all blocks of a layer have."""
    return plan.blocks * plan.shape.kernel**2 * plan.in_words


def _conv_cycles(
    plan: ConvPlan, target: Target, logits: bool, mask_bytes: int, supply: MaskSupply
) -> tuple[int, int]:
    """Cycles from the first mask on when it is not read ahead, and those after the last mask.

    There are two banks of partial sums: one accumulates while the other is drained.
    """
    load = target.rows // target.load_rows
    tiles = [(tile, _accumulate(plan, tile, load)) for tile in plan.tiles]
    # A block's masks and constants come over one bus.
    constants = 0 if logits else 64 * target.rows // target.bus_bits
    masks = 8 * mask_bytes // (plan.blocks * target.bus_bits)
    busy = sum(cycles for _, cycles in tiles)
    bus_stall = max(0, masks + constants - busy)
    if supply.cached:
        # All that a block needs is read during its first pixel tile, and some of it before.
        bus_stall = max(bus_stall, masks + constants - tiles[0][1] - MASK_FIFO)
    lead = MASKS_COME if supply.cached and supply.repeated else supply.lead
    summed = load - lead if lead else constants + load  # when the array is free
    free = [summed, summed]  # when each bank is
    drained = constants
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
    last = tiling.rectangles(plan.shape, tile.first_row, tile.rows)[-1]
    return drained, drained - summed + plan.passes * tile.images * last.pixels


def _accumulate(plan: ConvPlan, tile: PixelTile, supply: int) -> int:
    """Cycles in which the array works on a pixel tile."""
    pause = isa.PIXEL_SPACING if plan.gap else 0
    cycles = 0
    for box in tiling.rectangles(plan.shape, tile.first_row, tile.rows):
        busy = plan.passes * (max(1, tile.images * box.pixels) + pause)
        cycles += max(plan.in_words * max(busy, supply), RECTANGLE)
    return cycles


def _image_cycles(execution: Execution, stripe: Stripe, target: Target, kernel: int) -> int:
    """The image is scanned with its padding; an output pixel takes a cycle for each word.

    Each row is a read of its own, which takes longer only where rows are a few pixels.
    """
    width = execution.in_shape.width
    edge = kernel // 2
    words = -(-execution.out_shape.channels // target.lanes)
    made = stripe.rows * execution.out_shape.width * (words - 1)
    beats = image_pitch(width) * 8 // target.bus_bits
    read = round(stripe.in_rows * (beats + ROW_READ))
    return max((stripe.in_rows + edge) * (width + edge) + made, read)


def _pool_cycles(result: Shape, rows: int, target: Target, kernel: int) -> int:
    """A tap of a word takes a cycle, whether it is in the tensor or not."""
    words = -(-result.channels // target.lanes)
    return _at_least_a_fetch(POOL + rows + rows * result.width * words * kernel**2)
