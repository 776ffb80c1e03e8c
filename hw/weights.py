# SPDX-License-Identifier: Apache-2.0
"""Weight generator: LFSR signs merged with the mask stream into tiles of ternary codes."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hiddenfold.hw import lfsr
from hiddenfold.hw.loops import LOOP_BOUNDS, TileCounter
from hiddenfold.hw.signature import Signature, leap


class TileLoader(wiring.Component):
    """Makes one row of ``lanes`` (mask, negative) codes a cycle, tile after tile.

    The state of each row's stream lives in a small RAM and moves one leap per 64 channels. Row
    start states are made on the fly: the first tile of a block walks a chain of jumps by
    ``lfsr.CHANNEL_JUMP``, so no seed table exists (docs/spec.md sections 1.2, 1.3, 6).

    Parameters
    ----------
    rows, lanes, bus_bits
        Shape of the array, width of a mask beat. ``rows * lanes`` is a multiple of ``bus_bits``.

    Members
    -------
    start
        Begin a layer; ``seed`` and the loop bounds must be valid from this cycle to the end.
    i
        Beats of the mask stream.
    full
        The array's shadow tile is in use: the loader holds before the first row of the next.
    load, row, mask, negative
        A row for the shadow tile. ``negative`` is a subset of ``mask``.
    loaded
        The last row of a tile is being written in this cycle.
    done
        High from the end of the layer to the next ``start``.
    check_value
        Signature of the beats taken since ``start``; final when ``done``.
    """

    def __init__(self, *, rows: int, lanes: int, bus_bits: int):
        self._rows = rows
        self._lanes = lanes
        super().__init__(
            {
                **LOOP_BOUNDS,
                "start": In(1),
                "seed": In(64),
                "kernel": In(4),
                "in_words": In(16),
                "i": In(stream.Signature(bus_bits)),
                "full": In(1),
                "load": Out(1),
                "row": Out(range(rows)),
                "mask": Out(lanes),
                "negative": Out(lanes),
                "loaded": Out(1),
                "done": Out(1, init=1),
                "check_value": Out(64),
            }
        )

    def elaborate(self, platform):
        m = Module()
        rows, lanes = self._rows, self._lanes
        m.submodules.tiles = tiles = TileCounter()
        tiles.connect_bounds(m, self)
        m.submodules.check = check = Signature(words=len(self.i.payload) // 64)
        m.submodules.states = states = memory.Memory(shape=64, depth=rows, init=[])
        state_read = states.read_port(domain="comb")
        state_write = states.write_port()

        # Position: tap and lane word inside the tile loop, row inside the tile.
        tap = Signal(6)
        last_tap = Signal(6)
        word = Signal(16)
        row = Signal(range(rows))
        last_word = Signal()
        last_row = Signal()
        m.d.comb += [
            tiles.start.eq(self.start),
            last_word.eq(word == self.in_words - 1),
            last_row.eq(row == rows - 1),
            check.clear.eq(self.start),
            self.check_value.eq(check.value),
        ]
        m.d.sync += last_tap.eq(self.kernel * self.kernel - 1)

        # Mask rows: a beat holds one or more rows, lowest bits first.
        per_beat = len(self.i.payload) // lanes
        part = Signal(range(per_beat))
        mask = Signal(lanes)
        take = Signal()
        m.d.comb += [
            mask.eq(self.i.payload.word_select(part, lanes)),
            take.eq(~self.done & ~(self.full & (row == 0)) & self.i.valid),
            self.i.ready.eq(take & (part == per_beat - 1)),
            check.data.eq(self.i.payload),
            check.en.eq(self.i.ready),
        ]

        # Row state: chained jumps in the first tile of a block, else the RAM.
        chain = Signal(64)
        block_start = Signal(64)
        first = Signal()
        state = Signal(64)
        jumped = Signal(64)
        m.d.comb += [
            first.eq((tap == 0) & (word == 0)),
            state_read.addr.eq(row),
            state.eq(Mux(first, chain, state_read.data)),
            jumped.eq(Cat(*((chain & line).xor() for line in lfsr.jump_matrix(lfsr.CHANNEL_JUMP)))),
        ]
        # A 64-bit sign word serves 64 // lanes lane words; step after the last one used.
        share = exact_log2(64 // lanes)
        step_state = Signal()
        m.d.comb += [
            step_state.eq(last_word | (word[:share] == (1 << share) - 1) if share else 1),
            state_write.addr.eq(row),
            state_write.data.eq(Mux(step_state, leap(state), state)),
            state_write.en.eq(take),
        ]
        signs = state.word_select(word[:share], lanes) if share else state
        m.d.sync += [
            self.load.eq(take),
            self.row.eq(row),
            self.mask.eq(mask),
            self.negative.eq(mask & signs),
            self.loaded.eq(take & last_row),
        ]

        with m.If(self.start):
            m.d.sync += [
                self.done.eq(0),
                tap.eq(0),
                word.eq(0),
                row.eq(0),
                part.eq(0),
                chain.eq(self.seed),
                block_start.eq(self.seed),
            ]
        with m.Elif(take):
            m.d.sync += [row.eq(row + 1), part.eq(part + 1 if per_beat > 1 else 0)]
            with m.If(first):
                m.d.sync += chain.eq(jumped)
            with m.If(last_row):
                m.d.sync += [row.eq(0), word.eq(word + 1)]
                with m.If(last_word):
                    m.d.sync += [word.eq(0), tap.eq(tap + 1)]
                    with m.If(tap == last_tap):
                        m.d.comb += tiles.step.eq(1)
                        m.d.sync += tap.eq(0)
                        # The next pixel tile of this block replays its streams.
                        following = Signal(64)
                        m.d.comb += following.eq(Mux(first, jumped, chain))
                        with m.If(tiles.last_tile):
                            m.d.sync += [block_start.eq(following), chain.eq(following)]
                        with m.Else():
                            m.d.sync += chain.eq(block_start)
                        with m.If(tiles.last):
                            m.d.sync += self.done.eq(1)
        return m
