# SPDX-License-Identifier: Apache-2.0
"""Which output pixels a kernel tap reaches: padding is skipped, not multiplied."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hiddenfold.hw import isa
from hiddenfold.hw.loops import LOOP_BOUNDS, TileCounter


def rectangle_layout(address_bits: int, index_bits: int) -> data.StructLayout:
    """Return the layout of a rectangle of output pixels that one tap reaches in a pixel tile.

    ``address``: activation word of the first pixel, lane word 0 (one guard bit on top).
    ``index``: its number in the pixel tile. ``maps``, ``rows``, ``cols``: images, and size of the
    rectangle in each of them, minus two: what comes after the first, negative if nothing does.
    ``empty``: the tap reaches no pixel. ``first``, ``last``: tap of the pixel tile.
    """
    return data.StructLayout(
        {
            "address": address_bits + 1,
            "index": index_bits,
            "maps": signed(9),
            "rows": signed(isa.MAP_BITS + 1),
            "cols": signed(isa.MAP_BITS + 1),
            "empty": 1,
            "first": 1,
            "last": 1,
        }
    )


class TapWalker(wiring.Component):
    """Walks blocks, pixel tiles and taps (centre first) and emits a rectangle for each.

    A rectangle takes 8 cycles; the next one is made while the receiver works on the last.

    Parameters
    ----------
    address_bits, index_bits
        Width of activation addresses and of pixel numbers in a tile.

    Members
    -------
    start
        Begin a layer; all other inputs are stable from the cycle before to the end.
    image_words
        Words from an image of the input tensor to the next, from the 3rd cycle after ``start``.
    o
        Rectangles; layout ``rectangle_layout``.
    """

    def __init__(self, *, address_bits: int, index_bits: int):
        self._address_bits = address_bits
        super().__init__(
            {
                **LOOP_BOUNDS,
                "start": In(1),
                "kernel": In(4),
                "stride": In(4),
                "in_words": In(isa.WORD_BITS),
                "in_h": In(isa.MAP_BITS),
                "in_w": In(isa.MAP_BITS),
                "out_w": In(isa.MAP_BITS),
                "top": In(4),
                "src": In(32),
                "image_words": Out(address_bits + 1),
                "o": Out(stream.Signature(rectangle_layout(address_bits, index_bits))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.tiles = tiles = TileCounter()
        tiles.connect_bounds(m, self)
        m.d.comb += tiles.start.eq(self.start)

        # The first image of the pixel tile. The products are made before they are first used.
        base = Signal(self._address_bits + 1)
        map_pixels, group_words = Signal.like(base), Signal.like(base)
        m.d.sync += [
            map_pixels.eq(self.in_h * self.in_w),
            self.image_words.eq(map_pixels * self.in_words),
            group_words.eq(self.image_words * self.tile_images),
        ]
        with m.If(self.start | (tiles.step & tiles.last_tile)):
            m.d.sync += base.eq(self.src)
        with m.Elif(tiles.step & tiles.last_rows):
            m.d.sync += base.eq(base + group_words)

        centre = self.kernel[1:]  # (K - 1) / 2 for odd K
        at_centre = Signal()
        # The tap: rows below that of the first output row, columns to the right of the centre.
        dy = Signal(signed(6))
        dx = Signal(signed(5))
        last_column = dx == centre
        last_tap = Signal()
        m.d.comb += last_tap.eq(
            Mux(at_centre, centre == 0, (dy == self.top + centre) & last_column)
        )

        def span(offset, low, count, size):
            """Return (start, end) of the output positions whose input lies inside."""
            missing = (-offset).as_signed()
            start = Mux(self.stride == 2, (missing + 1) >> 1, missing)
            start = Mux(start > low, start, low)
            room = size - 1 - offset
            end = Mux(self.stride == 2, (room >> 1) + 1, room + 1)
            stop = low + count
            return start, Mux(end < stop, end, stop)

        span_shape = signed(isa.MAP_BITS + 3)
        y0, y1, x0, x1 = (Signal(span_shape, name=name) for name in ("y0", "y1", "x0", "x1"))
        in_y, in_x, pixel = Signal(isa.MAP_BITS), Signal(isa.MAP_BITS), Signal.like(base)
        line = Signal(isa.MAP_BITS)  # of the pixel tile
        # Products have a cycle of their own.
        above, before = Signal.like(base), Signal.like(self.o.p.index)
        words = Signal.like(base)
        o = self.o.p
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += [at_centre.eq(1), dy.eq(self.top), dx.eq(0)]
                    m.next = "BEGIN"
            with m.State("BEGIN"):
                m.next = "SPAN"
            with m.State("SPAN"):
                rows = span(dy, tiles.row, tiles.rows, self.in_h)
                cols = span(dx, 0, self.out_w, self.in_w)
                m.d.sync += [y0.eq(rows[0]), y1.eq(rows[1]), x0.eq(cols[0]), x1.eq(cols[1])]
                m.next = "INPUT"
            with m.State("INPUT"):
                m.d.sync += [
                    in_y.eq(Mux(self.stride == 2, y0 << 1, y0) + dy),
                    in_x.eq(Mux(self.stride == 2, x0 << 1, x0) + dx),
                    line.eq(y0 - tiles.row),
                    o.rows.eq(y1 - y0 - 2),
                    o.cols.eq(x1 - x0 - 2),
                    o.empty.eq((y1 <= y0) | (x1 <= x0)),
                    o.first.eq(at_centre),
                    o.last.eq(last_tap),
                ]
                m.next = "LINES"
            with m.State("LINES"):
                m.d.sync += [above.eq(in_y * self.in_w), before.eq(line * self.out_w)]
                m.next = "PIXEL"
            with m.State("PIXEL"):
                m.d.sync += [pixel.eq(above + in_x), o.index.eq(before + x0)]
                m.next = "WORDS"
            with m.State("WORDS"):
                m.d.sync += words.eq(pixel * self.in_words)
                m.next = "ADDRESS"
            with m.State("ADDRESS"):
                m.d.sync += [o.address.eq(base + words), o.maps.eq(tiles.maps - 2)]
                m.next = "OUT"
            with m.State("OUT"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.next = "STEP"
            with m.State("STEP"):
                m.next = "SPAN"
                with m.If(o.last):
                    m.d.comb += tiles.step.eq(1)
                    m.d.sync += [at_centre.eq(1), dy.eq(self.top), dx.eq(0)]
                    with m.If(tiles.last):
                        m.next = "IDLE"
                with m.Elif(at_centre):
                    m.d.sync += [at_centre.eq(0), dy.eq(self.top - centre), dx.eq(-centre)]
                with m.Elif(last_column):
                    m.d.sync += [dy.eq(dy + 1), dx.eq(-centre)]
                with m.Else():
                    # Step over the centre; a tap to its right always exists.
                    skip = (dy == self.top) & (dx == -1)
                    m.d.sync += dx.eq(dx + 1 + skip)
        return m
