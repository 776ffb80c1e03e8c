# SPDX-License-Identifier: Apache-2.0
"""Weight generator: LFSR signs merged with the mask stream into tiles of ternary codes."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hiddenfold.hw import isa, lfsr
from hiddenfold.hw.expand import FREE_VALUES, GROUP, Expander
from hiddenfold.hw.loops import LOOP_BOUNDS, TileCounter
from hiddenfold.hw.signature import Signature, leap

#: Inputs of a look-up table.
_SHARED = 4


def _product(lines: list[int], vector: Signal) -> Value:
    """Return the product of a matrix over GF(2), given by its lines, and a vector.

    Lines that take the same of four neighbouring bits share a look-up table.
    """
    parts: dict[tuple[int, int], Value] = {}
    result = []
    for line in lines:
        terms = []
        for start in range(0, len(vector), _SHARED):
            chosen = line >> start & (1 << _SHARED) - 1
            if chosen and (start, chosen) not in parts:
                parts[start, chosen] = (vector[start : start + _SHARED] & chosen).xor()
            if chosen:
                terms.append(parts[start, chosen])
        result.append(Cat(terms).xor())
    return Cat(result)


class TileLoader(wiring.Component):
    """Makes ``load_rows`` rows of ``lanes`` (mask, negative) codes a cycle, tile after tile.

    The state of each row's stream lives in a small RAM and moves one leap per 64 channels, two with
    ``frozen``: the state is then the sign word, the next one the freeze word. Row
    start states are made on the fly: the first tile of a block walks a chain of jumps by
    ``lfsr.CHANNEL_JUMP``, so no seed table exists (docs/spec.md sections 1.2, 1.3, 6).

    Rows leave two cycles after their masks were taken, which is what a swap needs: a tile that is
    taken from the cycle of ``release`` on is written from the cycle of its swap on, and the next
    tile can start when the last masks of this one are taken.

    Parameters
    ----------
    rows, lanes, load_rows
        Shape of the array; rows made a cycle.
    mask_bits
        Width of a mask word. It is a multiple of ``load_rows * lanes``, and a
        block's part of the stream is a multiple of it.

    Members
    -------
    start
        Begin a layer; ``seed`` and the loop bounds must be valid from this cycle to the end.
    frozen, free
        Two generator words per position; ``8 >> free`` of 8 mask bits are in the stream, the others
        come from the freeze word (docs/spec.md section 2.1).
    i
        Words of the mask stream.
    release
        First slot of a tile: the shadow tile is taken.
    full
        The array's shadow tile is complete, or will be before a slot that is prepared in this
        cycle needs it. Low in the cycle of ``release``.
    load, group, mask, negative
        Rows for the shadow tile, see ``MaskedArray``. ``negative`` is a subset of ``mask``.
    done
        High from the end of the layer to the next ``start``.
    check_value
        Signature of the words taken since ``start``; final when ``done``.
    """

    def __init__(self, *, rows: int, lanes: int, load_rows: int, mask_bits: int):
        self._groups = rows // load_rows
        self._lanes = lanes
        self._load_rows = load_rows
        super().__init__(
            {
                **LOOP_BOUNDS,
                "start": In(1),
                "seed": In(64),
                "frozen": In(1),
                "free": In(range(FREE_VALUES)),
                "kernel": In(4),
                "in_words": In(isa.WORD_BITS),
                "i": In(stream.Signature(mask_bits)),
                "release": In(1),
                "full": Out(1),
                "load": Out(1),
                "group": Out(range(self._groups)),
                "mask": Out(lanes * load_rows),
                "negative": Out(lanes * load_rows),
                "done": Out(1, init=1),
                "check_value": Out(64),
            }
        )

    def elaborate(self, platform):
        m = Module()
        lanes, load_rows = self._lanes, self._load_rows
        width = load_rows * lanes
        m.submodules.tiles = tiles = TileCounter()
        tiles.connect_bounds(m, self)
        m.submodules.check = check = Signature(words=len(self.i.payload) // 64)
        m.submodules.states = states = memory.Memory(
            shape=64 * load_rows, depth=self._groups, init=[]
        )
        state_read = states.read_port(domain="comb")
        state_write = states.write_port()

        # Position: tap and lane word inside the tile loop, group of rows inside the tile.
        tap = Signal(6)
        last_tap = Signal(6)
        word = Signal(isa.WORD_BITS)
        words_after = Signal(signed(isa.WORD_BITS + 1))  # minus one
        last_word = words_after[-1]
        group = Signal(range(self._groups))
        first_group = Signal()
        last_group = Signal()
        m.d.comb += [
            tiles.start.eq(self.start),
            check.clear.eq(self.start),
            self.check_value.eq(check.value),
        ]
        m.d.sync += last_tap.eq(self.kernel * self.kernel - 1)

        # Masks: a word holds those of one or more groups of rows, lowest bits first. A step's share
        # of a word is counted in units of what it takes with one stored bit of eight.
        unit = width // GROUP
        units = len(self.i.payload) // unit
        place = Signal(range(units))
        step = GROUP >> self.free
        last_place = Signal()  # the word's last share
        shadow_full = Signal()
        take = Signal()
        finish = Signal()
        m.d.comb += [
            take.eq(~self.done & ~(shadow_full & ~self.release & first_group) & self.i.valid),
            finish.eq(take & last_group),
            self.full.eq((shadow_full & ~self.release) | finish),
            self.i.ready.eq(take & last_place),
            check.data.eq(self.i.payload),
            check.en.eq(self.i.ready),
        ]
        m.d.sync += shadow_full.eq(self.full & ~self.start)

        # Row states: chained jumps in the first tile of a block, else the RAM.
        chain = Signal(64)  # start state of the group's first row
        block_start = Signal(64)
        first = Signal()
        m.d.comb += [first.eq((tap == 0) & (word == 0)), state_read.addr.eq(group)]
        starts = [chain]
        for n in range(1, load_rows + 1):
            jumped = Signal(64, name=f"jumped{n}")
            m.d.comb += jumped.eq(_product(lfsr.jump_matrix(n * lfsr.CHANNEL_JUMP), chain))
            starts.append(jumped)
        next_group = starts.pop()
        # A 64-bit sign word serves 64 // lanes lane words; step after the last one used.
        share = exact_log2(64 // lanes)
        step_state = Signal()
        m.d.comb += [
            step_state.eq(last_word | (word[:share] == (1 << share) - 1) if share else 1),
            state_write.addr.eq(group),
            state_write.en.eq(take),
        ]
        signs, freezes = Signal(width), Signal(width)
        for n, start in enumerate(starts):
            state, freeze = Signal(64, name=f"state{n}"), Signal(64, name=f"freeze{n}")
            following = Mux(self.frozen, leap(freeze), freeze)
            m.d.comb += [
                state.eq(Mux(first, start, state_read.data.word_select(n, 64))),
                freeze.eq(leap(state)),
                state_write.data.word_select(n, 64).eq(Mux(step_state, following, state)),
            ]
            for bits, source in ((signs, state), (freezes, freeze)):
                part = source.word_select(word[:share], lanes) if share else source
                m.d.comb += bits.word_select(n, lanes).eq(part)

        # The way to the shadow tile.
        m.submodules.expander = expander = Expander(width=width)
        taken = Signal()
        taken_group = Signal.like(group)
        place_bits = Cat(Const(0, exact_log2(unit)), place)
        m.d.comb += expander.free.eq(self.free)
        m.d.sync += [
            taken.eq(take),
            taken_group.eq(group),
            expander.stored.eq(self.i.payload.bit_select(place_bits, width)),
            expander.sign.eq(signs),
            expander.freeze.eq(freezes),
            self.load.eq(taken),
            self.group.eq(taken_group),
            self.mask.eq(expander.mask),
            self.negative.eq(expander.mask & expander.sign),
        ]

        with m.If(self.start):
            m.d.sync += [
                self.done.eq(0),
                tap.eq(0),
                word.eq(0),
                words_after.eq(self.in_words - 2),
                group.eq(0),
                first_group.eq(1),
                last_group.eq(self._groups == 1),
                place.eq(0),
                last_place.eq(step == units),
                chain.eq(self.seed),
                block_start.eq(self.seed),
            ]
        with m.Elif(take):
            # Shares are powers of two, so the last one has all higher bits of its place set.
            after = Signal.like(place)
            m.d.comb += after.eq(place + step)
            m.d.sync += [
                group.eq(group + 1),
                first_group.eq(last_group),
                last_group.eq((group == self._groups - 2) | (self._groups == 1)),
                place.eq(after),
                last_place.eq((after | (step - 1)) == units - 1),
            ]
            with m.If(first):
                m.d.sync += chain.eq(next_group)
            with m.If(last_group):
                m.d.sync += [group.eq(0), word.eq(word + 1), words_after.eq(words_after - 1)]
                with m.If(last_word):
                    m.d.sync += [word.eq(0), words_after.eq(self.in_words - 2), tap.eq(tap + 1)]
                    with m.If(tap == last_tap):
                        m.d.comb += tiles.step.eq(1)
                        m.d.sync += tap.eq(0)
                        # The next pixel tile of this block replays its streams.
                        following = Signal(64)
                        m.d.comb += following.eq(Mux(first, next_group, chain))
                        with m.If(tiles.last_tile):
                            m.d.sync += [block_start.eq(following), chain.eq(following)]
                        with m.Else():
                            m.d.sync += chain.eq(block_start)
                        with m.If(tiles.last):
                            m.d.sync += self.done.eq(1)
        return m
