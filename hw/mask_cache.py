# SPDX-License-Identifier: Apache-2.0
"""Recurrent mask cache: each mask bit comes from memory once, however often it is used."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hiddenfold.hw.loops import LOOP_BOUNDS, TileCounter

#: Units of the field ``cache`` in bits.
PLACE_BITS = 512


class MaskCache(wiring.Component):
    """Passes mask words on; those of a ``cached`` layer are kept and come from here afterwards.

    The layer's masks are needed once for each pixel tile of each block. The words of a block's
    first pixel tile are taken from ``i`` and kept, unless the layer is ``repeated``: then, and in
    the block's other pixel tiles, they come from the cache (docs/spec.md section 6).

    A word is offered two cycles after it was taken; one word a cycle, also from one source to the
    other. There is no room for less than the cache holds: places count modulo its size.

    Parameters
    ----------
    mask_bits
        Width of a mask word.
    size
        Bytes, a power of two.

    Members
    -------
    start
        Begin a layer; the fields below are stable from this cycle to its last word.
    cached, cache, count
        Use the cache; place of the layer's masks in units of 64 bytes; 64-bit words a block.
    repeated
        A former iteration has left the masks in the cache.
    i, o
        Mask words.
    """

    def __init__(self, *, mask_bits: int, size: int):
        self._size = size
        super().__init__(
            {
                **LOOP_BOUNDS,
                "start": In(1),
                "cached": In(1),
                "cache": In(16),
                "count": In(32),
                "repeated": In(1),
                "i": In(stream.Signature(mask_bits)),
                "o": Out(stream.Signature(mask_bits)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        mask_bits = len(self.i.payload)
        m.submodules.tiles = tiles = TileCounter()
        tiles.connect_bounds(m, self)
        # There is a read or a write in a cycle, never both.
        words = memory.Memory(
            shape=mask_bits,
            depth=self._size * 8 // mask_bits,
            init=[],
            attrs={"no_rw_check": 1},
        )
        m.submodules.words = words
        write = words.write_port()
        read = words.read_port()

        # Walk over the words of each pixel tile.
        running = Signal()
        kept = Signal()  # this pixel tile's words are in the cache
        base, address = Signal.like(read.addr), Signal.like(read.addr)
        words_after = Signal(signed(25))  # of the pixel tile, minus one
        take = Signal()
        m.d.comb += [
            kept.eq(self.cached & (self.repeated | tiles.again)),
            tiles.start.eq(self.start),
            tiles.step.eq(take & words_after[-1]),
        ]
        most_after = (self.count >> exact_log2(mask_bits // 64))[:24] - 2
        with m.If(self.start):
            place = self.cache << exact_log2(PLACE_BITS // mask_bits)
            m.d.sync += [
                running.eq(1),
                words_after.eq(most_after),
                base.eq(place),
                address.eq(place),
            ]
        with m.Elif(tiles.step):
            m.d.sync += [
                words_after.eq(most_after),
                address.eq(base),
                running.eq(~tiles.last),
            ]
            with m.If(tiles.last_tile):
                m.d.sync += [base.eq(address + 1), address.eq(address + 1)]
        with m.Elif(take):
            m.d.sync += [words_after.eq(words_after - 1), address.eq(address + 1)]

        # The memory's read stage, which words from outside pass as well, and the output register
        # with a spare one: so a word is taken whether or not one leaves.
        spare = Signal(mask_bits, reset_less=True)
        spare_full = Signal()
        held = Signal()
        held_kept = Signal()
        held_word = Signal(mask_bits)
        move = Signal()
        free = Signal()
        m.d.comb += [
            move.eq(held & ~spare_full),
            free.eq(running & (~held | move)),
            take.eq(free & (kept | self.i.valid)),
            self.i.ready.eq(free & ~kept),
            read.en.eq(take & kept),
            read.addr.eq(address),
            write.en.eq(take & ~kept & self.cached),
            write.addr.eq(address),
            write.data.eq(self.i.payload),
        ]
        with m.If(take):
            m.d.sync += [held.eq(1), held_kept.eq(kept), held_word.eq(self.i.payload)]
        with m.Elif(move):
            m.d.sync += held.eq(0)
        arrived = Mux(held_kept, read.data, held_word)
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += [
                self.o.payload.eq(Mux(spare_full, spare, arrived)),
                self.o.valid.eq(spare_full | held),
                spare_full.eq(0),
            ]
        with m.Elif(move):
            m.d.sync += [spare.eq(arrived), spare_full.eq(1)]
        return m
