# SPDX-License-Identifier: Apache-2.0
"""When the parts of a convolution work: a model of `hw/conv.py`, tile of weights by tile.

A tile of weights is loaded while the array works on the one before, and the sums of a pixel tile
are drained while the next one accumulates. Masks come over the bus or from the mask cache. Times
are clock cycles since the start of the run; constants are those of the hardware's state machines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from hiddenfold.gen import tiling
from hiddenfold.gen.bus import AFFINE, ARRIVE, HALF_AFFINE, MASKS, Bus
from hiddenfold.gen.output import Output
from hiddenfold.gen.plan import ConvPlan
from hiddenfold.gen.target import Target
from hiddenfold.gen.tiling import Geometry, PixelTile
from hiddenfold.hw import isa

__all__ = ["ConvRun", "MaskSupply", "Window", "shared"]

#: Cycles from the start of CONV to the first rectangle of pixels at the array, and those in which a
#: rectangle is computed.
_FIRST_RECTANGLE = 9
_RECTANGLE = 8
#: Cycles from the last pixel of a pixel tile to the first of its drain.
_TO_DRAIN = 11
#: Cycles from a pixel of the drain to its write, and from the last pixel of a block to the next
#: block, to the first beat of its logits, to the end of the instruction.
_WRITE = 6
_FLUSH = _WRITE + 2
#: Cycles of the way through the mask cache, and through the joiner of narrow words.
_CACHE = 2
_JOIN = 1


@dataclass(frozen=True)
class MaskSupply:
    """How a layer's masks come: `stored` of 8 bits are in memory; it uses the mask cache.

    `repeated` in the second and later iterations of a loop, which find them there.
    """

    stored: int = 8
    cached: bool = False
    repeated: bool = False

    def parts(self, plan: ConvPlan) -> int:
        """How often the masks of a block are read from memory, in all blocks."""
        if not self.cached:
            return plan.blocks * len(plan.tiles)
        return 0 if self.repeated else plan.blocks

    def part_bits(self, plan: ConvPlan, target: Target) -> int:
        """Bits of a block's masks in memory."""
        return plan.shape.kernel**2 * plan.in_words * target.tile_bits * self.stored // 8


@dataclass
class Window:
    """The time in which the array works on a pixel tile, `start` to `end`.

    It reads `reads` words between the addresses `low` and `high`. `sums` are the pixels that wait
    for the drain when it ends, whose residuals lie between `res_low` and `res_high`.
    """

    start: int
    low: int
    high: int
    sums: int
    res_low: int = 0
    res_high: int = 0
    end: int = 0
    reads: int = 0

    def duty(self) -> float:
        """Share of the cycles in which the array reads."""
        return min(1.0, self.reads / max(1, self.end - self.start))


#: Called with a pixel tile's time and the cycles in which the one before it was drained.
Watch = Callable[[Window, tuple[int, int]], None]


