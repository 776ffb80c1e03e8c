# SPDX-License-Identifier: Apache-2.0
"""Instruction IMAGE: reads an image and unfolds it for the stem (docs/spec.md 4.1 and 6)."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hiddenfold.hw import isa
from hiddenfold.hw.axi import COMMAND
from hiddenfold.hw.image import PIXEL_BITS, PixelReader


class Unfold(wiring.Component):
    """Writes ``out[y, x, (ky*K + kx)*3 + c]`` for each pixel, lane words in ascending order.

    The image is scanned once, with ``K // 2`` columns and rows of zeros behind its right and lower
    edge; the zeros behind a row are also those before the next one. A window of shift registers
    follows the scan. An image takes ``(in_h + K//2) * (in_w + K//2)`` cycles, ``out_words - 1``
    more for each output pixel, and the memory's latency.

    Parameters
    ----------
    lanes, bus_bits, act_addr_bits
        Shape of activation words, bus and activation memory.
    image_width
        Largest ``in_w``.
    stem_kernel
        Largest ``kernel``.
    addr_bits
        Width of addresses in external memory.

    Members
    -------
    start
        Begin; the fields of the instruction and ``address`` (first image byte) must be valid from
        this cycle until ``done``. ``out_w`` follows from the other fields and is not looked at.
        ``top`` rows of the image lie above the centre of the first output row; rows that are read
        beyond the ``out_h`` output rows are only halo.
    done
        Pulse, not before the last write.
    next_address
        First byte behind the image, valid with ``done`` and until the next ``start``.
    cmd, data
        Read port of :class:`hiddenfold.hw.axi.ReadChannel`.
    act_w_en, act_w_addr, act_w_data
        Writes whole activation words; lanes beyond the last channel are 0, and all without a write.
    """

    def __init__(
        self,
        *,
        lanes: int,
        bus_bits: int,
        image_width: int,
        stem_kernel: int,
        act_addr_bits: int,
        addr_bits: int = 32,
    ):
        if bus_bits not in (64, 128):
            raise ValueError(f"bus bits must be 64 or 128, not {bus_bits!r}")
        if stem_kernel not in (1, 3, 5, 7):
            raise ValueError(f"stem kernel must be 1, 3, 5 or 7, not {stem_kernel!r}")
        if image_width < 1:
            raise ValueError(f"image width must be at least 1, not {image_width!r}")
        self._lanes = lanes
        self._bus_bits = bus_bits
        self._image_width = image_width
        self._stem_kernel = stem_kernel
        super().__init__(
            {
                "start": In(1),
                "kernel": In(4),
                "stride": In(4),
                "in_h": In(isa.MAP_BITS),
                "in_w": In(isa.MAP_BITS),
                "out_h": In(isa.MAP_BITS),
                "out_w": In(isa.MAP_BITS),
                "top": In(4),
                "out_words": In(isa.WORD_BITS),
                "dst": In(act_addr_bits),
                "address": In(addr_bits),
                "done": Out(1),
                "next_address": Out(addr_bits),
                "cmd": Out(stream.Signature(COMMAND)),
                "data": In(stream.Signature(bus_bits)),
                "act_w_en": Out(1),
                "act_w_addr": Out(act_addr_bits),
                "act_w_data": Out(lanes * 8),
            }
        )

    def elaborate(self, platform):
        m = Module()
        size = self._stem_kernel
        m.submodules.reader = reader = PixelReader(bus_bits=self._bus_bits)
        wiring.connect(m, reader.cmd, wiring.flipped(self.cmd))
        wiring.connect(m, wiring.flipped(self.data), reader.data)
        m.d.comb += [
            reader.start.eq(self.start),
            reader.address.eq(self.address),
            reader.in_h.eq(self.in_h),
            reader.in_w.eq(self.in_w),
            self.next_address.eq(reader.next_address),
        ]

        # Position of the scan.
        pad = Signal(2)
        first_row = Signal(4)  # of the scan that completes windows
        rows_left = Signal(isa.MAP_BITS)  # output rows that have not begun
        scanning = Signal()
        col = Signal(isa.MAP_BITS + 1)
        row = Signal(isa.MAP_BITS + 1)
        last_col = Signal(isa.MAP_BITS + 1)
        last_row = Signal(isa.MAP_BITS + 1)
        # Columns and rows of the image after this one: negative in the zeros behind it.
        cols_after = Signal(signed(isa.MAP_BITS + 2))
        rows_after = Signal(signed(isa.MAP_BITS + 2))
        col_skip = Signal()  # the centre's column is left out by stride 2
        row_skip = Signal()
        col_real = Signal()
        real = Signal()
        above = Signal(max(1, size - 1))  # bit i: the row i+1 above is in the image
        emitting = Signal()  # the row of the scan completes windows
        advance = Signal()
        step = Signal()
        m.d.comb += [
            pad.eq(self.kernel >> 1),
            first_row.eq(pad + self.top),
            col_real.eq(~cols_after[-1]),
            real.eq(col_real & ~rows_after[-1]),
            reader.o.ready.eq(scanning & real & advance),
            step.eq(scanning & advance & (reader.o.valid | ~real)),
            emitting.eq((row >= first_row) & ((self.stride == 1) | ~row_skip) & (rows_left != 0)),
        ]
        with m.If(step):
            m.d.sync += [
                col.eq(col + 1),
                cols_after.eq(cols_after - 1),
                col_skip.eq((col >= pad) & ~col_skip),
            ]
            with m.If(col == last_col):
                m.d.sync += [
                    col.eq(0),
                    cols_after.eq(self.in_w - 1),
                    col_skip.eq(0),
                    row.eq(row + 1),
                    rows_after.eq(rows_after - 1),
                    row_skip.eq((row >= first_row) & ~row_skip),
                    rows_left.eq(rows_left - emitting),
                    above.eq(Cat(Const(1, 1), above)),
                    scanning.eq(row != last_row),
                ]
        with m.If(self.start):
            m.d.sync += [
                scanning.eq(1),
                col.eq(0),
                row.eq(0),
                cols_after.eq(self.in_w - 1),
                rows_after.eq(self.in_h - 1),
                col_skip.eq(0),
                row_skip.eq(0),
                rows_left.eq(self.out_h),
                above.eq(0),
                last_col.eq(self.in_w + pad - 1),
                last_row.eq(self.in_h + pad - 1),
            ]

        # Stage 1: the pixel, and those above it from the line buffers.
        valid_1 = Signal()
        emit_1 = Signal()
        col_real_1 = Signal()
        col_1 = Signal.like(col)
        above_1 = Signal.like(above)
        pixel_1 = Signal(PIXEL_BITS)
        with m.If(step):
            m.d.sync += [
                valid_1.eq(1),
                emit_1.eq(emitting & (col >= pad) & ((self.stride == 1) | ~col_skip)),
                col_real_1.eq(col_real),
                col_1.eq(col),
                above_1.eq(above),
                pixel_1.eq(Mux(real, reader.o.payload, 0)),
            ]
        with m.Elif(advance):
            m.d.sync += valid_1.eq(0)
        shift = Signal()
        m.d.comb += shift.eq(valid_1 & advance)
        column = [pixel_1] + self._lines(m, col, step, pixel_1, col_1, shift & col_real_1)

        # Stage 2: window[i][j] is the pixel i rows above and j columns before the newest one.
        # What an earlier image left in it has gone when row ``pad`` emits the first pixel.
        window = [
            [Signal(PIXEL_BITS, name=f"window_{i}_{j}", reset_less=True) for j in range(size)]
            for i in range(size)
        ]
        emit_2 = Signal()
        with m.If(shift):
            for i, (newest, line) in enumerate(zip(column, window, strict=True)):
                for pixel, before in zip(line, [newest, *line], strict=False):
                    m.d.sync += pixel.eq(before)
                if i:
                    with m.If(~(above_1[i - 1] & col_real_1)):
                        m.d.sync += line[0].eq(0)
        with m.If(advance):
            m.d.sync += emit_2.eq(valid_1 & emit_1)

        # Output words.
        word = Signal(isa.WORD_BITS)
        words_after = Signal(signed(isa.WORD_BITS + 1))  # minus one
        address = Signal.like(self.act_w_addr)
        m.d.comb += advance.eq(~emit_2 | words_after[-1])
        self._emit(m, window, word, emit_2)
        m.d.sync += [self.act_w_en.eq(emit_2), self.act_w_addr.eq(address)]
        with m.If(emit_2):
            m.d.sync += [
                address.eq(address + 1),
                word.eq(Mux(advance, 0, word + 1)),
                words_after.eq(Mux(advance, self.out_words - 2, words_after - 1)),
            ]
        with m.If(self.start):
            m.d.sync += [address.eq(self.dst), word.eq(0), words_after.eq(self.out_words - 2)]

        busy = Signal()
        m.d.comb += self.done.eq(busy & reader.finished & ~(scanning | valid_1 | emit_2))
        with m.If(self.start):
            m.d.sync += busy.eq(1)
        with m.Elif(self.done):
            m.d.sync += busy.eq(0)
        return m

    def _lines(self, m, read_col, read_en, newest, write_col, write_en) -> list:
        """Return the pixels 1, 2, .. rows above, a cycle after ``read_en``; store the column."""
        count = self._stem_kernel - 1
        if count == 0:
            return []
        m.submodules.lines = lines = memory.Memory(
            shape=PIXEL_BITS * count,
            depth=self._image_width,
            init=[],
            # Only without padding may the column that is stored be the one that is read; then the
            # kernel is 1, and nobody looks at the lines.
            attrs={"no_rw_check": 1},
        )
        read = lines.read_port()
        write = lines.write_port()
        m.d.comb += [
            read.en.eq(read_en),
            read.addr.eq(read_col),
            write.en.eq(write_en),
            write.addr.eq(write_col),
            write.data.eq(Cat(newest, read.data)),  # each line moves up by one
        ]
        return [read.data.word_select(i, PIXEL_BITS) for i in range(count)]

    def _emit(self, m, window, word, enable) -> None:
        """Write output word ``word`` of the window for the instruction's kernel.

        Each word of each kernel has registers of its own, cleared unless it is the one: an OR of
        them is half the look-up tables of a multiplexer.
        """
        lanes = len(self.act_w_data)
        choices = []
        for kernel in range(1, self._stem_kernel + 1, 2):
            channels = Cat(
                window[kernel - 1 - ky][kernel - 1 - kx]
                for ky in range(kernel)
                for kx in range(kernel)
            )
            for number in range(-(-len(channels) // lanes)):
                part = channels[number * lanes : (number + 1) * lanes]
                choice = Signal(len(part), name=f"choice_{kernel}_{number}", reset_less=True)
                m.d.sync += choice.eq(0)
                with m.If(enable & (self.kernel == kernel) & (word == number)):
                    m.d.sync += choice.eq(part)
                choices.append(choice)
        m.d.comb += self.act_w_data.eq(reduce(or_, choices))
