# SPDX-License-Identifier: Apache-2.0
"""Streams the pixels of each tile past the array, one a cycle."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hiddenfold.hw import isa
from hiddenfold.hw.rectangle import rectangle_layout


class PixelStreamer(wiring.Component):
    """For each rectangle, lane word, bit-plane pass, image: reads each pixel's word.

    A *slot* is a cycle in which ``slot`` is high. A pass starts when its tile of weights is in the
    array's shadow and, for the first pass of a pixel tile, when a partial-sum bank is free; then it
    runs without a pause. An empty rectangle takes one slot without a pixel.

    Members
    -------
    start
        Begin a layer: forget the state of the banks.
    i
        Rectangles (``rectangle_layout``).
    image_words
        Words from an image of the input tensor to the next, long before the second image.
    shadow_full
        The shadow tile may be used by a pass that is loaded in this cycle. ``release`` tells in the
        first slot of a tile that it is taken, so that ``shadow_full`` is low.
    drained
        A partial-sum bank was read out and is free again.
    slot, valid, address, index, bank, overwrite, pass_, swap, end
        Description of the slot: ``valid`` a pixel is read at ``address``, ``index`` its number in
        the pixel tile, ``overwrite`` it starts a new sum, ``swap`` first slot of a tile, ``end``
        last slot of the pixel tile.
    tile_stall, drain_stall
        A pass is held back by a missing tile; by a missing bank.
    overflow
        The address lies outside the memory.
    """

    def __init__(self, *, address_bits: int, index_bits: int):
        self._address_bits = address_bits
        self._index_bits = index_bits
        super().__init__(
            {
                "start": In(1),
                "stride": In(4),
                "passes": In(4),
                "in_words": In(isa.WORD_BITS),
                "in_w": In(isa.MAP_BITS),
                "out_h": In(isa.MAP_BITS),
                "out_w": In(isa.MAP_BITS),
                "image_words": In(address_bits + 1),
                "gap": In(1),
                "i": In(stream.Signature(rectangle_layout(address_bits, index_bits))),
                "shadow_full": In(1),
                "release": Out(1),
                "drained": In(1),
                "slot": Out(1),
                "valid": Out(1),
                "address": Out(address_bits),
                "index": Out(index_bits),
                "bank": Out(1),
                "overwrite": Out(1),
                "pass_": Out(3),
                "swap": Out(1),
                "end": Out(1),
                "tile_stall": Out(1),
                "drain_stall": Out(1),
                "overflow": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        # Steps between pixels and rows; registered long before the first pixel can start.
        column_step = Signal(self._address_bits + 1)
        row_pitch = Signal(self._address_bits + 1)
        row_step = Signal(self._address_bits + 1)
        image_pixels = Signal(self._index_bits)
        double = self.stride == 2
        m.d.sync += [
            column_step.eq(Mux(double, self.in_words << 1, self.in_words)),
            row_pitch.eq(self.in_w * self.in_words),
            row_step.eq(Mux(double, row_pitch << 1, row_pitch)),
            image_pixels.eq(self.out_h * self.out_w),
        ]

        # The rectangle in work, and the next pass of it.
        rectangle = Signal(self.i.p.shape())
        have = Signal()
        word = Signal(isa.WORD_BITS)
        pass_ = Signal(3)
        # All counts of what comes after are one less: their sign tells the last of each.
        words_after = Signal(signed(isa.WORD_BITS + 1))
        passes_after = Signal(signed(5))
        first_word, first_pass = Signal(), Signal()
        last_word, last_pass = words_after[-1], passes_after[-1]
        begin = rectangle.first & first_word & first_pass
        opened = Signal(range(3))  # partial-sum banks in use
        wait = Signal(range(isa.PIXEL_SPACING))  # cycles left in which a pixel may not come again
        load = Signal()
        finished = Signal()  # the rectangle's last pass is loaded in this cycle
        columns, rows, maps = (Signal.like(rectangle[name]) for name in ("cols", "rows", "maps"))
        slot_last = Signal()
        tile_missing = first_pass & ~self.shadow_full
        bank_missing = begin & (opened == 2)
        free = ~self.slot | slot_last
        ready = free & have & ~(self.gap & (self.slot | (wait != 0)))
        m.d.comb += [
            slot_last.eq(columns[-1] & rows[-1] & maps[-1]),
            load.eq(ready & ~tile_missing & ~bank_missing),
            finished.eq(load & last_pass & last_word),
            self.tile_stall.eq(ready & tile_missing & ~bank_missing),
            self.drain_stall.eq(ready & bank_missing),
            self.i.ready.eq(~have | finished),
        ]
        with m.If(self.i.ready):
            m.d.sync += [have.eq(self.i.valid), rectangle.eq(self.i.payload)]
        with m.If(load):
            m.d.sync += [
                pass_.eq(pass_ + 1),
                passes_after.eq(passes_after - 1),
                first_pass.eq(last_pass),
            ]
            with m.If(last_pass):
                m.d.sync += [
                    pass_.eq(0),
                    passes_after.eq(self.passes - 2),
                    word.eq(word + 1),
                    words_after.eq(words_after - 1),
                    first_word.eq(last_word),
                ]
                with m.If(last_word):
                    m.d.sync += [word.eq(0), words_after.eq(self.in_words - 2)]

        with m.If(self.slot):
            m.d.sync += wait.eq(isa.PIXEL_SPACING - 1)
        with m.Elif(wait != 0):
            m.d.sync += wait.eq(wait - 1)

        # The walk over the pixels of a pass.
        width = self._address_bits + 1
        address, row_address, image_address = Signal(width), Signal(width), Signal(width)
        row_index, image_index = Signal(self._index_bits), Signal(self._index_bits)
        width_after, height_after = Signal.like(columns), Signal.like(rows)  # of the pass in work
        end_pass = Signal()
        m.d.comb += [
            self.address.eq(address),
            self.overflow.eq(self.valid & address[-1]),
            self.release.eq(self.swap),
            self.end.eq(self.slot & slot_last & end_pass),
        ]
        m.d.sync += self.swap.eq(load & first_pass)
        with m.If(load):
            start = rectangle.address + word
            m.d.sync += [
                self.slot.eq(1),
                self.valid.eq(~rectangle.empty),
                address.eq(start),
                row_address.eq(start),
                image_address.eq(start),
                self.index.eq(rectangle.index),
                row_index.eq(rectangle.index),
                image_index.eq(rectangle.index),
                columns.eq(Mux(rectangle.empty, -1, rectangle.cols)),
                rows.eq(Mux(rectangle.empty, -1, rectangle.rows)),
                maps.eq(Mux(rectangle.empty, -1, rectangle.maps)),
                width_after.eq(rectangle.cols),
                height_after.eq(rectangle.rows),
                self.pass_.eq(pass_),
                self.overwrite.eq(begin),
                end_pass.eq(rectangle.last & last_word & last_pass),
                self.bank.eq(self.bank ^ begin),
            ]
        with m.Elif(slot_last):
            m.d.sync += [self.slot.eq(0), self.valid.eq(0)]
        with m.Elif(self.slot):
            with m.If(columns[-1] & rows[-1]):
                m.d.sync += [
                    address.eq(image_address + self.image_words),
                    row_address.eq(image_address + self.image_words),
                    image_address.eq(image_address + self.image_words),
                    self.index.eq(image_index + image_pixels),
                    row_index.eq(image_index + image_pixels),
                    image_index.eq(image_index + image_pixels),
                    columns.eq(width_after),
                    rows.eq(height_after),
                    maps.eq(maps - 1),
                ]
            with m.Elif(columns[-1]):
                m.d.sync += [
                    address.eq(row_address + row_step),
                    row_address.eq(row_address + row_step),
                    self.index.eq(row_index + self.out_w),
                    row_index.eq(row_index + self.out_w),
                    columns.eq(width_after),
                    rows.eq(rows - 1),
                ]
            with m.Else():
                m.d.sync += [
                    address.eq(address + column_step),
                    self.index.eq(self.index + 1),
                    columns.eq(columns - 1),
                ]

        m.d.sync += opened.eq(opened + (load & begin) - self.drained)
        with m.If(self.start):
            # The first pixel tile toggles to bank 0.
            m.d.sync += [
                opened.eq(0),
                self.bank.eq(1),
                have.eq(0),
                word.eq(0),
                pass_.eq(0),
                words_after.eq(self.in_words - 2),
                passes_after.eq(self.passes - 2),
                first_word.eq(1),
                first_pass.eq(1),
            ]
        return m