@dataclass
class ConvRun:
    """What a CONV takes that starts in cycle `start`.

    `first_beat` and `first_constant` are the numbers of the first beats of its masks and constants.
    `res` is the residual's address, if it has one. After `run`, `end` is the cycle in which it is
    done, `masks_taken` that in which its last mask was used; the others are the hardware's
    counters.
    """

    plan: ConvPlan
    target: Target
    bus: Bus
    output: Output
    supply: MaskSupply
    start: int
    first_beat: int
    first_constant: int
    logits: bool = False
    src: int = 0
    res: int | None = None
    end: int = 0
    masks_taken: int = 0
    array_cycles: int = 0
    tile_stalls: int = 0
    drain_stalls: int = 0

    def run(self, watch: Watch) -> None:
        """Go through all pixel tiles."""
        plan = self.plan
        masks, drain = _Masks(self), _Drain(self)
        load = self.target.rows // self.target.load_rows
        pause = isa.PIXEL_SPACING if plan.gap else 0
        free = self.start  # when the array can begin another pass
        rectangle = self.start + _FIRST_RECTANGLE  # when the next one is there
        swap = self.start  # when the last tile of weights was taken
        banks = [0, 0]  # when the two banks of sums are free
        before: Window | None = None
        for _ in range(plan.blocks):
            for number, tile in enumerate(plan.tiles):
                masks.part(kept=self.supply.cached and (self.supply.repeated or number > 0))
                window = self._window(tile, free)
                first = True
                for pixels in _pixels(plan.shape, tile):
                    busy = plan.passes * (max(1, pixels) + pause)
                    reads = plan.passes * pixels * plan.in_words
                    window.reads += reads
                    step = max(busy, load)
                    left = plan.in_words
                    at = max(free, rectangle)
                    while left:
                        count, full = masks.next(left, swap, load)
                        if first:
                            self.drain_stalls += max(0, banks[0] - at)
                            at = max(at, banks.pop(0))
                            window.start = at
                            first = False
                        self.tile_stalls += max(0, full - at) + (count - 1) * (step - busy)
                        swap = max(at, full) + (count - 1) * step
                        self.masks_taken = full if count == 1 else swap - step + load
                        masks.take(count, swap)
                        left -= count
                        at = free = swap + busy
                    rectangle = max(rectangle + _RECTANGLE, free - busy // plan.passes + 1)
                self.array_cycles += window.reads
                window.end = free - pause
                if before is not None:
                    banks.append(drain.tile(before, window))
                    watch(before, drain.span)
                before = window
        assert before is not None, "a convolution has a pixel tile"
        drain.tile(before, None)
        watch(before, drain.span)
        self.end = drain.end

    def _window(self, tile: PixelTile, start: int) -> Window:
        """The words that a pixel tile is computed from."""
        shape, words = self.plan.shape, self.plan.in_words
        row = shape.stride * tile.rows * tile.images
        low = self.src + tile.first_row * shape.stride * shape.in_w * words
        pixels = tile.images * tile.rows * shape.out_w
        window = Window(start, low, low + row * shape.in_w * words, pixels)
        if self.res is not None:
            out_words = -(-self.plan.blocks * self.target.rows // self.target.lanes)
            window.res_low = self.res + tile.first_row * shape.out_w * out_words
            window.res_high = window.res_low + pixels * out_words
        return window


class _Masks:
    """When tiles of weights are complete."""

    def __init__(self, conv: ConvRun) -> None:
        target, supply = conv.target, conv.supply
        self._bus = conv.bus
        self._kept = False
        self._tile_bits = target.tile_bits * supply.stored // 8
        self._word_bits = target.mask_bits
        self._beats = target.mask_bits // target.bus_bits
        # Groups of rows whose masks are in one word, minus the one that is made at once.
        step_bits = target.load_rows * target.lanes * supply.stored // 8
        self._rest = max(1, target.mask_bits // step_bits) - 1
        cache = _CACHE if target.mask_cache else 0
        self._lag = ARRIVE + cache + (_JOIN if self._beats > 1 else 0)
        self._bus_bits = target.bus_bits
        self._begin = conv.start + 1 + cache
        self._base = conv.first_beat
        self._tile = 0  # tiles taken from the bus
        conv.bus.ports[MASKS].take(conv.first_beat, conv.start)

    def part(self, kept: bool) -> None:
        """Go to a block's next pixel tile."""
        self._kept = kept

    def _beat(self, bit: int) -> int:
        """The beat that completes the word with a bit of the stream."""
        return self._base + (bit // self._word_bits + 1) * self._beats - 1

    def next(self, most: int, swap: int, load: int) -> tuple[int, int]:
        """When the next tile of weights is complete, and how many tiles will have no more to wait.

        It can be loaded from cycle `swap` on, in `load` cycles.
        """
        begin = max(self._begin, swap + 1)
        if self._kept:
            return most, begin + load - 1
        first = self._bus.arrival(MASKS, self._beat(self._tile * self._tile_bits)) + self._lag
        bits = (self._tile + 1) * self._tile_bits
        last = self._bus.arrival(MASKS, self._beat(bits - 1)) + self._lag
        full = max(max(begin, first) + load - 1, last + self._rest)
        if most == 1:
            return 1, full
        self._bus.run(full)
        beats = self._bus.arrived(MASKS, full - self._lag) - self._base
        here = beats * self._bus_bits // self._tile_bits - self._tile
        return max(1, min(most, here)), full

    def take(self, count: int, cycle: int) -> None:
        """Tiles were taken, the last one in a cycle."""
        if not self._kept:
            self._tile += count
            bits = self._tile * self._tile_bits
            self._bus.ports[MASKS].take(self._base + bits // self._bus_bits, cycle)


class _Drain:
    """When the sums of pixel tiles are read out."""

    def __init__(self, conv: ConvRun) -> None:
        self._conv = conv
        self._bank_words = conv.target.act_bank_words
        #: Cycles that a pixel takes.
        self._parts = conv.target.rows // (conv.target.drain_rows or conv.target.rows)
        self._port = conv.bus.ports[AFFINE]
        self._words = conv.target.bus_bits // 64
        self._tile = 0
        self._block = 0
        self._first = conv.first_constant
        #: Beats of an image's logits of a block.
        self._beats = conv.target.rows * 32 // conv.target.bus_bits
        self._entries_from = conv.start + 1
        self._free = self._constants(conv.start + 1)
        #: Cycles of the last pixel tile's drain.
        self.span = (0, 0)
        self.end = 0

    def _constants(self, cycle: int) -> int:
        """When a block's drain can begin that waits for its constants from a cycle on."""
        conv = self._conv
        if conv.logits:
            return cycle + 1
        rows = conv.target.rows
        word = 1 + rows * (self._block + 1)
        first = self._first + (word - rows + 1) // self._words
        begin = max(self._entries_from, conv.bus.arrival(AFFINE, first) + ARRIVE)
        beat = self._first + word // self._words
        # More beats than the FIFO holds are asked for as room is made.
        for part in range(first + HALF_AFFINE, beat, HALF_AFFINE):
            entries = (part - first) * self._words
            self._port.take(part + 1, max(begin + entries, conv.bus.arrival(AFFINE, part) + ARRIVE))
        taken = max(begin + rows - 1, conv.bus.arrival(AFFINE, beat) + ARRIVE)
        self._port.take(beat + 1, taken)
        full = taken + 1 + (self._block == conv.plan.blocks - 1)
        cycle = max(cycle, full)
        self._entries_from = cycle + 1
        return cycle + 1

    def tile(self, window: Window, beside: Window | None) -> int:
        """Drain a pixel tile beside the next one; return when its bank is free."""
        conv, plan = self._conv, self._conv.plan
        tile = plan.tiles[self._tile]
        begin = max(window.end + _TO_DRAIN, self._free)
        self._tile += 1
        last = self._tile == len(plan.tiles)
        if conv.logits:
            end = self._logits(tile, begin)
        else:
            end = self._pixels(window, beside, begin)
        self.span = (begin + _WRITE, end + _WRITE)
        # A drain pauses for a cycle between pixel tiles.
        self._free = end + 1
        if last:
            self._tile = 0
            self._block += 1
            self.end = end - 1 + _FLUSH
            if conv.logits:
                self.end = self._send(self.end)
            if self._block < plan.blocks:
                self._free = self._constants(self.end)
        return end

    def _pixels(self, window: Window, beside: Window | None, begin: int) -> int:
        """When all pixels are read whose drain begins in a cycle.

        Residuals are not read while the array reads the same bank.
        """
        left = window.sums * self._parts
        if beside is None or self._conv.res is None:
            return begin + left
        share = shared(
            (window.res_low, window.res_high), (beside.low, beside.high), self._bank_words
        )
        alone = max(0, min(left, beside.start - begin))
        begin, left = begin + alone, left - alone
        rate = 1 - share * beside.duty()
        if begin >= beside.end or left <= rate * (beside.end - begin):
            return begin + (left if begin >= beside.end else round(left / rate))
        return beside.end + round(left - rate * (beside.end - begin))

    def _logits(self, tile: PixelTile, begin: int) -> int:
        """When the logits of all images in a pixel tile have been sent."""
        conv = self._conv
        parts = isa.logit_parts(conv.target.rows, conv.target.bus_bits)
        pixels = parts * tile.rows * conv.plan.shape.out_w
        if tile.first_row + tile.rows < conv.plan.shape.out_h:
            return begin + tile.images * pixels
        end = begin + pixels
        for _ in range(tile.images - 1):
            end = self._send(end + _FLUSH - 1) + pixels
        return end

    def _send(self, cycle: int) -> int:
        """When a block's logits of an image are in the FIFO of the output."""
        return max(cycle + self._beats, self._conv.output.send(cycle, self._beats))


def shared(words: tuple[int, int], others: tuple[int, int], bank_words: int) -> float:
    """The share of `others` that lies in the banks of `words` (both: first word, and last + 1)."""
    low, high = words[0] // bank_words * bank_words, -(-words[1] // bank_words) * bank_words
    common = min(high, others[1]) - max(low, others[0])
    return max(0, common) / max(1, others[1] - others[0])


@lru_cache(maxsize=4096)
def _pixels(shape: Geometry, tile: PixelTile) -> tuple[int, ...]:
    """Pixels of each tap of a pixel tile."""
    return tuple(
        tile.images * box.pixels for box in tiling.rectangles(shape, tile.first_row, tile.rows)
    )
